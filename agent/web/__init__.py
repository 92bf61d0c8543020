"""The web interface of live and recorded sessions."""
