"""The agent: settings, sessions, the graph, its brains and planners, and the command line."""

import os

# Must be set before langgraph is imported: checkpoints then load plain data only, and no trace of
# a session is uploaded because another program of the user wants that.
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
os.environ["LANGSMITH_TRACING"] = os.environ["LANGCHAIN_TRACING_V2"] = "false"
