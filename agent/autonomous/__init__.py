"""Sessions that run by themselves, in front of a terminal or in the background."""
