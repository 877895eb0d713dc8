"""Models to measure: random ones of a published size, or any checkpoint, each in the library's form and in ours."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from blip2tools.checkpoints.family import CAPTIONERS
from blip2tools.errors import InvalidInputError

if TYPE_CHECKING:
    import torch

    from blip2tools.cli.bench.random_models import Pair, Size

RANDOM = ("mid", *(member.name for member in CAPTIONERS))
REDUCED = 8  # on a CPU, one layer of so many is built; their cost is what differs between the sizes


@dataclass(frozen=True, slots=True)
class Subject:
    """One model on both sides."""

    name: str
    pair: Pair
    device: str
    note: str  # what to know about it; empty when there is nothing


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that say what to measure, for every measurement against stock transformers."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--random",
        default="mid",
        choices=RANDOM,
        metavar="SIZE",
        help="random weights: mid (default, fits one CPU core), or a captioner's short name such as opt-2.7b for its "
        "published configuration: whole on a GPU, fewer layers on a CPU",
    )
    which.add_argument("--model", metavar="M", help="a real checkpoint: short name, hub id or folder, already here")
    parser.add_argument("--matcher", default="auto", metavar="M", help="the matcher for --model (default auto)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu or cuda:N")
    parser.add_argument("--family", action="append", choices=["opt", "t5"], help="of mid: only this language model")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of both sides (default 1)")


def subjects(arguments: argparse.Namespace, tell: Callable[[str], None]) -> Iterator[Subject]:
    """The models that the options ask for, one after the other; says what is special about each.

    Raises:
        VisionError: a checkpoint that is not here or cannot be loaded, or a device that is not there.
    """
    if arguments.model is not None:
        found: Iterator[Subject] = iter([_checkpoint(arguments)])
    else:
        found = _random(arguments.random, arguments.family or ("opt", "t5"), arguments.device)
        import torch

        torch.set_num_threads(arguments.threads)
    for subject in found:
        tell(f"{subject.name} on {subject.device}{': ' if subject.note else ''}{subject.note}")
        yield subject


def published_size(name: str, *, share: int = 1) -> Size:
    """The published widths of a captioner, with one layer of `share`."""
    from blip2tools.checkpoints.published import number, published
    from blip2tools.cli.bench.random_models import Size

    facts = published(name)
    vision, qformer, text = facts.vision, facts.qformer, facts.text
    t5 = text["model_type"].value == "t5"
    width, inner, layers, heads = (
        ("d_model", "d_ff", "num_layers", "num_heads")
        if t5
        else ("hidden_size", "ffn_dim", "num_hidden_layers", "num_attention_heads")
    )

    def part(found: Any) -> tuple[int, int, int]:
        depth = max(2, number(found, "num_hidden_layers") // share)
        return number(found, "hidden_size"), depth, number(found, "num_attention_heads")

    return Size(
        vision=part(vision),
        qformer=part(qformer),
        language=(number(text, width), max(2, number(text, layers) // share), number(text, heads), number(text, inner)),
        vocabulary=number(text, "vocab_size"),
        queries=number(facts.top, "num_query_tokens"),
        vision_inner=number(vision, "intermediate_size"),
        image_size=number(vision, "image_size"),
    )


def _random(name: str, families: Sequence[str], device: str) -> Iterator[Subject]:
    import torch

    place = _device(device)
    from blip2tools.cli.bench.random_models import MID, build  # after the device is known: it imports transformers

    cuda = place.startswith("cuda")
    if name == "mid":
        for family in families:
            kind: Literal["opt", "t5"] = "opt" if family == "opt" else "t5"
            yield Subject(family, build(MID, kind, dtype=_precision(kind, cuda), device=place), place, "random weights")
        return
    whole, size = published_size(name), published_size(name, share=1 if cuda else REDUCED)
    kind = "t5" if "t5" in name else "opt"
    layers = [
        f"{small[1]} of {large[1]} {part} layers"
        for part, small, large in (
            ("vision", size.vision, whole.vision),
            ("Q-Former", size.qformer, whole.qformer),
            ("language", size.language, whole.language),
        )
    ]
    note = "random weights, full size" if cuda else f"random weights, reduced for the CPU to {', '.join(layers)}"
    torch.manual_seed(0)
    yield Subject(name, build(size, kind, dtype=_precision(kind, cuda), device=place), place, note)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name == "cpu" or (name.startswith("cuda") and torch.cuda.is_available()):
        return name
    raise InvalidInputError(f"There is no device {name!r} to measure on; choose cpu or cuda:N.")


def _precision(family: str, cuda: bool) -> torch.dtype:
    import torch

    if not cuda:
        return torch.float32
    return torch.float16 if family == "opt" else torch.bfloat16


def _checkpoint(arguments: argparse.Namespace) -> Subject:
    """Both sides of a checkpoint, which is loaded twice: stock must not run what we have rearranged."""
    from blip2tools import checkpoints
    from blip2tools.settings import Settings

    settings = Settings.check(
        {
            "model": arguments.model,
            "matcher": arguments.matcher,
            "device": arguments.device,
            "threads": arguments.threads,
        }
    )
    plan = checkpoints.locate(settings)
    from blip2tools.cli.bench.random_models import Pair  # after the model is found: it imports transformers

    loaded = checkpoints.load(settings, lambda what, share: None, download=False)
    where = loaded.captioner.dtype, loaded.device
    captioner, processor = stock("Blip2ForConditionalGeneration", plan.captioner.folder, *where)
    matcher = matcher_processor = None
    if plan.matcher is not None and loaded.matcher is not None:
        matcher, matcher_processor = stock("Blip2ForImageTextRetrieval", plan.matcher.folder, *where)
    pair = Pair(captioner, processor, matcher, matcher_processor, loaded)
    return Subject(loaded.model, pair, loaded.device, f"{loaded.dtype}, matcher {loaded.matcher_name or 'none'}")


def stock(kind: str, folder: Any, dtype: torch.dtype, device: str) -> tuple[Any, Any]:
    """The library's model of a folder, and its processor."""
    import transformers
    from transformers.utils import logging as library_logging

    voice: Any = library_logging
    voice.disable_progress_bar()
    config: Any = transformers.Blip2Config.from_pretrained(folder, local_files_only=True)
    if kind == "Blip2ForImageTextRetrieval":
        config.qformer_config.use_qformer_text_input = True  # older files have another name for it
    model = getattr(transformers, kind).from_pretrained(
        folder, config=config, dtype=dtype, use_safetensors=True, local_files_only=True
    )
    # The library keeps the Q-Former in 32 bits only with float16; stock users of bfloat16 get it rounded.
    processor = cast(Any, transformers.Blip2Processor).from_pretrained(folder, local_files_only=True)
    processor.num_query_tokens = config.num_query_tokens  # else older files leave the picture out of the prompt
    return model.to(device).eval(), processor
