"""Presentation of records: blocks, their renderers, and the report of a session."""
