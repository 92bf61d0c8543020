"""Records, the journal of a session, and the Chroma index that is rebuilt from journals."""
