"""Stages of the loop and their plug-ins; independent of any agent framework."""
