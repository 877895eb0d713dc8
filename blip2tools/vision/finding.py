"""Search for pictures: near ones by ITC, from an index or looked at now; judged by ITM; and whether any of them fits.

A similarity has no cut-off that means anything: there is always a nearest picture. The matching head's probability has one,
and so "none of them" is an answer. A matcher hardly sees the relation of two things; there the captioner is asked, too.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blip2tools import call
from blip2tools.engine.requests import (
    FeatureRequest,
    MatcherFacts,
    MatcherRequest,
    MatchRequest,
    Sight,
    TextFeatureRequest,
    TextScore,
)
from blip2tools.errors import ModelUnavailableError, VisionError
from blip2tools.pictures.sources import Sources
from blip2tools.schemas import SearchArguments, SearchHit, SearchResult
from blip2tools.vision import together
from blip2tools.vision.indexing import Means
from blip2tools.vision.relations import Relations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blip2tools.index.library import Part
    from blip2tools.index.walk import Entry

SHORTLIST: Final = 128  # pictures that ITM judges, at most: `k_test` of LAVIS
PORTION: Final = 16  # of them at a time
ENOUGH: Final = 32  # judged, after which as many fitting ones as were asked for end the search
LOOKED_AT: Final = 500  # pictures without an index, at most
LOOK_SHARE: Final = 0.5  # of the time for a call, for looking at pictures without an index
JUDGE_SHARE: Final = 0.9  # of that time, until which the last portion is begun
KEPT: Final = 4096  # features of pictures without an index, in memory: 16 KB each at 32 × 256
SIGHT_BYTES: Final = 96 * 2**20  # of pictures that are ready for the model, 0.6 MB each at 224 pixels
SAME: Final = 0.98  # likeness from which two pictures count as the same: scaled, recoded

_PASSED_OVER: Final = frozenset(
    ("not_found", "not_allowed", "corrupt_image", "unsupported_image", "too_large", "timeout")
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture that may be a hit."""

    path: Path
    score: float
    """ITC: its cosine with the text, or its likeness to the picture."""


@dataclass(slots=True)
class Ground:
    """The scope of a search."""

    candidates: list[Candidate] = field(default_factory=list)
    indexed: int = 0
    """Pictures that an index covers."""
    looked: int = 0
    """Pictures that were looked at now."""
    warnings: list[str] = field(default_factory=list)


class Finding:
    """Searches for one `Vision`.

    Args:
        means: the parts of a `Vision` that it uses.
        relations: judges how things lie.
    """

    def __init__(self, means: Means, relations: Relations) -> None:
        self._means = means
        self._relations = relations
        self._sights: OrderedDict[tuple[str, int, int], Sight] = OrderedDict()
        self._seen: OrderedDict[tuple[str, int, int], NDArray[Any]] = OrderedDict()

    async def search(self, sources: Sources, image: Any, arguments: SearchArguments, until: float) -> SearchResult:
        """Find pictures by a text, or by a picture.

        Args:
            sources: what may be searched.
            image: an image of any kind, or None.
            arguments: checked.
            until: the deadline, on `time.monotonic()`'s clock.
        """
        roots = await self._means.pools.folders.run(lambda: sources.searched(arguments.folder))
        facts: MatcherFacts | None = await self._means.ask(MatcherRequest(), until)
        if facts is None:
            raise ModelUnavailableError("There is no image-text matcher for this model, so it cannot search pictures.")
        if arguments.query is not None:
            found, ground = await self._by_text(sources, roots, facts, arguments, until)
        else:
            found, ground = await self._by_picture(sources, roots, facts, image, arguments, until)
        if not ground.indexed and not ground.looked:
            ground.warnings.append("there is no picture here: ask for one to be saved into an allowed folder")
        return SearchResult(
            hits=found,
            none_fits=not any(hit.fits for hit in found),
            indexed=ground.indexed,
            searched=ground.indexed + ground.looked,
            model=facts.name,
            warnings=ground.warnings,
        )

    # ---- by text ----

    async def _by_text(
        self, sources: Sources, roots: Sequence[Path], facts: MatcherFacts, arguments: SearchArguments, until: float
    ) -> tuple[list[SearchHit], Ground]:
        text = arguments.query or ""
        vector = _array((await self._means.ask(TextFeatureRequest((text,)), until))[0])

        def near(part: Part) -> list[Candidate]:
            found = part.shelf.nearest(vector, SHORTLIST, part.below)
            names = part.shelf.names_of([one.slot for one in found], part.below)
            # Copies of a picture are one hit: the others would take the places of different pictures.
            return [
                Candidate(part.shelf.made.folder / os.fsdecode(names[one.slot][0]), one.score)
                for one in found
                if one.slot in names
            ]

        def score(features: NDArray[Any]) -> float:
            return float((features @ vector).max())

        ground = await self._ground(sources, roots, facts, near, score, until)
        candidates = _best(_distinct(ground), SHORTLIST)
        judged = await self._judge(sources, text, candidates, arguments.limit, until, ground)
        return judged[: arguments.limit], ground

    async def _judge(
        self,
        sources: Sources,
        text: str,
        candidates: Sequence[Candidate],
        limit: int,
        until: float,
        ground: Ground,
    ) -> list[SearchHit]:
        """Hits by the matching head, best first; as many of the nearest as there is time for."""
        last = until - (1 - JUDGE_SHARE) * self._means.settings.deadline_s
        hits: list[SearchHit] = []

        async def one(candidate: Candidate) -> SearchHit | None:
            return await self._hit(sources, text, candidate, until)

        for first in range(0, len(candidates), PORTION):
            fitting = sum(hit.fits for hit in hits)
            if fitting >= limit and first >= ENOUGH:
                break
            if hits and time.monotonic() > last:
                ground.warnings.append(
                    f"there was time to check the {first} nearest pictures; others may fit: search a smaller folder"
                )
                break
            portion = candidates[first : first + PORTION]
            hits += [hit for hit in await together.each(one, portion) if hit is not None]
            await call.tell("checking", first + len(portion), len(candidates))
        return sorted(hits, key=lambda hit: (hit.fits, hit.probability or 0.0, hit.cosine), reverse=True)

    async def _hit(self, sources: Sources, text: str, candidate: Candidate, until: float) -> SearchHit | None:
        try:
            sight = await self._sight(sources, candidate.path)
            scores: list[TextScore] = await self._means.ask(MatchRequest(sight, (text,)), until)
            fits, probability = await self._relations.fits(sight, text, scores[0], until)
        except VisionError as error:
            if error.code in _PASSED_OVER and time.monotonic() < until:
                return None  # it is gone by now, or was changed into something else
            raise
        return SearchHit(
            path=sources.shown(candidate.path),
            probability=probability,
            cosine=scores[0].cosine,
            fits=fits,
            duplicate="",
        )

    async def _sight(self, sources: Sources, path: Path) -> Sight:
        """The model's input for a file; the last few are kept for further queries."""
        status = await self._means.pools.files.run(lambda: sources.found(path).stat())
        key = (str(path), status.st_size, status.st_mtime_ns)
        sight = self._sights.get(key)
        if sight is None:
            _, look = await self._means.looking.glance(lambda: sources.read_found(path))
            sight = await look()
            if sight.image is None:  # otherwise it would keep the whole picture alive
                self._sights[key] = sight
        else:
            self._sights.move_to_end(key)
        size = sum(pixels.nbytes for pixels in sight.pixels.values())
        while len(self._sights) > max(1, SIGHT_BYTES // max(1, size)):
            self._sights.popitem(last=False)
        return sight

    # ---- by picture ----

    async def _by_picture(
        self,
        sources: Sources,
        roots: Sequence[Path],
        facts: MatcherFacts,
        image: Any,
        arguments: SearchArguments,
        until: float,
    ) -> tuple[list[SearchHit], Ground]:
        (seen,) = await self._means.looking.see(sources, image, [None], self._means.ready)
        features = _array(await self._means.ask(FeatureRequest(seen.sight), until))
        flat = features.reshape(-1) / len(features)
        wanted = arguments.limit + 1  # the picture itself may be among them

        def near(part: Part) -> list[Candidate]:
            found = part.shelf.alike(features, wanted, part.below)
            names = part.shelf.names_of([one.slot for one in found], part.below)
            folder = part.shelf.made.folder
            return [
                Candidate(folder / os.fsdecode(name), one.score) for one in found for name in names.get(one.slot, [])
            ]

        def score(seen: NDArray[Any]) -> float:
            return float(seen.reshape(-1) @ flat)

        ground = await self._ground(sources, roots, facts, near, score, until)
        own = await self._means.pools.files.run(lambda: _own_path(sources, image))
        candidates = [one for one in _best(ground.candidates, 2 * wanted) if one.path != own]
        digest = seen.sight.key.partition(":")[0]

        def hit(candidate: Candidate) -> SearchHit | None:
            likeness = max(-1.0, min(1.0, candidate.score))
            try:
                data = sources.read_found(candidate.path)
            except VisionError:
                return None
            same = hashlib.sha256(data).hexdigest() == digest
            return SearchHit(
                path=sources.shown(candidate.path),
                probability=None,
                cosine=1.0 if same else likeness,
                fits=same or likeness >= SAME,
                duplicate="exact" if same else "near" if likeness >= SAME else "",
            )

        hits = await self._means.pools.files.run(lambda: [found for one in candidates if (found := hit(one))])
        return sorted(hits, key=lambda one: one.cosine, reverse=True)[: arguments.limit], ground

    # ---- where ----

    async def _ground(
        self,
        sources: Sources,
        roots: Sequence[Path],
        facts: MatcherFacts,
        near: Callable[[Part], list[Candidate]],
        score: Callable[[NDArray[Any]], float],
        until: float,
    ) -> Ground:
        """The candidates in every folder: by its index, or by looking at its pictures now."""
        ground = Ground()
        for root in roots:
            parts, rest = await self._means.pools.folders.run(partial(self._parts, root, facts, ground, sources))
            for part in parts:
                ground.candidates += await self._means.pools.folders.run(partial(near, part))
                ground.indexed += await self._means.pools.folders.run(partial(part.shelf.count, part.below))
            if rest is not None:
                await self._look_at(sources, root, rest, score, until, ground)
        return ground

    def _parts(
        self, root: Path, facts: MatcherFacts, ground: Ground, sources: Sources
    ) -> tuple[list[Part], list[Entry] | None]:
        """The indexes that can be used of a folder, and the pictures that none covers."""
        from blip2tools.index.library import Part

        def usable(part: Part) -> bool:
            made = part.shelf.made
            if made.fingerprint != facts.fingerprint:
                name = sources.shown(made.folder)
                ground.warnings.append(
                    f"the index of {name} was made by another matcher ({made.matcher}), so it is not used: "
                    f"blip2tools index --rebuild {name}"
                )
                return False
            if not made.whole:
                ground.warnings.append(f"the index of {sources.shown(made.folder)} is not finished: more may come")
            return True

        part = self._means.library.about(root)
        if part is not None and usable(part):
            return [part], None
        inner = [one for shelf in self._means.library.inside(root) if usable(one := Part(shelf, b""))]
        rest = pictures_in(sources, root, skipped=frozenset(str(one.shelf.made.folder) for one in inner))
        return inner, sorted(rest, key=lambda entry: -entry.modified_ns)

    async def _look_at(
        self,
        sources: Sources,
        root: Path,
        entries: Sequence[Entry],
        score: Callable[[NDArray[Any]], float],
        until: float,
        ground: Ground,
    ) -> None:
        """Look at pictures without an index, the newest first, as long as there is time."""
        last = until - (1 - LOOK_SHARE) * self._means.settings.deadline_s
        chosen = list(entries[: max(0, LOOKED_AT - ground.looked)])
        late = 0

        async def one(entry: Entry) -> None:
            nonlocal late
            path = root / os.fsdecode(entry.name)
            key = (str(path), entry.size, entry.modified_ns)
            features = self._seen.get(key)
            if features is None:
                if time.monotonic() > last:
                    late += 1
                    return
                try:
                    _, look = await self._means.looking.glance(lambda: sources.read_found(path))
                    features = _array(await self._means.ask(FeatureRequest(await look()), until))
                except VisionError as error:
                    if error.code in _PASSED_OVER and time.monotonic() < until:
                        return
                    raise
                self._seen[key] = features.astype("float16")
                while len(self._seen) > KEPT:
                    self._seen.popitem(last=False)
            ground.looked += 1
            ground.candidates.append(Candidate(path, score(features.astype("float32"))))

        await together.each(one, chosen, at_once=PORTION, what="looking:")
        left = len(entries) - len(chosen) + late
        if left:
            ground.warnings.append(
                f"without an index only the newest {len(entries) - left} of {len(entries)} pictures were searched: "
                f"blip2tools index {sources.shown(root)} makes one"
            )


def pictures_in(
    sources: Sources, root: Path, *, nested: bool = True, skipped: frozenset[str] = frozenset()
) -> list[Entry]:
    """The files in a folder that are called or begin like pictures."""
    from blip2tools.index.walk import Walk, begins_like_a_picture

    walk = Walk(root, sources.allows, sources.is_inside, nested=nested, skipped=skipped)
    return [
        entry for entry in walk.entries() if entry.is_called or begins_like_a_picture(root / os.fsdecode(entry.name))
    ]


def _array(values: Any) -> NDArray[Any]:
    import numpy as np

    return np.asarray(values, np.float32)


def _best(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    return sorted(candidates, key=lambda one: -one.score)[:count]


def _distinct(ground: Ground) -> list[Candidate]:
    """Each file once: allowed folders may lie in each other."""
    return list({one.path: one for one in ground.candidates}.values())


def _own_path(sources: Sources, image: Any) -> Path | None:
    """The file that a caller's image is, so that it is not reported as its own copy."""
    if isinstance(image, os.PathLike):
        return Path(os.path.realpath(image))
    return sources.file_of(image) if isinstance(image, str) else None
