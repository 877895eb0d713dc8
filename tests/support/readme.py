"""The tables of the documentation, generated from the code. `python -m tests.support.readme` writes them; a test compares."""

import argparse
import re
from pathlib import Path

from blip2tools import errors
from blip2tools.checkpoints.family import FAMILY, memory_table
from blip2tools.checkpoints.published import SOURCES, published
from blip2tools.cli.clients import CLIENTS
from blip2tools.cli.command_line import build_parser
from blip2tools.settings import Settings, variable
from tests.safety import traps

README = Path(__file__).parents[2] / "README.md"
PAGES = (*sorted(README.parent.glob("*.md")), *sorted((README.parent / "docs").glob("*.md")))


def settings_table() -> str:
    rows = ["| setting | variable | option | default | what it is |", "|---|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        option = "--allow-dir" if name == "allowed_dirs" else "--" + name.replace("_", "-")
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(default)
        shown = "" if default in (None, "") else f"`{int(default) if isinstance(default, bool) else default}`"
        rows.append(f"| `{name}` | `{variable(name)}` | `{option}` | {shown} | {field.description} |")
    return "\n".join(rows)


REDUCED = "its values, narrow, shallow, random weights: {what} equal transformers'; published weights not run"
TRAINED = "in full: trained for this package; every test runs it"


def models_table() -> str:
    rows = [
        "| name | kind | parameters | download | memory: 32, 16, 8, 4 bits | picture | best at | tested here |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for member in FAMILY:
        size = member.parameters
        scale, unit, letter = (1e9, "GB", "G") if size >= 1e8 else (1e6, "MB", "M")
        download = f"{member.download_bytes / 1e9:.1f} GB" if member.hub else "in the package"
        memory = " / ".join("–" if each is None else f"{each / scale:.1f}" for each in memory_table(member).values())
        what = "texts" if member.language_model else "scores"
        rows.append(
            f"| `{member.name}` | {member.kind} | {size / scale:.1f} {letter} | {download} | {memory} {unit} "
            f"| {member.image_size} px | {member.note} | {REDUCED.format(what=what) if member.hub else TRAINED} |"
        )
    return "\n".join(rows)


def install_table() -> str:
    rows = ["| client | `install` | file in the project | file for the user |", "|---|---|---|---|"]
    folders = {"home": "~", "config": "~/.config", "lmstudio": "~/.lmstudio", "codex": "~/.codex"}
    for client in CLIENTS.values():
        user = f"`{client.user['linux'].format(**folders)}`" if client.user else ""
        project = f"`{client.project}`" if client.project else ""
        rows.append(f"| {client.title} | `{client.name}` | {project} | {user} |")
    return "\n".join(rows)


def codes_table() -> str:
    """The tree in the docstring of `errors`, a row for each code."""
    rows = ["| code | when |", "|---|---|"]
    found = re.findall(r"── \w+Error +(\w+) +(.+)", errors.__doc__ or "")
    if [code for code, _ in found] != list(errors.ERROR_CODES):
        raise ValueError("the docstring of errors.py and its codes differ")
    return "\n".join([*rows, *(f"| `{code}` | {when} |" for code, when in found)])


def commands_table() -> str:
    """The commands as `blip2tools --help` lists them."""
    rows = ["| command | what it does |", "|---|---|"]
    (commands,) = (one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    for action in commands._choices_actions:
        rows.append(f"| `blip2tools {action.dest}` | {action.help} |")
    return "\n".join(rows)


def values_table() -> str:
    """One row for each value, one column for each checkpoint; what all of them share is written once."""
    letters = dict(zip(SOURCES, "abcdefghijkl", strict=False))
    names = [member.name for member in FAMILY if member.hub]
    rows = [f"| value | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    known = {name: published(name).parts for name in names}
    for part in known[names[0]]:
        keys = dict.fromkeys(key for parts in known.values() for key in parts[part])
        for key in keys:
            cells = []
            for name in names:
                fact = known[name][part].get(key)
                mark = "" if fact is None or fact.verified else " **?**"
                cells.append("" if fact is None else f"{_shown(fact.value)}{mark} ({letters[fact.source]})")
            rows.append(f"| `{f'{part}.{key}' if part else key}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def _shown(value: object) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def sources_list() -> str:
    return "\n".join(
        f"- ({letter}) {source.text}{'' if source.verified else ' (**?**)'}"
        for letter, source in zip("abcdefghijkl", SOURCES.values(), strict=False)
    )


def filled(text: str) -> str:
    """A page with fresh tables."""
    tables = {
        "settings": settings_table(),
        "models": models_table(),
        "install": install_table(),
        "codes": codes_table(),
        "commands": commands_table(),
        "values": values_table(),
        "sources": sources_list(),
        "traps": traps.table(),
    }
    for name, table in tables.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
            lambda found, t=table: f"{found[1]}{t}\n{found[2]}",
            text,
            flags=re.S,
        )
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
