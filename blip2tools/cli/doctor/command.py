"""`blip2tools doctor`: the sections of its report, in order."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blip2tools.__version__ import __version__
from blip2tools.checkpoints import Progress
from blip2tools.checkpoints.selftest import Finding
from blip2tools.cli.console import Bar, tell
from blip2tools.cli.doctor.report import Report, Section, Voice
from blip2tools.cli.options import AddCommand
from blip2tools.settings import Settings

logger = logging.getLogger(__name__)

# Settings that this command looks at, and has options for; the others come from variables alone, and are named.
LOOKED_AT = (
    *("model", "revision", "matcher", "matcher_revision", "allow_pickle", "device", "dtype", "quantize", "threads"),
    *("max_memory", "offload_dir", "offline", "cache_dir", "allowed_dirs"),
)

SUMMARY = "find what is wrong, and say what to do"
TEXT = """\
Check this installation, the machine and the model, one line each, with a remedy for what is wrong.

Nothing is downloaded or changed. Without --model it tests the model that the other commands would use.
exit status: 0 all well (or only things to know), 1 something failed, 2 wrong usage, 3 the model is not here"""


def add_doctor_command(
    command: AddCommand, settings: Callable[[argparse.Namespace], dict[str, Any]]
) -> argparse.ArgumentParser:
    """Add `doctor` to the command line.

    Args:
        command: adds one command.
        settings: the settings that were given as options.
    """
    parser = command("doctor", lambda arguments: run(arguments, settings(arguments)), SUMMARY, TEXT)
    parser.add_argument("--json", action="store_true", help="one JSON object, to send with a bug report")
    parser.add_argument(
        "--network",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="check whether the model hub answers (default: unless offline)",
    )
    parser.add_argument(
        "--scan",
        type=Path,
        metavar="FOLDER",
        help="instead, read every file below FOLDER as the tools would, and report the results; with --json as JSON Lines",
    )
    return parser


def run(arguments: argparse.Namespace, given: dict[str, Any]) -> int:
    """Check everything and report it; returns the exit status.

    Args:
        arguments: `json`, `network` and `scan`.
        given: settings that were given as options.
    """
    from blip2tools.cli.doctor import scan
    from blip2tools.cli.doctor.environment import settings_in_effect
    from blip2tools.cli.doctor.model import absent

    settings = Settings.load(**given)
    if arguments.scan is not None:
        return scan.run(arguments.scan, settings, json=arguments.json)
    voice = Voice(sys.stdout)
    sections = []
    with Bar("doctor") as bar:
        for section in examine(settings, bar, network=arguments.network):
            sections.append(section)
            bar.clear()
            if not arguments.json:
                for line in voice.section(section):
                    tell(line)
    report = Report(
        version=__version__,
        created=datetime.now(UTC).replace(microsecond=0),
        settings=settings_in_effect(settings),
        absent=absent(settings),
        sections=tuple(sections),
    )
    tell(report.model_dump_json(indent=2) if arguments.json else voice.ending(report))
    return report.exit_status


def examine(settings: Settings, progress: Progress, *, network: bool | None = None) -> Iterator[Section]:
    """Every check, section by section, each as soon as it is done.

    Args:
        settings: what the other commands would run with.
        progress: receives the progress of long checks.
        network: whether to ask the hub; None: unless it is switched off.
    """
    from blip2tools.cli.doctor import environment, machine, model

    yield Section(title="installation", findings=tuple(environment.environment(settings)))
    hub = machine.network(settings, network)
    found = (*machine.device(settings), *machine.places(settings), hub)
    yield Section(title="machine", findings=found)
    if any(finding.name == "torch" and finding.status == "failed" for finding in found):
        nothing = Finding(name="model", status="skipped", sentence="without torch no model can be looked at")
        yield Section(title="model", findings=(nothing,))
        return
    try:
        yield from model.examine(settings, progress, online=hub.status == "ok")
    except Exception as error:  # a broken installation breaks checks too, and the rest of the report must come out
        logger.error("the model could not be examined", exc_info=error)
        sentence = f"it could not be examined ({type(error).__name__})"
        remedy = "`blip2tools --verbose doctor` shows the cause; reinstalling the packages may help"
        broken = Finding(name="model", status="failed", sentence=sentence, remedy=remedy)
        yield Section(title="model", findings=(broken,))
