"""The load of the soak: callers that make every kind of call, and do not always wait for the answer."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blip2tools.vision import Vision

SEEN = 64  # pictures that may be asked about again

Call = Callable[["Vision", bytes, random.Random], Coroutine[Any, Any, None]]


class Pictures:
    """Drawn pictures as PNG: mostly new ones, sometimes one of the last few."""

    def __init__(self, seed: int) -> None:
        self.drawn = 0
        self._chance = random.Random(seed)
        self._seen: deque[bytes] = deque(maxlen=SEEN)

    def any(self) -> bytes:
        """One that was seen before, with a chance of 40 %, or a fresh one."""
        return self._chance.choice(self._seen) if self._seen and self._chance.random() < 0.4 else self.fresh()

    def fresh(self) -> bytes:
        """A new one."""
        from blip2tools.demo.draw import draw
        from blip2tools.demo.world import sample_scene

        buffer = io.BytesIO()
        size = self._chance.choice((64, 120, 224))
        draw(sample_scene(self._chance), size, smoothing=1).save(buffer, "PNG")
        self._seen.append(buffer.getvalue())
        self.drawn += 1
        return buffer.getvalue()


class Load:
    """The callers.

    Args:
        vision: answers in good time.
        hurried: the same engine with too short a deadline.
        until: when to stop, on `time.monotonic()`'s clock.

    Attributes:
        ends: how calls ended, and how many did.
    """

    def __init__(self, vision: Vision, hurried: Vision, until: float) -> None:
        self.ends: Counter[str] = Counter()
        self._vision = vision
        self._hurried = hurried
        self._until = until
        self._albums: list[Pictures] = []

    @property
    def pictures(self) -> int:
        """Different pictures so far."""
        return sum(album.drawn for album in self._albums)

    def _album(self, seed: int) -> Pictures:
        self._albums.append(Pictures(seed))
        return self._albums[-1]

    async def many(self, seeds: Sequence[int]) -> None:
        """Run callers on one event loop until the time is over."""
        await asyncio.gather(*(self._caller(seed) for seed in seeds))

    async def _caller(self, seed: int) -> None:
        from blip2tools.call import CALLER
        from blip2tools.errors import VisionError

        CALLER.set(f"caller {seed}")
        chance, pictures = random.Random(seed), self._album(seed)
        while time.monotonic() < self._until:
            call = _any_call(chance)
            eyes = self._hurried if chance.random() < 0.05 else self._vision
            patience = chance.uniform(0, 0.2) if chance.random() < 0.1 else None
            data = pictures.any() if chance.random() > 0.02 else pictures.fresh()[: chance.randrange(1, 100)]
            try:
                async with asyncio.timeout(patience):
                    await call(eyes, data, chance)
                end = "answered"
            except TimeoutError:
                end = "given up"
            except VisionError as error:
                end = error.code
            self.ends[end] += 1
            await asyncio.sleep(chance.expovariate(20))

    def wait_for_answers(self, seed: int) -> None:
        """A caller with a thread of its own, which uses the synchronous verbs."""
        from blip2tools.errors import VisionError

        chance, pictures = random.Random(seed), self._album(seed)
        while time.monotonic() < self._until:
            call = _any_call(chance)
            try:
                self._vision.run(call(self._vision, pictures.any(), chance))
                end = "answered"
            except VisionError as error:
                end = error.code
            self.ends[end] += 1
            time.sleep(chance.expovariate(20))


def _any_call(chance: random.Random) -> Call:
    return chance.choices([call for call, _ in CALLS], [weight for _, weight in CALLS])[0]


async def _caption(vision: Vision, data: bytes, chance: random.Random) -> None:
    await vision.acaption(data, num_captions=chance.choice((1, 1, 3)), num_beams=chance.choice((1, 5)))


async def _sampled_caption(vision: Vision, data: bytes, chance: random.Random) -> None:
    await vision.acaption(data, do_sample=True)


async def _question(vision: Vision, data: bytes, chance: random.Random) -> None:
    seen = await vision.aask(data, chance.choice(("how many objects are there?", "is there a star?")))
    await vision.aask(seen.image.handle, "what color is it?", history=[("how many objects are there?", seen.answer)])


async def _part(vision: Vision, data: bytes, chance: random.Random) -> None:
    left, top = chance.uniform(0, 0.5), chance.uniform(0, 0.5)
    await vision.aask(data, "what is this?", region=[left, top, left + 0.5, top + 0.5])


async def _choice(vision: Vision, data: bytes, chance: random.Random) -> None:
    await vision.aask(data, "what color is the ring?", choices=["red", "green", "blue", "orange"])


async def _match(vision: Vision, data: bytes, chance: random.Random) -> None:
    await vision.amatch(data, [f"{number} stars" for number in range(chance.randrange(1, 12))])


async def _survey(vision: Vision, data: bytes, chance: random.Random) -> None:
    await vision.asurvey(data)


async def _compare(vision: Vision, data: bytes, chance: random.Random) -> None:
    await vision.acompare([data, data])


async def _features(vision: Vision, data: bytes, chance: random.Random) -> None:
    await vision.afeatures(data)


CALLS: list[tuple[Call, int]] = [
    (_caption, 4),
    (_sampled_caption, 1),
    (_question, 4),
    (_part, 2),
    (_choice, 2),
    (_match, 3),
    (_survey, 1),
    (_compare, 1),
    (_features, 1),
]
