"""Memory of the device: what is taken, what can be given back, and main memory as a second tier behind a GPU's."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from blip2tools.engine.cache import Spill

if TYPE_CHECKING:
    from torch import Tensor, nn

    from blip2tools.checkpoints import Loaded


def second_tier(device: str, budget_bytes: int) -> Spill[Tensor] | None:
    """Main memory behind a GPU's; None on a CPU and on Apple's chips, where it is the same memory."""
    if not budget_bytes or not device.startswith("cuda"):
        return None
    # Pageable, not pinned: pinned blocks are rounded up to powers of two, which the budget does not count, and a
    # picture's states (0.7 MB) cross in a fraction of a millisecond either way.
    return Spill(budget_bytes, away=lambda features: features.cpu(), back=lambda features: features.to(device))


def modules(loaded: Loaded) -> list[nn.Module]:
    """The modules that hold a model's weights."""
    return [*loaded.captioner.modules(), *(loaded.matcher.modules() if loaded.matcher is not None else ())]


def parts(loaded: Loaded) -> list[weakref.ref[Any]]:
    """References to the `modules` that do not keep them alive."""
    return [weakref.ref(module) for module in modules(loaded)]


def settle(loaded: Loaded) -> Iterator[None]:
    """Make a quantized model on a processor quicker, step by step: a caller may stop after each, which takes up to a second.

    Its matrices are packed for products and moved into huge pages. Other models stay as they are.
    """
    if loaded.quantize == "none" or loaded.device != "cpu":
        return
    from blip2tools.engine.pages import collapse
    from blip2tools.model.quantized import unpacked

    for layer in unpacked(modules(loaded)):
        layer.pack()
        yield
    yield from collapse()


def free(left: Sequence[weakref.ref[Any]] = ()) -> None:
    """Give memory that torch keeps for later back to the device.

    Args:
        left: the `parts` of a model that nobody uses any more. They are gone already, unless they form circles, as those of the
            library's own models may: then garbage is collected, which takes 0.2 s among all that torch and transformers are.
    """
    import torch

    if any(one() is not None for one in left):
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def taken(device: str) -> int:
    """Bytes that are taken on a GPU."""
    import torch

    return int(torch.cuda.memory_allocated(device))


def is_short(error: BaseException) -> bool:
    """Whether an error says that memory was not enough."""
    from blip2tools.checkpoints.memory import is_out_of_memory

    return is_out_of_memory(error)
