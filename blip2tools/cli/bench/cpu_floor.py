"""The least that stages can take on a processor: its own rates, measured, and the bytes and products of a stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from blip2tools.cli.bench.cpu_side import TEXTS

_BYTES: Final = 2**28  # more than caches hold
_SIDE: Final = 1024  # of the matrices that are multiplied
_SECONDS: Final = 0.5  # that each rate is measured for


def floors(model: Path, matcher: Path | None, sides: Sequence[str], threads: int) -> dict[str, Any]:
    """Rates of this machine, and for each side the least seconds of each stage.

    A stage takes as long as reading its weights once, or as its products, whichever is more.

    Args:
        model: folder of the captioner.
        matcher: folder of the matcher; None without one.
        sides: names of the sides.
        threads: that they use.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rates = {"bandwidth": _bandwidth(), "float32": _products(torch.float32), "int8": _products(torch.int8)}
    finally:
        torch.set_num_threads(before)
    return {**rates, "stages": {side: _least(model, matcher, side, rates) for side in sides}}


def _least(model: Path, matcher: Path | None, side: str, rates: dict[str, float]) -> dict[str, float]:
    bits = {"8bit": 8, "4bit": 4}.get(side)
    rate = rates["float32"] if bits is None else max(rates["float32"], rates["int8"])
    captioner = _model(model, bits)
    tower, language = captioner.vision_model, captioner.language_model
    places = tower.embeddings.num_positions
    queries = captioner.query_tokens.shape[1]

    def least(part: Any, rows: int) -> float:
        values, size = _weights(part)
        return max(size / rates["bandwidth"], 2 * values * rows / rate)

    # A decoder reads its layers and its output layer once for each token, whatever the number of beams; T5's encoder is read once
    # for a prompt.
    decoder = [language.model.decoder.layers] if hasattr(language, "model") else [language.decoder.block]
    step = [*decoder, language.lm_head]
    found = {
        "vision tower": least(tower.encoder, places),
        "Q-Former": least(captioner.qformer, queries),
        "reading picture and prompt": least(
            language.model.decoder.layers if hasattr(language, "model") else language.encoder, queries + 1
        )
        + least(language.lm_head, 1),
        "a token, 1 beam": sum(least(part, 1) for part in step),
        "a token, 5 beams": sum(least(part, 5) for part in step),
    }
    if matcher is not None:
        found[f"match of {TEXTS} texts"] = least(_model(matcher, bits).qformer, TEXTS * queries)
    return found


def _model(folder: Path, bits: int | None) -> Any:
    """The parts of a checkpoint, without values."""
    import json

    import torch

    from blip2tools.model.configuration import Blip2Config
    from blip2tools.model.modules import CaptionerModel, MatcherModel

    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = Blip2Config.read(written)
    retrieval = "Blip2ForImageTextRetrieval" in written.get("architectures", [])
    config.qformer_config.use_qformer_text_input = retrieval
    with torch.device("meta"):
        made: Any = MatcherModel(config) if retrieval else CaptionerModel(config)
        if bits is not None:
            from blip2tools.model.quantized import replace_linears

            replace_linears(made, bits)
    return made


def _weights(part: Any) -> tuple[int, int]:
    """Values of the matrices of a part that are multiplied, and bytes of all of it."""
    size = sum(one.numel() * one.element_size() for one in part.parameters())
    layers = [one for one in part.modules() if hasattr(one, "in_features")]
    return sum(one.in_features * one.out_features for one in layers), size


def _bandwidth() -> float:
    """Bytes a second that are read from memory."""
    import torch

    numbers = torch.ones(_BYTES // 4)
    return max(_BYTES / _fastest(numbers.sum), _BYTES / _fastest(lambda: torch.dot(numbers, numbers)))


def _products(dtype: Any) -> float:
    """Multiplications and additions a second, of large matrices."""
    import torch

    one = torch.ones(_SIDE, _SIDE).to(dtype)
    try:
        multiply: Callable[[], Any] = (lambda: torch._int_mm(one, one)) if dtype == torch.int8 else (lambda: one @ one)
        return 2 * _SIDE**3 / _fastest(multiply)
    except (RuntimeError, AttributeError):  # not everywhere
        return 0.0


def _fastest(work: Callable[[], Any]) -> float:
    """Seconds of the fastest run, of CPU time where it is one thread's: other load on the machine counts less then."""
    import torch

    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    work()
    times: list[float] = []
    while not times or sum(times) < _SECONDS:
        started = now()
        work()
        times.append(now() - started)
    return min(times)
