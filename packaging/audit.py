"""Known vulnerabilities of the pinned dependencies, by pip-audit.

    python packaging/audit.py [CONSTRAINTS]

A finding fails. An unreachable service does not, but is reported, since nothing was audited then.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Findings that do not affect us, each with its reason: {"CVE-...": "why"}.
ACCEPTED: dict[str, str] = {}


def main(constraints: Path) -> int:
    words = ["-m", "pip_audit", "--requirement", str(constraints), "--no-deps", "--disable-pip"]
    done = subprocess.run(  # noqa: S603  our own words
        [sys.executable, *words, "--format", "json", "--progress-spinner", "off"],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        say(f"audit: the advisory service is not reachable ({last[0]}): nothing was audited")
        return 0
    return report(packages)


def report(packages: list[dict[str, Any]]) -> int:
    """Report the findings; 1 if one of them is not accepted."""
    audited = [package for package in packages if "skip_reason" not in package]
    found = [
        (package["name"], package["version"], advisory)
        for package in audited
        for advisory in package["vulns"]
        if not {advisory["id"], *advisory.get("aliases", ())} & set(ACCEPTED)
    ]
    for name, version, advisory in found:
        fixed = ", ".join(advisory["fix_versions"]) or "nothing yet"
        say(f"audit: {name} {version}: {advisory['id']}, fixed by {fixed}")
    if not audited:
        say(f"audit: the advisory service is not reachable: none of {len(packages)} packages was audited")
    else:
        say(f"audit: {len(audited)} of {len(packages)} packages audited, {len(found)} findings")
    return 1 if found else 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "constraints.txt"))
