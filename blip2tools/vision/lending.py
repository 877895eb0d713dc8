"""Eyes that one process lends to another of the same user: the lender's side, and the borrower's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from copy import copy
from typing import TYPE_CHECKING, Self, TypeVar

from blip2tools.checkpoints.plan import Plan
from blip2tools.pictures.store import Store
from blip2tools.schemas import ImageResult
from blip2tools.vision.keywords import ImageInput

if TYPE_CHECKING:
    from blip2tools.engine.protocol import Engine
    from blip2tools.vision.verbs import Verbs

R = TypeVar("R", bound=ImageResult)


class LendingVerbs:
    """What a server needs to lend its eyes to commands, and a command to borrow them."""

    _engine: Engine
    _verbs: Verbs
    _owner: Self | None

    def for_commands(self) -> Self:
        """The same eyes for pictures that other processes of the same user bring: these are not kept, and no client of this
        process gets to know their handles."""
        eyes = copy(self)
        eyes._owner = self
        eyes._verbs = self._verbs.apart(Store(0))
        return eyes

    def has_loaded(self, plan: Plan) -> bool:
        """Whether these checkpoints are what is loaded now."""
        status = self._engine.status()
        matcher = None if plan.matcher is None else plan.matcher.name
        return status.loaded and (status.model, status.matcher) == (plan.captioner.name, matcher)

    @property
    def notes(self) -> tuple[str, ...]:
        """What every result says about the loaded model."""
        return self._verbs.warnings()

    async def alooked_at_elsewhere(self, image: ImageInput, look: Callable[[bytes | memoryview], Awaitable[R]]) -> R:
        """Read a picture here, under the rules of these eyes, and let another process look at it.

        Args:
            image: any kind of it.
            look: takes the encoded bytes to the other process, and brings its result.

        Returns:
            The result as these eyes would have given it: with the origin that the picture has here.

        Raises:
            VisionError: it cannot be read; or what `look` raises.
        """
        return await self._verbs.looked_at_elsewhere(image, look)
