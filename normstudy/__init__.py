"""What a normalisation layer changes in a small CNN, as tracked MLflow runs."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`normstudy.compare`, without its imports for whoever doesn't ask for it: they take 3 s."""
    if name == "compare":
        from normstudy.comparison import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
