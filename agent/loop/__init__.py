"""The agent: the LangGraph graph of a round, its tools and what a brain is shown."""
