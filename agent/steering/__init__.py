"""Preferences of the user for the next plans, and the grammar that parses them."""
