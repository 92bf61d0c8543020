"""The agent: settings, sessions, the graph, its brains and planners, and the command line."""

import os

# Must be set before langgraph is imported: checkpoints then load plain data only.
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")
