"""The agent: settings, sessions, the graph, its brains and planners, and the command line."""
