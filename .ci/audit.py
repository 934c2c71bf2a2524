"""Audits every locked package for known vulnerabilities with pip-audit, and says how many it could not audit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCKS = ("requirements-dev.txt", "requirements-cluster.txt", "deploy/requirements.txt")
OPTIONS = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format=json"]
OFFLINE = ("ConnectionError", "Could not connect", "Timeout")  # pip-audit 2.10 has no exit status of its own for it


def verdict(output: str, errors: str) -> tuple[str, int]:
    """What to print of pip-audit's JSON, and the exit status: 1 for a known vulnerability, or when it can't run."""
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except ValueError:
        if any(sign in errors for sign in OFFLINE):
            return "pip-audit: nothing was audited: no connection to the vulnerability data", 0
        return f"pip-audit: failed: {errors}", 1
    flaws = [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'none'}"
        for package in packages
        for flaw in package.get("vulns", [])
    ]
    skipped = sum("skip_reason" in package for package in packages)
    line = f"pip-audit: {len(flaws)} known vulnerabilities in {len(packages) - skipped} audited packages"
    if skipped:
        line += f"; {skipped} of {len(packages)} could not be audited: the index has no data on them"
    return "\n".join([*flaws, line]), int(bool(flaws))


if __name__ == "__main__":
    program = Path(sys.executable).with_name("pip-audit")
    statuses = []
    for lock in LOCKS:
        done = subprocess.run([program, "-r", lock, *OPTIONS], capture_output=True, text=True)
        text, status = verdict(done.stdout, done.stderr)
        print(f"{lock}: {text}")
        statuses.append(status)
    sys.exit(max(statuses))
