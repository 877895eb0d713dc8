"""Build the `.mcpb` bundle: the package, an entry point, and a project file from which uv installs what it needs.

    python packaging/mcpb/build.py [FOLDER]    # dist by default; needs nothing but Python

The same sources give the same bytes; the digest on standard output is the `fileSha256` of a registry entry.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

# The oldest time that a zip archive can hold: a bundle must not depend on when it was built.
EPOCH = (1980, 1, 1, 0, 0, 0)


def main(folder: Path) -> Path:
    """Write the bundle into `folder` and return its path."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    if (manifest["name"], manifest["version"]) != (project["name"], project["version"]):
        raise SystemExit("manifest.json and pyproject.toml differ in name or version.")
    files = {
        "manifest.json": (HERE / "manifest.json").read_bytes(),
        "pyproject.toml": project_file(project).encode(),
        "server.py": (HERE / "server.py").read_bytes(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
    }
    package = ROOT / "blip2tools"
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            files[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / f"{project['name']}-{project['version']}.mcpb"
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return bundle


def project_file(project: dict[str, Any]) -> str:
    """A project that is not a package: uv installs its dependencies and runs the code where it lies."""
    needs = [*project["dependencies"], *project["optional-dependencies"]["mcp"]]
    lines = [
        "[project]",
        f'name = "{project["name"]}-bundle"',
        f'version = "{project["version"]}"',
        f'requires-python = "{project["requires-python"]}"',
        "dependencies = [",
        *(f"  {json.dumps(need)}," for need in sorted(needs)),
        "]",
        "",
        "[tool.uv]",
        "package = false",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    built = main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist")
    digest = hashlib.sha256(built.read_bytes()).hexdigest()
    sys.stdout.write(f"{built}  sha256 {digest}\n")
