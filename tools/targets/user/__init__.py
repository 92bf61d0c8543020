"""How a user's own photographs and labels are read, checked and refused."""
