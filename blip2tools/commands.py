"""How a room adds its own commands to the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Protocol


class AddCommand(Protocol):
    """Adds one command, and gives its parser for the options."""

    def __call__(
        self, name: str, run: Callable[[argparse.Namespace], int], summary: str, text: str
    ) -> argparse.ArgumentParser: ...
