"""Where work runs: idempotent jobs, several devices, a Ray cluster."""
