"""What every contender measures in the same way. Imports nothing heavy: imports are part of what is measured."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

STARTED = float(
    os.environ.get("BENCHMARK_STARTED", time.time())
)  # seconds since 1970; whoever starts a process sets it
RESIDENT_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss
BATCH_SIZE = 32
ROTATION, TRANSLATION, SCALE = 10.0, 2.0, 0.1  # degrees, pixels, fraction: the defaults of TrainConfig, a test compares
STILL = {"rotation": 0.0, "translation": 0.0, "scale": 0.0}  # settings without augmentation
WARM_UP_STEPS = 50  # of the contenders whose first epoch is cut short


def startup_seconds() -> float:
    """Seconds since this process was started."""
    return time.time() - STARTED


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peak_bytes() -> int:
    """Largest resident size so far of this process, or of its largest child that has ended."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in whose) * RESIDENT_UNIT


def print_result(**measured: Any) -> None:
    """The contender's one line of JSON, the last of its output."""
    print(json.dumps({**measured, "peak_bytes": peak_bytes()}), flush=True)
