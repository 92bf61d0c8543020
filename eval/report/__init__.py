"""What is shown of records: blocks, the ways to draw them, and the report of a session."""
