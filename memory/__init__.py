"""What is remembered: records, the journal (the truth) and the Chroma index on it."""
