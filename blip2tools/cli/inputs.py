"""From the words of a command line to pictures: a folder stands for those in it and below it, `-` for standard input."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blip2tools.errors import InvalidInputError, NotAllowedError, NotFoundError, TooLargeError, VisionError
from blip2tools.pictures import signs
from blip2tools.pictures.references import handle_in, place_of

STANDARD_INPUT: Final = "-"
MAX_LIST_BYTES: Final = 2**26
_TEXT: Final = frozenset((*range(32, 127), *range(128, 256), *b"\t\n\r\0"))  # bytes of a list, in any encoding of paths

IMAGES_HELP: Final = (
    "a file, a folder with all below it, or - for standard input; there comes one picture, or a list with a path in each line. "
    "Also a data: URI, or an http(s) URL with --allow-urls"
)


@dataclass(frozen=True, slots=True)
class Given:
    """One picture of a command.

    Attributes:
        name: as results and messages call it.
        image: a reference, the bytes, or why there is no picture.
    """

    name: str
    image: str | bytes | VisionError


def given_pictures(words: Sequence[str], most_bytes: int) -> list[Given]:
    """The pictures that the words of a command name, in their order.

    Args:
        words: as typed.
        most_bytes: of a picture on standard input; more is refused where it is decoded.

    Raises:
        InvalidInputError: standard input is named twice, or nothing comes from there.
    """
    if list(words).count(STANDARD_INPUT) > 1:
        raise InvalidInputError("Standard input (-) can be read only once.")
    return [one for word in words for one in _given(word, most_bytes)]


def standard_input(most_bytes: int) -> bytes:
    """The bytes on standard input: `most_bytes` and one more of a picture, else all of them.

    Raises:
        InvalidInputError: nothing comes from there.
        TooLargeError: a list of paths that no command line makes.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InvalidInputError("For - pipe a picture, or a list of paths, into this command.")
    head = sys.stdin.buffer.read(signs.HEAD_BYTES)
    if not head.strip():
        raise InvalidInputError("Nothing came on standard input.")
    most = most_bytes if _is_picture(head) else MAX_LIST_BYTES
    data = head + sys.stdin.buffer.read(most + 1 - len(head))
    if len(data) > most and not _is_picture(head):
        raise TooLargeError(f"The list on standard input has more than {MAX_LIST_BYTES:,} bytes.")
    return data


def _is_picture(head: bytes) -> bool:
    """Whether standard input begins like a picture, or at least like no text: then it is a picture that cannot be read."""
    return signs.in_bytes(head) or not _TEXT.issuperset(head)


def _given(word: str, most_bytes: int) -> Iterator[Given]:
    if word == STANDARD_INPUT:
        data = standard_input(most_bytes)
        if _is_picture(data[: signs.HEAD_BYTES]):
            yield Given(word, data)
        else:
            yield from _listed(word, data)
    elif _is_folder(word):
        yield from _listed(str(Path(word).expanduser()), b"")
    else:
        yield Given(word, word)


def _listed(word: str, lines: bytes) -> Iterator[Given]:
    from blip2tools.vision.bulk.inputs import list_pictures

    found = list_pictures([word], lines=io.BytesIO(lines))
    yield from (Given(source, source) for source in found.sources)
    yield from (Given(name, NotAllowedError("This folder cannot be listed.")) for name in found.unlisted)
    if not found.sources and not found.unlisted:
        where = "on the list" if word == STANDARD_INPUT else "in this folder, nor below it"
        yield Given(word, NotFoundError(f"There is no picture {where}."))


def _is_folder(word: str) -> bool:
    if place_of(word) != "file" or handle_in(word) or word[:5].lower() == "data:":
        return False
    try:
        return Path(os.path.expanduser(word)).is_dir()  # noqa: PTH111 - which raises where there is no such home
    except (OSError, ValueError):  # too long for a path, or with a zero in it
        return False
