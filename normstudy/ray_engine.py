"""A study's jobs as tasks of a Ray cluster."""
