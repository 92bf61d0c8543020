"""The web page of a session."""
