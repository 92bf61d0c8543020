"""Evaluation: metrics, slices, credit and discovery as pure functions, pictures, the report."""
