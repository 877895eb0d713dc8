"""Compiled decoding steps: switched on only if they say what the eager ones say, on this machine, now.

Compilers and graphs go wrong without an exception too, and differently with each card, driver and version: so the test is
run at every load, after the compilation, which takes far longer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from blip2tools.checkpoints import Loaded, Progress
from blip2tools.checkpoints.memory import free_memory
from blip2tools.model.compiled import shapes
from blip2tools.options import GenerationOptions, Spoken
from blip2tools.selftest.checks import GREEDY, HALF_PRECISION_GAP, TOKENS, Trial
from blip2tools.settings import Settings

EXACT_GAP = 1e-3  # mean log-probability, in float32
SHARE = 8  # of the free memory, one part of so many for the blocks

logger = logging.getLogger(__name__)


def switch_on(loaded: Loaded, settings: Settings, progress: Progress | None = None) -> Loaded:
    """The model with compiled decoding steps; or as it was, with the reason in `uncompiled` and in the log.

    Args:
        loaded: the model.
        settings: beams, the largest batch, and where the model is.
        progress: told how far it is.
    """
    steps = loaded.captioner.steps
    try:
        reason = _compile(loaded, settings, progress or (lambda what, share: None))
    except Exception as error:  # of a compiler, a driver or a library: the eager way is always there
        logger.warning("compiling the decoding steps broke off", exc_info=error)
        reason = f"they cannot be compiled here ({type(error).__name__})"
    if reason is None:
        steps.count.clear()
        return replace(loaded, compiled=True)
    steps.drop()
    logger.warning("decoding steps are not compiled: %s", reason)
    return replace(loaded, uncompiled=f"decoding steps are not compiled (`compile`), only slower: {reason}")


def _compile(loaded: Loaded, settings: Settings, progress: Progress) -> str | None:
    """What speaks against it; None if nothing does."""
    if loaded.quantize != "none" or settings.device == "spread":
        return "a quantized or spread model cannot be"
    what = "compiling the decoding steps"
    progress(what, None)

    def told(done: int, of: int) -> None:
        progress(what, done / of)

    steps = loaded.captioner.steps
    steps.compile(shapes({1, settings.num_beams}, most=settings.max_batch), _limit(loaded), told)
    if not steps.shapes:
        return "there is not enough free memory for it"
    progress("testing the compiled decoding steps", None)
    widest = settings.num_beams if any(shape.sequences == settings.num_beams for shape in steps.shapes) else 1
    beams = GenerationOptions(num_beams=widest, num_return_sequences=widest)  # the best beam seldom changes its place
    return _difference(Trial(loaded, None), {GREEDY, beams})


def _limit(loaded: Loaded) -> int | None:
    if loaded.device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(loaded.device)[0]) // SHARE
    free = free_memory()
    return None if free is None else free // SHARE


def _difference(trial: Trial, searches: set[GenerationOptions]) -> str | None:
    """What the compiled steps do otherwise than the eager ones; None if nothing, and then they are switched on.

    Captions and an answer, each search alone and together with rows that end before the others.
    """
    steps, every = trial.captioner.steps, range(len(trial.prompts))
    for options in searches:
        for rows in (every[:1], every):
            caps = [TOKENS if row % 2 == 0 else TOKENS // 4 for row in rows]
            eager = _said(trial, options, caps)
            steps.count.clear()
            steps.compiled = True
            compiled = _said(trial, options, caps)
            steps.compiled = False
            if not steps.count["compiled"]:
                return "the prompts of this model fit into no shape"
            if not all(
                _agree(trial, row, *texts) for row in rows for texts in zip(eager[row], compiled[row], strict=True)
            ):
                return "they do not say what the eager ones say"
    steps.compiled = True
    return None


def _said(trial: Trial, options: GenerationOptions, caps: Sequence[int]) -> list[list[Spoken]]:
    """The first rows' texts, as many as there are caps."""
    tokens = torch.cat([trial.tokens, trial.tokens[:1]])[: len(caps)]
    return trial.captioner.speak(tokens, trial.prompts[: len(caps)], options, max_new_tokens=caps)


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
    picture = row % len(trial.tokens)
    logits = captioner.plain_logits(trial.tokens[picture : picture + 1], trial.prompts[row], ids)
    told = torch.tensor(ids, device=logits.device)[:, None]
    likely = float(logits.log_softmax(-1).gather(1, told).mean())
    return (
        abs(likely - compiled.logprob) <= HALF_PRECISION_GAP and compiled.logprob >= eager.logprob - HALF_PRECISION_GAP
    )
