"""What a person asks of the next plans: preferences and the grammar that reads them."""
