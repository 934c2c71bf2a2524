"""normstudy: what a normalisation layer changes in a small CNN, measured as tracked MLflow runs."""
