"""Reading and validation of a user's own photographs and labels."""
