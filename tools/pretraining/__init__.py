"""Training of generators: MTDMs, domain LoRAs, joint models, and the card of a result."""
