"""The engine against stock transformers, interleaved in one run: `blip2tools bench engine`.

Stock is the usual way: `processor(...)` and `model.generate(...)` (or the matcher's forward) for one picture and one text per
call. Ours is `Vision` end to end, files and decoding included. Each row is the ratio of stock's time to ours in the same
round; a busy machine slows both. All requests of a run are distinct and no answer is kept.
"""

from __future__ import annotations

import asyncio
import io
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from blip2tools.checkpoints import Loaded
    from blip2tools.cli.bench.pairs import Subject
    from blip2tools.cli.bench.random_models import Pair
    from blip2tools.vision import Vision

Clock = Literal["cpu", "wall"]
NEW_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Comparison:
    """One case: how many times faster than stock, over the rounds."""

    case: str
    median: float
    lowest: float
    highest: float
    stock_ms: float  # median of a round
    ours_ms: float
    clock: Clock
    model: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """The same work for both sides; `warm` keeps the features of the pictures of a first, untimed pass."""

    name: str
    stock: Callable[[Stock, Sequence[bytes]], None]
    ours: Callable[[Vision, Sequence[bytes]], Any]
    pictures: int
    warm: bool = False
    matcher: bool = (
        False  # whether ours has one; without it a caption is not matched with its picture, as stock's is not
    )


class Stock:
    """The library's own classes, one call at a time."""

    def __init__(self, pair: Pair, beams: int) -> None:
        self._pair = pair
        self._beams = beams

    def generate(self, data: bytes, text: str | None) -> None:
        """A caption, or an answer to a prompt."""
        import torch
        from PIL import Image

        image = Image.open(io.BytesIO(data)).convert("RGB")
        words = {} if text is None else {"text": text}
        inputs = self._placed(self._pair.captioner_processor(images=image, return_tensors="pt", **words))
        with torch.inference_mode():
            self._pair.captioner.generate(
                **inputs,
                do_sample=False,
                num_beams=self._beams,
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
            )

    def match(self, data: bytes, text: str) -> None:
        """One picture, one text."""
        import torch
        from PIL import Image

        image = Image.open(io.BytesIO(data)).convert("RGB")
        inputs = self._placed(self._pair.matcher_processor(images=image, text=text, return_tensors="pt"))
        with torch.inference_mode():
            self._pair.matcher(**inputs, use_image_text_matching_head=True)

    def rank(self, data: bytes, prompt: str, choice: str) -> None:
        """How likely one answer is: a pass over picture, prompt and answer."""
        import torch
        from PIL import Image

        image = Image.open(io.BytesIO(data)).convert("RGB")
        pair = self._pair
        encoder = pair.captioner.language_model.config.is_encoder_decoder
        text = prompt if encoder else f"{prompt} {choice}"
        inputs = self._placed(pair.captioner_processor(images=image, text=text, return_tensors="pt"))
        if encoder:
            labels = pair.captioner_processor.tokenizer(choice, return_tensors="pt").input_ids.to(pair.loaded.device)
            inputs["decoder_input_ids"] = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], 1)
        with torch.inference_mode():
            pair.captioner(**inputs)

    def _placed(self, inputs: Any) -> Any:
        return inputs.to(self._pair.loaded.device, self._pair.loaded.captioner.dtype)

    def direct(self, data: bytes, question: str) -> None:
        """Our own model code, called without queue, cache or threads."""
        from PIL import Image

        from blip2tools.model.options import GenerationOptions

        loaded = self._pair.loaded
        image = Image.open(io.BytesIO(data)).convert("RGB")
        tokens = loaded.captioner.query(loaded.captioner.trunk.see(loaded.pixels(image)))
        options = GenerationOptions(num_beams=self._beams, min_new_tokens=NEW_TOKENS, length_penalty=0.0)
        loaded.captioner.speak(tokens, [loaded.words.question(question).ids], options, max_new_tokens=[NEW_TOKENS])


def questions(count: int) -> list[str]:
    """Different short questions."""
    from blip2tools.cli.bench.random_models import WORDS

    return [f"what is the {WORDS[2 + number % 9]} {WORDS[6 + number % 5]} with {number}?" for number in range(count)]


def statements(count: int) -> list[str]:
    """Different short statements."""
    from blip2tools.cli.bench.random_models import WORDS

    return [
        f"a {WORDS[2 + n % 4]} {WORDS[6 + n % 5]} and a {WORDS[2 + n // 4 % 4]} {WORDS[7 + n % 4]}"
        for n in range(count)
    ]


def _asked(number: int) -> str:
    return f"Question: {questions(4)[number]} Short answer:"


def _stock_ask(stock: Stock, data: Sequence[bytes]) -> None:
    for number in range(4):
        stock.generate(data[0], _asked(number))


async def _ask(vision: Vision, data: Sequence[bytes]) -> None:
    await asyncio.gather(*(vision.aask(data[0], question) for question in questions(4)))


def _stock_match(stock: Stock, data: Sequence[bytes]) -> None:
    for text in statements(32):
        stock.match(data[0], text)


async def _match(vision: Vision, data: Sequence[bytes]) -> None:
    await vision.amatch(data[0], statements(32))


def _stock_captions(stock: Stock, data: Sequence[bytes]) -> None:
    for one in data:
        stock.generate(one, None)


async def _captions(vision: Vision, data: Sequence[bytes]) -> None:
    await vision.acaption(list(data))


def _stock_mixed(stock: Stock, data: Sequence[bytes]) -> None:
    for one in data:
        stock.generate(one, None)
        stock.generate(one, _asked(0))
        stock.generate(one, _asked(1))
        stock.match(one, statements(1)[0])


async def _mixed(vision: Vision, data: Sequence[bytes]) -> None:
    calls: list[Any] = []
    for one in data:
        calls += [vision.acaption(one), *(vision.aask(one, question) for question in questions(2))]
        calls.append(vision.amatch(one, statements(1)))
    await asyncio.gather(*calls)


CHOICES = ("a red cat", "a blue dog", "the house", "what is under")


def _stock_choose(stock: Stock, data: Sequence[bytes]) -> None:
    for choice in CHOICES:
        stock.rank(data[0], _asked(0), choice)


async def _choose(vision: Vision, data: Sequence[bytes]) -> None:
    await vision.aask(data[0], questions(1)[0], choices=CHOICES)


def _direct(stock: Stock, data: Sequence[bytes]) -> None:
    stock.direct(data[0], questions(1)[0])


async def _lone(vision: Vision, data: Sequence[bytes]) -> None:
    await vision.aask(data[0], questions(1)[0])


CASES = [
    Case("32 mixed requests about 8 pictures, cold", _stock_mixed, _mixed, 8, matcher=True),
    Case("32 mixed requests about 8 pictures, warm", _stock_mixed, _mixed, 8, warm=True, matcher=True),
    Case("4 questions on one picture, cold", _stock_ask, _ask, 1),
    Case("4 questions on one picture, warm", _stock_ask, _ask, 1, warm=True),
    Case("match, 1 picture x 32 texts, cold", _stock_match, _match, 1, matcher=True),
    Case("match, 1 picture x 32 texts, warm", _stock_match, _match, 1, warm=True, matcher=True),
    Case("16 captions of 16 pictures", _stock_captions, _captions, 16),
    Case("16 captions of 16 pictures, ours with their match", _stock_captions, _captions, 16, matcher=True),
    Case("4 choices ranked", _stock_choose, _choose, 1),
    Case("one lone question, against a direct call of our model code", _direct, _lone, 1),
]


def make_pictures(count: int, seed: int) -> list[bytes]:
    """Different pictures of a usual size, as PNG."""
    import random

    from PIL import Image

    chance = random.Random(seed)
    made = []
    for _ in range(count):
        small = Image.frombytes("RGB", (16, 12), chance.randbytes(16 * 12 * 3))
        buffer = io.BytesIO()
        small.resize((320, 240), Image.Resampling.BILINEAR).save(buffer, "PNG")
        made.append(buffer.getvalue())
    return made


def open_eyes(pair: Pair, beams: int, cache_mb: int = 256, *, matcher: bool = True) -> Vision:
    """`Vision` over a random pair, or over its captioner alone; no answers kept."""
    return eyes(pair.loaded, beams, cache_mb, matcher=matcher)


def eyes(loaded: Loaded, beams: int, cache_mb: int = 256, *, matcher: bool = True) -> Vision:
    """`Vision` over a loaded model, or over its captioner alone; no answers kept."""
    from blip2tools.engine.local import LocalEngine
    from blip2tools.settings import Settings
    from blip2tools.vision import Vision

    settings = Settings.check(
        {"num_beams": beams, "min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS, "deadline_s": 600}
    )
    alone = replace(loaded, matcher=None, matcher_pixels=None, matcher_words=None, matcher_name=None)
    engine = LocalEngine(
        lambda progress: loaded if matcher else alone,
        max_queue=settings.max_queue,
        max_batch=settings.max_batch * beams,
        cache_bytes=cache_mb * 2**20,
        pause_s=0,  # or what is done there would be measured with the next request
    )
    return Vision(settings, engine, trusted=True)


def measure(case: Case, pair: Pair, *, beams: int, rounds: int, clock: Clock) -> Comparison:
    """Stock and ours in turns; fresh pictures every round."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    stock = Stock(pair, beams)
    pairs: list[tuple[float, float]] = []
    with open_eyes(pair, beams, matcher=case.matcher) as vision:
        for number in range(rounds + 1):
            pictures = make_pictures(case.pictures, seed=1000 + number)
            if case.warm:
                vision.run(_see(vision, pictures, matcher=case.matcher))
            started = now()
            case.stock(stock, pictures)
            finish(pair)
            middle = now()
            vision.run(case.ours(vision, pictures))
            finish(pair)
            pairs.append((middle - started, now() - middle))
    pairs = pairs[1:]  # the first warms up code paths and allocators
    ratios = [theirs / ours for theirs, ours in pairs]
    return Comparison(
        case.name,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        1000 * statistics.median(theirs for theirs, _ in pairs),
        1000 * statistics.median(ours for _, ours in pairs),
        clock,
    )


def finish(pair: Pair) -> None:
    """Wait until a GPU has finished."""
    if pair.loaded.device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(pair.loaded.device)


async def _see(vision: Vision, pictures: Sequence[bytes], *, matcher: bool) -> None:
    """Put the pictures' features into the cache, with requests that the measured ones do not repeat."""
    await asyncio.gather(*(vision.aask(one, "and now?") for one in pictures))
    if matcher:
        await asyncio.gather(*(vision.amatch(one, ["nothing"]) for one in pictures))


def run(
    subjects: Iterable[Subject],
    *,
    beams: int = 1,
    rounds: int = 5,
    clock: Clock | None = None,
    only: str = "",
    tell: Callable[[str], None] = print,
) -> list[Comparison]:
    """Measure every case for each model, and report each row as it is measured.

    Args:
        subjects: the models, see `pairs.subjects`.
        beams: 1 is greedy.
        rounds: timed rounds of each case.
        clock: CPU time of this process, which other load disturbs less, or wall-clock time; without it the former on a
            CPU and the latter on a GPU.
        only: part of the names of the cases to run.
    """
    tell(f"{'case':60}  stock / ours: median (lowest-highest)   ms per round")
    rows: list[Comparison] = []
    for subject in subjects:
        chosen: Clock = clock or ("cpu" if subject.device == "cpu" else "wall")
        for case in CASES:
            if only not in case.name or (case.matcher and subject.pair.matcher is None):
                continue
            row = replace(measure(case, subject.pair, beams=beams, rounds=rounds, clock=chosen), model=subject.name)
            rows.append(row)
            spread = f"{row.median:5.2f}x ({row.lowest:.2f}-{row.highest:.2f})"
            tell(f"{row.model + ': ' + row.case:60}  {spread:>24}   {row.stock_ms:8.0f} -> {row.ours_ms:.0f}")
    return rows
