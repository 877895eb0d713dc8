"""Ray itself: one of our own for this machine, or a cluster that somebody runs."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from blip2tools.errors import InvalidInputError, ModelUnavailableError
from blip2tools.settings import set_foreign_variables

NAMESPACE: Final = "blip2tools"
STORE_BYTES: Final = 256 * 2**20  # of shared memory on one machine: a request has 150 kB
# Without these Ray listens on every interface of a Linux machine, asks nobody for a password and reports on its use.
_ALONE: Final = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its name notwithstanding: whether addresses other than loopback are used
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # to standard error, past every setting of Python's log
    "RAY_AUTH_MODE": "token",
}

REMOVE_S, GONE = 10.0, 3  # how long what is left is removed, and how often it must have been gone
TRIES: Final = 3  # to start a Ray of our own

logger = logging.getLogger(__name__)


def require() -> None:
    """Make sure that Ray is here.

    Raises:
        InvalidInputError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise InvalidInputError("--ray needs an extra: pip install 'blip2tools[ray]'")


@contextmanager
def connected(address: str | None, *, cpus: int) -> Iterator[None]:
    """Ray, while the block runs.

    Args:
        address: of a cluster (`auto`, or `HOST:PORT` of its head), which goes on afterwards; None starts one on this machine
            that only this machine reaches, with a secret of its own, and ends it with all it has written.
        cpus: how many tasks at a time one of our own may run; Ray counts them, it does not bind them to cores.

    Raises:
        InvalidInputError: Ray is not installed.
        ModelUnavailableError: the cluster cannot be reached, or Ray does not start.
    """
    require()
    folder = None
    if address is None:
        set_foreign_variables({**_ALONE, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
        # Not below a folder for temporary files that somebody has moved: sockets lie in it, whose paths have a bound.
        folder = tempfile.mkdtemp(prefix="blip2tools-ray-", dir="/tmp" if os.path.isdir("/tmp") else None)  # noqa: S108, PTH112
    import ray

    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {
            "num_cpus": cpus,
            "include_dashboard": False,
            "_temp_dir": folder,
            "object_store_memory": STORE_BYTES,
        }
    else:
        options["address"] = address
    try:
        try:
            _begin(options, tries=TRIES if address is None else 1)
        except Exception as error:
            what = "Ray does not start here" if address is None else "The Ray cluster cannot be reached"
            raise ModelUnavailableError(f"{what} ({type(error).__name__}); -v shows its log.") from error
        for name in ("ray", "ray.data", "ray.serve"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            _remove(Path(folder))


def _begin(options: dict[str, Any], *, tries: int) -> None:
    """Start, or connect. Ray waits 30 s for its own processes, which on a busy machine may be too short once."""
    import ray

    for left in reversed(range(tries)):
        try:
            ray.init(**options)
        except Exception as error:
            ray.shutdown()
            if not left:
                raise
            logger.info("Ray did not start in time (%s); once more", error)
        else:
            return


def _remove(folder: Path) -> None:
    """Remove what Ray has written; its processes, which end after it says so, may write a little more."""
    until, gone = time.monotonic() + REMOVE_S, 0
    while gone < GONE and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.2)
        gone = 0 if folder.exists() else gone + 1


def has_gpus() -> bool:
    """Whether the cluster has any."""
    import ray

    return bool(ray.cluster_resources().get("GPU"))


def listen_on_own_address() -> None:
    """Let this replica's port for other replicas be open on the node's own address, and not on every one.

    Ray Serve 2.60 opens it on `[::]`, whatever addresses the rest of Ray has (`replica.py`, `_on_initialized`), once the
    deployment's class is made: this is called there.
    """
    import ray
    from ray.serve._private import replica

    opened = replica.add_port_to_grpc_server
    host = ray.util.get_node_ip_address()
    replica.add_port_to_grpc_server = lambda server, address: opened(server, address.replace("[::]", host))
