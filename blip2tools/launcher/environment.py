"""Location of the server's environment, and the Python that can make it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PYTHON = "BLIP2TOOLS_PYTHON"  # a Python that has the server already: nothing is installed
HOME = "BLIP2TOOLS_PLUGIN_HOME"  # folder of the environments
TORCH_INDEX = "BLIP2TOOLS_TORCH_INDEX"  # package index of torch's CPU builds
OWN_VARIABLES = (PYTHON, HOME, TORCH_INDEX)

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST = (3, 11)
NEWEST_TRIED = 14
# The CUDA builds on the package index are for these and newer ones.
OLDEST_GPU, OLDEST_DRIVER = 7.5, 580


@dataclass(frozen=True)
class Environment:
    """One environment, which holds one build of the server.

    Attributes:
        folder: holds all environments, the lock and the log.
        name: of its own folder in there.
        need: the requirement that an installer gets: a wheel, or a name with version and extra.
        given: a Python that is used instead.
    """

    folder: Path
    name: str
    need: str
    given: str | None = None

    @property
    def place(self) -> Path:
        """Folder of the finished environment."""
        return self.folder / self.name

    @property
    def log(self) -> Path:
        """Log of the last installation."""
        return self.folder / "install.log"

    def python(self) -> str | None:
        """Its Python, if the environment is there."""
        if self.given:
            return self.given
        python = python_of(self.place)
        return str(python) if os.access(python, os.X_OK) else None


def python_of(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / "Scripts" / "python.exe" if os.name == "nt" else environment / "bin" / "python"


def has_package(python: str, name: str) -> bool:
    """Whether the environment of a Python holds a package, without starting it.

    Args:
        python: the Python of a virtual environment.
        name: the package's folder.
    """
    environment = Path(python).parent.parent
    return any(
        found.is_dir()
        for pattern in (f"lib/python3*/site-packages/{name}", f"Lib/site-packages/{name}")
        for found in environment.glob(pattern)
    )


def find_environment(version: str, plugin: Path | None) -> Environment:
    """The environment for this version.

    Args:
        version: of the package.
        plugin: the plugin's folder; a wheel in its folder `wheels` is installed instead of the package index's.
    """
    wheels = sorted((plugin / "wheels").glob(f"blip2tools-{version}-*.whl")) if plugin else []
    if wheels:
        # A wheel that was built again is another one, even under the same version.
        digest = hashlib.sha256(wheels[-1].read_bytes()).hexdigest()[:12]
        name, need = f"{version}-{digest}", f"blip2tools[mcp] @ {wheels[-1].resolve().as_uri()}"
    else:
        name, need = f"{version}-index", f"blip2tools[mcp]=={version}"
    folder = os.environ.get(HOME)
    return Environment(
        Path(folder).expanduser() if folder else data_folder(os.environ) / "blip2tools" / "plugin",
        name,
        need,
        os.environ.get(PYTHON) or None,
    )


def data_folder(environ: Mapping[str, str]) -> Path:
    """Folder in which programs keep a user's data."""
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or Path.home())
    if os.name == "nt":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if sys.platform == "darwin":
        return home / "Library" / "Application Support"
    named = environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    return Path(named) if Path(named).is_absolute() else home / ".local" / "share"


def torch_index() -> str | None:
    """Package index of torch's small build without CUDA; `None` where the ordinary build is as small, or a GPU can use it."""
    if sys.platform != "linux" or usable_gpu():
        return None
    return os.environ.get(TORCH_INDEX) or CPU_INDEX


def usable_gpu() -> bool:
    """Whether there is an NVIDIA GPU, with a driver, that the ordinary build of torch can use."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        asked = subprocess.run(
            [program, "--query-gpu=compute_cap,driver_version", "--format=csv,noheader"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
        )
        rows = [line.split(",") for line in asked.stdout.decode().splitlines() if line.strip()]
        return asked.returncode == 0 and any(
            float(capability) >= OLDEST_GPU and int(driver.strip().split(".")[0]) >= OLDEST_DRIVER
            for capability, driver in rows
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return False


def find_uv() -> str | None:
    """The program uv; clients often start their servers without the user's own PATH."""
    name = "uv.exe" if os.name == "nt" else "uv"
    places = [Path.home() / ".local" / "bin" / name, Path.home() / ".cargo" / "bin" / name]
    return shutil.which("uv") or next((str(place) for place in places if os.access(place, os.X_OK)), None)


def find_python() -> str | None:
    """A Python that is new enough: this one, or one by its name."""
    if sys.version_info >= OLDEST:
        return sys.executable
    for minor in range(NEWEST_TRIED, OLDEST[1] - 1, -1):
        if found := shutil.which(f"python3.{minor}"):
            return found
    return None


def server_variables() -> dict[str, str]:
    """The variables that the server gets: all but the launcher's own."""
    return {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}


def isolated_variables() -> dict[str, str]:
    """The variables for a program that starts a second Python: without those that `-I` makes only the first one ignore."""
    # With the last one, which pip sets for the pip that it starts, pip would install into the Python that runs it.
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") and name != "_PIP_RUNNING_IN_SUBPROCESS"
    }
