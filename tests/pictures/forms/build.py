"""All forms by name."""

from __future__ import annotations

from collections.abc import Collection

from tests.pictures.forms import jpeg, others, png


def forms() -> dict[str, bytes]:
    """Every form."""
    return {**jpeg.forms(), **png.forms(), **others.forms()}


def whole(names: Collection[str]) -> dict[str, bytes]:
    """Of forms that lack something which Chromium needs: the file with it, whose drawing they are held against."""
    return {name: data for name, data in jpeg.ends()[1].items() if name in names}
