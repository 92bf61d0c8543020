"""The agent: the LangGraph graph of a round, its tools, and the messages shown to a brain."""
