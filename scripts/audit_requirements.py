"""Look the locked requirements up in the advisories of the Python Packaging Advisory Database.

Exit status 1 if a package has a known vulnerability that a newer version mends. Where advisories
cannot be reached, wholly or for some packages, that is said and is no failure: a build without a
network must pass. pip-audit itself ends with "No known vulnerabilities" in that case.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def ask(file: Path, seconds: float) -> tuple[dict[str, Any] | None, str]:
    """Run pip-audit; what it found, or None and what it said."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"]
    command += ["--requirement", str(file), "--format", "json", "--progress-spinner", "off"]
    command += ["--timeout", "8"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return json.loads(done.stdout), ""
    except subprocess.TimeoutExpired:
        return None, f"no answer within {seconds:g} s"
    except ValueError:
        return None, (done.stderr.strip().splitlines() or ["it said nothing"])[-1]


def judge(found: dict[str, Any]) -> tuple[int, list[str]]:
    """Exit status and what is said of the findings."""
    packages = found["dependencies"]
    skipped = [p["name"] for p in packages if "skip_reason" in p]
    lines, status = [], 0
    for package in packages:
        for one in package.get("vulns", []):
            mended = ", ".join(one["fix_versions"])
            said = f"mended in {mended}" if mended else "not mended yet"
            lines.append(f"{package['name']} {package['version']}: {one['id']}, {said}")
            status = 1 if mended else status
    looked_up = len(packages) - len(skipped)
    if not looked_up:
        lines.append(f"advisories could not be reached: none of {len(packages)} packages looked up")
    else:
        lines.append(f"{looked_up} of {len(packages)} packages looked up")
        if skipped:
            lines.append(f"not looked up: {', '.join(skipped)}")
    return status, lines


def main() -> int:
    """Say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "requirements-dev.txt")
    parser.add_argument("--seconds", type=float, default=180, help="for all packages")
    given = parser.parse_args()
    found, said = ask(given.file, given.seconds)
    if found is None:
        print(f"advisories could not be reached ({said}); nothing was looked up")
        return 0
    status, lines = judge(found)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
