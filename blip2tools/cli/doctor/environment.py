"""The software: Python, packages against the ranges that this one requires, extras, settings in effect."""

from __future__ import annotations

import difflib
import os
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from blip2tools.__version__ import __version__
from blip2tools.checkpoints.selftest import Finding
from blip2tools.cli.doctor.report import tilde
from blip2tools.settings import Settings, strays, variable

NAME = "blip2tools"
_NOT_FOR_USERS = ("all", "dev")  # a collection of the others, and tools for those who work on this package


def environment(settings: Settings) -> Iterator[Finding]:
    """Python, packages, extras and settings."""
    yield Finding(
        name="python",
        status="ok",
        sentence=f"{platform.python_version()} ({platform.python_implementation()}) on {platform.platform(terse=True)}",
    )
    yield Finding(name=NAME, status="ok", sentence=__version__)
    try:
        own = distribution(NAME)
    except PackageNotFoundError:
        yield Finding(
            name="packages",
            status="warning",
            sentence="this package is not installed, so its requirements cannot be compared with what is installed",
            remedy="install it, from its checkout with `pip install -e .`",
        )
    else:
        yield from _packages(own)
        yield from _extras(own)
    yield from _settings(settings)


def settings_in_effect(settings: Settings) -> dict[str, str]:
    """Settings that differ from their defaults, without secrets."""
    return {name: _shown(value) for name, value in settings if value != type(settings).model_fields[name].default}


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return (
            os.pathsep.join(_shown(one) for one in value)
            if any(isinstance(one, Path) for one in value)
            else ",".join(value)
        )
    if isinstance(value, bool):
        return str(int(value))
    return tilde(value) if isinstance(value, Path) else str(value)  # a secret prints as asterisks


def _packages(own: Distribution) -> Iterator[Finding]:
    wanted = [requirement for requirement in _requirements(own) if _applies(requirement, None)]
    problems = list(_problems(wanted))
    yield from problems
    good = [f"{one.name} {version(one.name)}" for one in wanted if one.name not in {bad.name for bad in problems}]
    if good:
        yield Finding(name="packages", status="ok", sentence=", ".join(good))


def _extras(own: Distribution) -> Iterator[Finding]:
    """Each extra: what it needs, installed or not. No user needs all of them."""
    for extra in sorted(set(own.metadata.get_all("Provides-Extra") or []) - set(_NOT_FOR_USERS)):
        wanted = [
            one
            for one in _requirements(own)
            if not _applies(one, None) and _applies(one, extra) and canonicalize_name(one.name) != NAME
        ]
        missing = [one.name for one in wanted if _installed(one.name) is None]
        if missing:
            yield Finding(
                name=f"[{extra}]",
                status="warning",
                sentence=f"this extra is not installed: {', '.join(missing)}",
                remedy=f"pip install '{NAME}[{extra}]'",
            )
            continue
        problems = list(_problems(wanted))
        yield from problems
        if not problems:
            sentence = ", ".join(f"{one.name} {version(one.name)}" for one in wanted)
            yield Finding(name=f"[{extra}]", status="ok", sentence=sentence)


def _requirements(own: Distribution) -> list[Requirement]:
    return [Requirement(text) for text in own.requires or []]


def _applies(requirement: Requirement, extra: str | None) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra or ""})


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _problems(wanted: Iterable[Requirement]) -> Iterator[Finding]:
    for requirement in wanted:
        found = _installed(requirement.name)
        if found is None:
            sentence = "not installed"
        elif not requirement.specifier.contains(found, prereleases=True):
            sentence = f"{found} is installed, but {requirement.specifier} is needed"
        else:
            continue
        yield Finding(
            name=requirement.name,
            status="failed",
            sentence=sentence,
            remedy=f"pip install '{requirement.name}{requirement.specifier}'",
        )


def _settings(settings: Settings) -> Iterator[Finding]:
    given = settings_in_effect(settings)
    yield Finding(
        name="settings",
        status="ok",
        sentence=", ".join(f"{name} = {value}" for name, value in given.items()) or "all at their defaults",
    )
    for stray in strays():
        near = difflib.get_close_matches(stray, [variable(name) for name in Settings.model_fields], 1)
        yield Finding(
            name="variable",
            status="warning",
            sentence=f"{stray} is set, but there is no such setting",
            remedy=f"did you mean {near[0]}?" if near else "remove it",
        )
