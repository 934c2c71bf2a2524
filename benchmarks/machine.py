"""Where and with what the suite ran."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from normstudy.provenance import usable_cores

LIBRARIES = ("torch", "torchvision", "mlflow", "lightning")


def machine() -> dict[str, str]:
    """Processor, usable cores, memory and operating system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "usable cores": str(usable_cores()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "operating system": f"{distribution()}, {platform.system()} {platform.release()}",
    }


def processor() -> str:
    """The model's name as the kernel gives it, else the architecture."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def distribution() -> str:
    """Name and version of the operating system's distribution."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.platform()


def versions() -> dict[str, str]:
    """Version of Python and of each library that a contender uses."""
    found = {"Python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found
