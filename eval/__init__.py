"""Pure functions over predictions and samples: metrics, slices, credit, pictures, the report."""
