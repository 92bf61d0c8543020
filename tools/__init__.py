"""What the agent can do: stages and their plug-ins; knows nothing of any agent framework."""
