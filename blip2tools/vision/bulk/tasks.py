"""What is asked of each picture, and the rows that come of it: `{source, ...result}`, or `{source, error: {code, message}}`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args

from blip2tools.errors import CancelledError, InvalidInputError, ModelUnavailableError, VisionError, to_vision_error
from blip2tools.model.options import Generation
from blip2tools.schemas import AskArguments, CaptionArguments, FeatureArguments, MatchArguments, parse
from blip2tools.settings import Settings
from blip2tools.vision.bulk.inputs import is_address
from blip2tools.vision.styles import STYLES

if TYPE_CHECKING:
    from blip2tools.vision import Vision

Verb = Literal["caption", "ask", "match", "features"]
Row = dict[str, Any]

VERBS: Final[tuple[Verb, ...]] = get_args(Verb)
NEEDS_MATCHER: Final = ("match", "features")
AT_ONCE: Final = 64  # requests in work: enough to fill batches, as for a list in Python
DEADLINE_S: Final = 3600.0  # of a picture, which waits for up to 63 others on a device that takes seconds for each
# Settings that decide what is said, beside the generation options.
_SPEECH: Final = ("best_of", "abstain_below", "vqa_template", "calibration")
_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "caption": ("prompt", "style", "num_captions", "region"),
    "ask": ("questions", "choices", "region"),
    "match": ("texts", "region"),
    "features": ("region",),
}


@dataclass(frozen=True)
class Task:
    """One verb with its options, the same for every picture.

    Attributes:
        verb: `caption`, `ask`, `match` or `features`.
        options: keywords of that verb of `Vision`; of `ask`, `questions` is a list and each is asked about every picture.
    """

    verb: Verb
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, verb: str, options: Mapping[str, Any] | None = None) -> Self:
        """A task that can be done, without what is left at its default or said twice.

        Raises:
            InvalidInputError: there is no such verb or option, or a value is out of bounds.
        """
        if verb not in VERBS:
            raise InvalidInputError(f"The verb must be one of {', '.join(VERBS)}.")
        given = {name: value for name, value in (options or {}).items() if value is not None}
        if unknown := [name for name in given if name not in _OPTIONS[verb]]:
            raise InvalidInputError(f"The verb '{verb}' has no option '{unknown[0]}'.")
        for name in ("questions", "texts", "choices"):
            if isinstance(given.get(name), str):
                raise InvalidInputError(f"The option '{name}' must be a list.")
            if name in given:
                given[name] = list(dict.fromkeys(given[name]))
        task = cls(verb, given)
        task._check()
        return task

    def _check(self) -> None:
        given = dict(self.options)
        if given.pop("style", "plain") not in STYLES:
            raise InvalidInputError(f"The argument 'style' must be one of {', '.join(STYLES)}.")
        match self.verb:
            case "caption":
                parse(CaptionArguments, {"image": "-", **given, "prompt": given.get("prompt") or None})
            case "ask":
                questions = given.pop("questions", [])
                if not questions:
                    raise InvalidInputError("At least one question is needed.")
                for question in questions:
                    parse(AskArguments, {"image": "-", "question": question, **given})
            case "match":
                parse(MatchArguments, {"image": "-", "texts": [], **given})
            case "features":
                parse(FeatureArguments, {"image": "-", **given})

    @property
    def at_once(self) -> int:
        """Pictures in work at a time; of one with several questions, each is a request of its own."""
        return max(1, AT_ONCE // len(self.options.get("questions", [None])))

    @property
    def rows(self) -> int:
        """Rows that a picture has."""
        return len(self.options.get("questions", [None]))

    def told(self, settings: Settings) -> dict[str, Any]:
        """What decides the rows besides the picture and the model, as JSON."""
        facts: dict[str, Any] = {"verb": self.verb, **self.options}
        if self.verb in ("caption", "ask"):
            facts |= {name: getattr(settings, name) for name in (*Generation.model_fields, *_SPEECH)}
        return facts

    def failed(self, source: str, error: VisionError) -> list[Row]:
        """The rows of a picture that could not be looked at."""
        return [self._row(source, question, error) for question in self.options.get("questions", [None])]

    async def look(self, vision: Vision, source: str, image: Any = None) -> list[Row]:
        """The rows of one picture; whatever is wrong with it is in them.

        Args:
            vision: looks.
            source: what the rows call it: a path or an address.
            image: the picture itself, where it was read already.

        Raises:
            CancelledError: the work is ended, or cannot go on, and this picture has no row.
            ModelUnavailableError: likewise.
        """
        if image is None:
            image = source if is_address(source) else Path(source)
        if self.verb != "ask":
            verb: Any = {"caption": vision.acaption, "match": vision.amatch, "features": vision.afeatures}[self.verb]
            return [self._row(source, None, await _outcome(lambda: verb(image, **self.options)))]
        options = {name: value for name, value in self.options.items() if name != "questions"}

        async def answer(question: str) -> Row:
            return self._row(source, question, await _outcome(lambda: vision.aask(image, question, **options)))

        # The first one decodes the picture, which is then kept for the others.
        first, *others = self.options["questions"]
        return [await answer(first), *await asyncio.gather(*map(answer, others))]

    def _row(self, source: str, question: str | None, outcome: Any) -> Row:
        row: Row = {"source": spelled(source)}
        if question is not None:
            row["question"] = question
        if isinstance(outcome, VisionError):
            return {**row, "error": {"code": outcome.code, "message": outcome.message}}
        told = outcome.model_dump(mode="json")
        told["image"]["source"] = row["source"]  # whatever way the picture came here
        return {**row, **told}


def spelled(source: str) -> str:
    """A source as JSON can hold it: bytes that are not UTF-8 are written `\\xff`."""
    return source.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def bulk_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for many pictures: where nobody has said how long one may take, it may wait for all that were before it."""
    named = Settings.load(**given).model_fields_set
    return {**given} if "deadline_s" in named else {**given, "deadline_s": DEADLINE_S}


async def _outcome(verb: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await verb()
    except (CancelledError, ModelUnavailableError):
        raise  # says nothing about this picture: the next run shall look at it
    except Exception as error:  # noqa: BLE001  one bad picture must not end the run
        return to_vision_error(error)
