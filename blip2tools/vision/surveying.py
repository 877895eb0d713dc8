"""Checks of a map in words: what each tile's caption names must be there, in the tile and in the whole picture."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from blip2tools.checkpoints.confidence import Premises
from blip2tools.engine.requests import Fit, FitRequest, Request, Sight
from blip2tools.vision import together
from blip2tools.vision.premises import Statement, judging, named


@dataclass(frozen=True, slots=True)
class Part:
    """The matcher's findings about one tile.

    Attributes:
        nameless: whether something that its caption names is not there.
        shows: what the whole picture's caption names and this tile shows, in its words.
        strange: whether the tile does not look like the model's world, in a picture that does not either.
    """

    nameless: bool = False
    shows: tuple[str, ...] = ()
    strange: bool = False


@dataclass(frozen=True, slots=True)
class Map:
    """The parts of a survey, and the things that lie in several of them: each with the numbers of its tiles."""

    parts: tuple[Part, ...]
    cut: tuple[tuple[str, tuple[int, ...]], ...] = ()


async def checked(
    ask: Callable[[Request, float], Awaitable[Any]],
    rule: Premises,
    sights: Sequence[Sight],
    captions: Sequence[str],
    strange: Sequence[bool],
    deadline: float,
) -> Map:
    """Look for what captions name: in their own tiles, and in the whole picture; and for the picture's things in the tiles.

    Args:
        ask: sends a request to an engine, with a deadline.
        rule: how its scores are read.
        sights: the whole picture, then its tiles.
        captions: of each of them.
        strange: whether each of them does not look like the world of a small model.
        deadline: of the call.
    """
    whole, *tiles = [
        named(caption, sized=False) for caption in captions
    ]  # what is small in a picture is large in a tile
    every = {one.plain: one for one in (*whole, *(one for tile in tiles for one in tile))}
    plain = tuple(every) + tuple(other for other in rule.others if other not in every)
    found = await together.each(lambda sight: _fits(ask, sight, plain, deadline), sights)
    if any(one is None for one in found):
        return Map(tuple(Part() for _ in tiles))
    seen = [one for one in found if one is not None]
    # A picture of the model's small world shows everything that its tiles show. Another picture, say a collage, may
    # contain such a picture only as a crop.
    within = None if strange[0] else seen[0]
    parts = [
        _part(tile, whole, within, fits, rule, strange=odd)
        for tile, fits, odd in zip(tiles, seen[1:], strange[1:], strict=True)
    ]
    places = {one.text: tuple(n for n, part in enumerate(parts) if one.text in part.shows) for one in whole}
    once = [one for one in whole if captions[0].count(one.text.split(" ", 1)[-1]) == 1]
    if strange[0]:
        once = []
    return Map(tuple(parts), tuple((one.text, places[one.text]) for one in once if len(places[one.text]) > 1))


async def _fits(
    ask: Callable[[Request, float], Awaitable[Any]], sight: Sight, plain: tuple[str, ...], deadline: float
) -> dict[str, Fit] | None:
    found = await ask(FitRequest(sight, plain), deadline)
    return None if found is None else dict(zip(plain, found, strict=True))


def _part(
    tile: Sequence[Statement],
    whole: Sequence[Statement],
    in_whole: dict[str, Fit] | None,
    in_tile: dict[str, Fit],
    rule: Premises,
    *,
    strange: bool,
) -> Part:
    shows = tuple(one.text for one in whole if judging.holds(in_tile[one.plain], rule))
    nameless = any(_fails(one, in_tile, rule) for one in tile)
    if rule.known and in_whole is not None:
        nameless = nameless or any(_fails(one, in_whole, rule) for one in tile)
    return Part(nameless, shows, strange and in_whole is None)


def _fails(one: Statement, fits: dict[str, Fit], rule: Premises) -> bool:
    fit = fits[one.plain]
    if rule.known:
        return not judging.holds(fit, rule)
    others = [fits[other] for other in rule.others if other != one.plain]
    return judging.verdict(one, fit, others, rule) is False
