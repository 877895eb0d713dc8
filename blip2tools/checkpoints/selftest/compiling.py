"""Recorded and compiled decoding: switched on only if it gives the same words as eager decoding, on this machine, now.

Compilers and graphs can go wrong without an exception, differently with each card, driver and version. So the test is run at
every load, after the recording or compilation, which takes far longer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blip2tools.checkpoints import Loaded, Progress
from blip2tools.checkpoints.memory import free_memory
from blip2tools.checkpoints.selftest.checks import GREEDY, HALF_PRECISION_GAP, TOKENS, Trial
from blip2tools.model import kernels
from blip2tools.model.compiled import Way, shapes
from blip2tools.model.options import GenerationOptions, Spoken
from blip2tools.model.recorded import COUNTS, PLACES, Recorded
from blip2tools.settings import Settings

EXACT_GAP = 1e-3  # mean log-probability, or share of a feature's length, in float32
HALF_FEATURE_GAP = 0.05  # share of a feature's length: sums of 16 bits are rounded in another order for another batch
NOT_WHOLE = "a quantized or spread model cannot be"
SHARE = 8  # of the free memory, one part of so many for the blocks
UNASKED = 2 * 2**30  # bytes, the most for blocks that are there by default: others may want the card's memory too

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A model's results for the bundled pictures."""

    features: list[
        Tensor
    ]  # for every number of rows that is recorded: image tokens, the matcher's, logits behind prompts
    texts: dict[GenerationOptions, list[list[list[Spoken]]]]  # of the first row alone, and of every row


def switch_on(loaded: Loaded, settings: Settings, progress: Progress | None = None) -> Loaded:
    """The model as `compile` and `cuda_graphs` ask; where that is impossible, with the reason in `uncompiled` and in the log.

    Args:
        loaded: the model.
        settings: those two, beams, the largest batch, and where the model is.
        progress: receives the progress.
    """
    cuda = loaded.device.startswith("cuda")
    whole = loaded.quantize == "none" and settings.device != "spread"
    graphs = settings.cuda_graphs and cuda and whole  # on by default: no fault where they are impossible
    wanted: dict[Way, bool] = {"compiled": settings.compile, "recorded": graphs}
    ways = [way for way, asked in wanted.items() if asked]
    reasons: list[str] = []
    for way in ways:
        reason = _tried(loaded, settings, way, progress) if whole else NOT_WHOLE
        if reason is not None and whole and kernels.distrust():
            logger.warning("decoding steps do not use our own kernels: %s", reason)
            drop(loaded)
            reason = _tried(loaded, settings, way, progress)
        if reason is None:
            loaded.captioner.steps.count.clear()
            if cuda:
                torch.cuda.empty_cache()  # the test needed more memory than later work will
            break
        drop(loaded)
        logger.warning("decoding steps are not %s: %s", way, reason)
        setting = "compile" if way == "compiled" else "cuda_graphs"
        reasons.append(f"decoding steps are not {way} (`{setting}`), only slower: {reason}")
    else:
        return replace(loaded, uncompiled="; ".join(reasons) or None)
    return replace(
        loaded,
        compiled=way == "compiled",
        recorded=cuda and settings.cuda_graphs,
        uncompiled="; ".join(reasons) or None,
    )


def _tried(loaded: Loaded, settings: Settings, way: Way, progress: Progress | None) -> str | None:
    """As `_switched`, but an error becomes a reason."""
    try:
        return _switched(loaded, settings, way, progress or (lambda what, share: None))
    except Exception as error:  # of a compiler, a driver or a library: the eager way is always there
        logger.warning("the attempt at %s steps ended with an error", way, exc_info=error)
        return f"they cannot be {way} here ({type(error).__name__})"


def _switched(loaded: Loaded, settings: Settings, way: Way, progress: Progress) -> str | None:
    """The reason against it; None if there is none, and then it is on."""
    captioner, steps, limit = loaded.captioner, loaded.captioner.steps, _limit(loaded)
    if way == "recorded":
        limit = UNASKED if limit is None else min(limit, UNASKED)
    beams = GenerationOptions(num_beams=settings.num_beams, num_return_sequences=settings.num_beams)
    before = _shown(loaded, {GREEDY, beams})  # the best beam seldom changes, so all of them
    what = "compiling the decoding steps" if way == "compiled" else "recording the decoding steps"
    progress(what, None)

    def told(done: int, of: int) -> None:
        progress(what, done / of)

    wanted = shapes({1, settings.num_beams}, most=settings.max_batch)
    steps.record(wanted, limit, told, compiler=way == "compiled")
    if not steps.shapes:
        return "there is not enough free memory for it"
    if loaded.device.startswith("cuda") and settings.cuda_graphs:
        pool = torch.cuda.graph_pool_handle()
        captioner.record(pool, limit)
        if loaded.matcher is not None:
            loaded.matcher.record(pool)
    progress(f"testing the {way} decoding steps", None)
    widths = {shape.sequences for shape in steps.shapes}
    steps.recorded = True
    return _difference(loaded, before, {options for options in before.texts if options.num_beams in widths})


def drop(loaded: Loaded) -> None:
    """Undo `switch_on`: everything is eager, and the memory is freed."""
    loaded.captioner.steps.drop()
    for one in recordings(loaded):
        one.drop()
    torch.cuda.empty_cache()  # else the card keeps what graphs took; without a card it does nothing


def recordings(loaded: Loaded) -> list[Recorded]:
    """Everything that can be recorded in a model, except steps."""
    return [*loaded.captioner.recordings, *(loaded.matcher.recordings if loaded.matcher is not None else ())]


def _limit(loaded: Loaded) -> int | None:
    if loaded.device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(loaded.device)[0]) // SHARE
    free = free_memory()
    return None if free is None else free // SHARE


def _shown(loaded: Loaded, searches: set[GenerationOptions]) -> _Shown:
    """Features, and captions and an answer: each search alone and together with rows that end before the others."""
    trial = Trial(loaded, None)
    return _Shown(_features(loaded, trial), {options: _texts(trial, options) for options in searches})


def _features(loaded: Loaded, trial: Trial) -> list[Tensor]:
    captioner, matcher = trial.captioner, loaded.matcher
    features = []
    for count in COUNTS if loaded.device.startswith("cuda") else COUNTS[:1]:  # elsewhere they are not recorded
        some = [row % len(trial.pixels) for row in range(count)]
        states = captioner.trunk.see(trial.pixels[some])
        tokens = captioner.query(states)
        features += [tokens, *(captioner.first_logits(tokens, [prompt] * count) for prompt in _prompts(trial))]
        if matcher is not None and loaded.matcher_pixels is not None:
            states = states if loaded.shared_trunk else matcher.trunk.see(trial.matcher_pixels[some])
            features.append(matcher.image_features(states))
    return features


def _texts(trial: Trial, options: GenerationOptions) -> list[list[list[Spoken]]]:
    """The texts for each number of rows: a GPU uses other kernels for one, for few and for more."""
    counts = (1, 4, 17, 33) if trial.loaded.device.startswith("cuda") else (1, 4)
    return [_said(trial, options, count) for count in counts]


def _prompts(trial: Trial) -> list[list[int]]:
    """Prompts of every length that may be recorded: the picture alone, a question, and one that fills the places."""
    captioner, question = trial.captioner, list(trial.prompts[-1])
    if captioner.bos is None:
        return [question]
    bos, words = question[:1], question[1:]
    most = PLACES - captioner.num_queries - 1
    return [bos, [*bos, *words[: most // 2]], [*bos, *(words * most)[:most]]]


def _said(trial: Trial, options: GenerationOptions, count: int) -> list[list[Spoken]]:
    """The texts of so many rows."""
    caps = [TOKENS if row % 2 == 0 else TOKENS // 4 for row in range(count)]
    prompts = [trial.prompts[row % len(trial.prompts)] for row in range(count)]
    tokens = trial.tokens[[_picture(trial, row) for row in range(count)]]
    return trial.captioner.speak(tokens, prompts, options, max_new_tokens=caps)


def _picture(trial: Trial, row: int) -> int:
    """Which of the pictures a row is about."""
    return row % len(trial.prompts) % len(trial.tokens)


def _difference(loaded: Loaded, before: _Shown, searches: set[GenerationOptions]) -> str | None:
    """How the model's results differ from before; None if they do not."""
    steps, trial = loaded.captioner.steps, Trial(loaded, None)
    gap = EXACT_GAP if trial.captioner.dtype == torch.float32 else HALF_FEATURE_GAP
    for old, new in zip(before.features, _features(loaded, trial), strict=True):
        if not float((new - old).norm()) <= gap * float(old.norm()):
            return "they give other features than eager steps"
    for options in searches:
        steps.count.clear()
        texts = _texts(trial, options)
        if not steps.count[steps.way]:
            return "the prompts of this model fit into no shape"
        for old_rows, new_rows in zip(before.texts[options], texts, strict=True):
            for row, pair in enumerate(zip(old_rows, new_rows, strict=True)):
                if not all(_agree(trial, row, *both) for both in zip(*pair, strict=True)):
                    return "they give other words than eager steps"
    return None


def _agree(trial: Trial, row: int, eager: Spoken, compiled: Spoken) -> bool:
    """Whether both say the same; in half precision, where sums are rounded in another order, whether both are right."""
    captioner = trial.captioner
    exact = captioner.dtype == torch.float32
    if eager.ids == compiled.ids and eager.finish == compiled.finish:
        return abs(eager.logprob - compiled.logprob) <= (EXACT_GAP if exact else HALF_PRECISION_GAP)
    if exact:
        return False
    # A near tie fell to another word. What follows must be as likely as was said, and no less likely than the eager text.
    ids = [*compiled.ids, *([captioner.eos] if compiled.finish == "eos" else [])]
    picture = _picture(trial, row)
    logits = captioner.plain_logits(trial.tokens[picture : picture + 1], trial.prompts[row % len(trial.prompts)], ids)
    told = torch.tensor(ids, device=logits.device)[:, None]
    likely = float(logits.log_softmax(-1).gather(1, told).mean())
    return (
        abs(likely - compiled.logprob) <= HALF_PRECISION_GAP and compiled.logprob >= eager.logprob - HALF_PRECISION_GAP
    )
