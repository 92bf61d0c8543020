"""A person steers a live session: terminal, plain words, pictures on demand."""
