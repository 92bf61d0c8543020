"""Settings: presets, environment, command line."""
