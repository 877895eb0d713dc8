"""One verb over many pictures: results in order, with failures, warnings, and progress on a terminal."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from blip2tools.cli.console import NO_MODEL, OK, SOME_FAILED, USAGE, Bar, say, tell
from blip2tools.cli.inputs import IMAGES_HELP, Given, given_pictures
from blip2tools.cli.options import AddCommand, given_settings, names_a_model, setting_options
from blip2tools.errors import InvalidInputError, ModelUnavailableError, VisionError, to_vision_error
from blip2tools.pictures.references import handle_in, place_of
from blip2tools.schemas.shown import printable
from blip2tools.vision.keywords import GenerationKeywords
from blip2tools.vision.styles import STYLES

if TYPE_CHECKING:
    from blip2tools.checkpoints.plan import Plan
    from blip2tools.cli.asking import Eyes
    from blip2tools.schemas import AnswerResult, CaptionResult, ImageResult, MatchResult, ReadResult, SurveyResult, Tile
    from blip2tools.settings import Settings
    from blip2tools.vision import Vision

Picture: TypeAlias = str | bytes

# Pictures in progress at a time: enough to keep the engine busy, few enough to keep memory small over a long list.
IN_FLIGHT = 8
AHEAD = 64  # that are begun or wait to be: one slow picture must not hold up those behind it
# From so many pictures on it pays to record CUDA graphs: on an H100 that takes 5 to 8 s, and eight captions then take 75 ms
# instead of 200.
MANY = 500
_PICTURE = re.compile(r"(?i)(data|file|img)[:_]\S*|-|\S+\.(jpe?g|png|webp|gif|bmp|avif|hei[cf]|tiff?)")  # no question
SHOWN = 200  # characters of a reference: a data: URI has millions


def look(
    arguments: argparse.Namespace,
    verb: Callable[[Eyes, Picture], Awaitable[Any]],
    show: Callable[[Any], str],
    *,
    settings: Mapping[str, Any],
    download: bool,
) -> int:
    """Run a verb on every picture of the command line.

    Args:
        arguments: `image`, the references, and `json`.
        verb: one picture's result, from a reference or bytes.
        show: a result for a person.
        settings: given as options.
        download: whether a missing model may be downloaded.

    Returns:
        The exit status.
    """
    from blip2tools.cli.asking import Eyes
    from blip2tools.settings import Settings
    from blip2tools.vision import Vision

    chosen = Settings.load(**settings)
    given = given_pictures(arguments.image, chosen.max_image_bytes)
    if len(given) < MANY and "cuda_graphs" not in chosen.model_fields_set:
        settings = {**settings, "cuda_graphs": False}
    # The first picture that can be read loads the model: errors in arguments and files need none.
    vision = Vision.load(preload=False, download=download, **settings)
    try:
        eyes = Eyes(vision, _checked(vision.settings, download=download))
        report = _Outcomes(
            arguments.json, show, several=[one.name for one in given] != arguments.image or len(given) > 1
        )
        status = vision.run(_all(eyes, given, verb, report))
    except KeyboardInterrupt:
        vision.abandon()  # closing would wait for an import
        raise
    except BaseException:
        vision.close()
        raise
    vision.close()
    return status


def _checked(settings: Settings, *, download: bool) -> Plan:
    """What is to be loaded; what is not here and may not be downloaded is refused, which is known without loading anything.

    Raises:
        ModelUnavailableError: with what fetches it.
    """
    from blip2tools import checkpoints

    plan = checkpoints.locate(settings)
    for part in (plan.captioner, plan.matcher):
        if part is not None and not part.here and (settings.offline or not download):
            raise ModelUnavailableError(f"The model {part.name} is not on this computer; run {part.pull_command}.")
    return plan


async def _all(
    eyes: Eyes,
    given: Sequence[Given],
    verb: Callable[[Eyes, Picture], Awaitable[Any]],
    report: _Outcomes,
) -> int:
    vision = eyes.own
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def attempt(one: Given) -> Any:
        if isinstance(one.image, VisionError):
            return one.image
        try:
            return await verb(eyes, one.image)
        except Exception as error:  # noqa: BLE001 - one bad picture must not stop the list
            return to_vision_error(error)

    async def guarded(one: Given) -> Any:
        async with gate:
            found = await attempt(one)
            if not isinstance(found, ModelUnavailableError) or vision.loaded:
                return found
            if vision.loading is None:
                raise found  # the next picture would fail as well
            await vision.aready()  # a call has a deadline, a large model takes longer
            return await attempt(one)

    shown = asyncio.ensure_future(_show_loading(vision))
    tasks: deque[asyncio.Task[Any]] = deque()
    with Bar("pictures", total=len(given), show=len(given) > 1) as bar:
        try:
            for number, one in enumerate(given):
                tasks.extend(
                    asyncio.ensure_future(guarded(each)) for each in given[number + len(tasks) : number + AHEAD]
                )
                outcome = await tasks[0]
                tasks.popleft()
                bar.clear()
                report.add(one.name, outcome, of_all=[*vision.status().warnings, *eyes.of_all])
                bar.step()
        finally:
            shown.cancel()
            for task in tasks:
                task.cancel()
    return report.exit_status


async def _show_loading(vision: Vision) -> None:
    """Show on a terminal what is being loaded: silent seconds look like a fault."""
    if not sys.stderr.isatty():
        return
    started = time.monotonic()
    while not vision.loaded:
        if (state := vision.loading) is not None:
            line = f"{state} ({time.monotonic() - started:.0f} s)"
            sys.stderr.write(f"\r\x1b[K{line[:78]}")
            sys.stderr.flush()
        await asyncio.sleep(0.2)
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()


class _Outcomes:
    """Results on standard output in the order of the pictures; errors and warnings on standard error, each once."""

    def __init__(self, as_json: bool, show: Callable[[Any], str], *, several: bool) -> None:
        self._json = as_json
        self._show = show
        self._several = several
        self._warned: set[str] = set()
        self._failed: list[VisionError] = []
        self._count = 0

    def add(self, image: str, outcome: ImageResult | VisionError, *, of_all: Sequence[str]) -> None:
        """Report one picture; `of_all`: warnings that are about the model, and so about no picture in particular."""
        self._count += 1
        source = _as_unicode(image)
        if isinstance(outcome, VisionError):
            self._failed.append(outcome)
            if self._json:
                error = {"code": outcome.code, "message": outcome.message}
                tell(json.dumps({"source": source, "error": error}, ensure_ascii=False))
            else:
                say(f"{printable(image, SHOWN)}: {outcome}")
            return
        if self._json:
            tell(json.dumps({"source": source, **outcome.structured()}, ensure_ascii=False))
            return
        shown = self._show(outcome)
        name = f"{printable(image, SHOWN)}: " if self._several else ""
        tell(f"{name}{shown}" if self._several else shown.lstrip("\n "))
        for warning in outcome.warnings:
            line = f"warning: {warning}" if warning in of_all else f"{name}warning: {warning}"
            if line not in self._warned:
                self._warned.add(line)
                say(line)

    @property
    def exit_status(self) -> int:
        if not self._failed:
            return OK
        if len(self._failed) == self._count:
            if all(isinstance(error, ModelUnavailableError) for error in self._failed):
                return NO_MODEL
            # An invalid argument is invalid for every picture.
            if all(isinstance(error, InvalidInputError) for error in self._failed):
                return USAGE
        return SOME_FAILED


def _as_unicode(text: str) -> str:
    """An argument of the command line as JSON can hold it: bytes that are not UTF-8 are written `\\xff`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# Settings of what is read before any model: which pictures, and from where.
OF_PICTURES = (
    *("allowed_dirs", "formats", "max_image_bytes", "max_pixels", "max_side", "max_damage_mb"),
    *("allow_urls", "url_hosts", "deadline_s", "use_server"),
)
NOT_OF_SURVEYS = ("best_of", "abstain_below", "vqa_template")


SPEECH = (
    *GenerationKeywords.__annotations__,
    *NOT_OF_SURVEYS,
)  # settings of generated text, which a match does not use


def _caption(arguments: argparse.Namespace) -> int:
    async def one(eyes: Eyes, image: Picture) -> CaptionResult:
        return await eyes.acaption(
            image,
            prompt=arguments.prompt,
            style=arguments.style,
            region=arguments.region,
            num_captions=arguments.num_captions,
        )

    def show(result: CaptionResult) -> str:
        match = "" if result.match is None else f", match {result.match.probability:.2f}"
        others = [f"or: {other.text}  (confidence {other.confidence:.2f})" for other in result.alternatives]
        return "\n  ".join([f"{result.text}  (confidence {result.confidence:.2f}{match}{_abstained(result)})", *others])

    return look(arguments, one, show, settings=given_settings(arguments), download=names_a_model(arguments))


def _ask(arguments: argparse.Namespace) -> int:
    if arguments.question is None:
        *arguments.image, arguments.question = _question_last(arguments.image)

    async def one(eyes: Eyes, image: Picture) -> AnswerResult:
        return await eyes.aask(image, arguments.question, choices=arguments.choice or None, region=arguments.region)

    def show(result: AnswerResult) -> str:
        choices = [f"{choice.probability:.2f}  {choice.text}" for choice in result.choices or []]
        return "\n  ".join([f"{result.answer}  (confidence {result.confidence:.2f}{_abstained(result)})", *choices])

    return look(arguments, one, show, settings=given_settings(arguments), download=names_a_model(arguments))


def _question_last(words: Sequence[str]) -> Sequence[str]:
    """Pictures and then the question, as `ask PICTURE QUESTION` gives them.

    Raises:
        InvalidInputError: there is no question among them.
    """
    last = words[-1]
    is_picture = os.path.lexists(last) or place_of(last) != "file" or handle_in(last) or _PICTURE.fullmatch(last)
    if len(words) < 2 or is_picture:
        raise InvalidInputError(
            "What is the question? Put it behind the picture, in quotes, or give it with --question."
        )
    return words


def _abstained(result: CaptionResult | AnswerResult) -> str:
    return ", abstained" if result.abstained else ""


def _match(arguments: argparse.Namespace) -> int:
    async def one(eyes: Eyes, image: Picture) -> MatchResult:
        return await eyes.amatch(image, arguments.text, region=arguments.region)

    def show(result: MatchResult) -> str:
        return "\n  ".join(
            ["", *(f"{match.probability:.2f}  (cosine {match.cosine:.2f})  {match.text}" for match in result.matches)]
        )

    return look(arguments, one, show, settings=given_settings(arguments), download=names_a_model(arguments))


def _survey(arguments: argparse.Namespace) -> int:
    async def one(eyes: Eyes, image: Picture) -> SurveyResult:
        return await eyes.asurvey(image, rows=arguments.rows, columns=arguments.columns)

    def show(result: SurveyResult) -> str:
        return "\n  ".join([f"{result.overall}  (confidence {result.confidence:.2f})", *map(_tile, result.tiles)])

    return look(arguments, one, show, settings=given_settings(arguments), download=names_a_model(arguments))


def _tile(tile: Tile) -> str:
    match = "" if tile.match is None else f", match {tile.match.probability:.2f}"
    box = " ".join(f"{edge:.2f}" for edge in tile.box)
    return f"{box}  {tile.caption}  (confidence {tile.confidence:.2f}{match})"


def _read(arguments: argparse.Namespace) -> int:
    async def one(eyes: Eyes, image: Picture) -> ReadResult:
        return await eyes.aread(image, region=arguments.region)

    def show(result: ReadResult) -> str:
        return f"\n{result.text}" if result.lines else "no text was found"

    return look(arguments, one, show, settings=given_settings(arguments), download=False)


def _add_looking_commands(command: AddCommand) -> None:
    caption = command("caption", _caption, "say what is in pictures", "Say in one sentence what is in each picture.")
    _image_options(caption)
    caption.add_argument(
        "--prompt",
        help='beginning of the caption, which the model goes on with; default: that of its training, "" is none',
    )
    caption.add_argument(
        "--style",
        choices=tuple(STYLES),
        metavar="STYLE",
        default="plain",
        help=f"a prompt with options of its own (default plain); one of {', '.join(STYLES)}",
    )
    caption.add_argument(
        "--num-captions", type=int, default=1, metavar="N", help="captions for each picture, 1 to 5 (default 1)"
    )
    setting_options(caption, but=("vqa_template",))

    ask = command(
        "ask", _ask, "ask a question about pictures", "Ask one question about each picture: ask IMAGE... QUESTION."
    )
    _image_options(ask)
    ask.add_argument(
        "-q",
        "--question",
        help="the question, in English; without it the last word is taken for it: ask IMAGE QUESTION",
    )
    ask.add_argument("-c", "--choice", action="append", help="a possible answer to score; give 2 to 20 of them")
    setting_options(ask, but=("best_of",))

    match = command("match", _match, "score statements against pictures", "Score how well each text fits each picture.")
    _image_options(match)
    match.add_argument("-t", "--text", action="append", required=True, help="a statement; give 1 to 64 of them")
    setting_options(match, but=SPEECH)

    read = command("read", _read, "read what is written in pictures", "Read the text in each picture, line by line.")
    _image_options(read)
    setting_options(read, only=OF_PICTURES)

    survey = command(
        "survey",
        _survey,
        "caption pictures part by part",
        "Caption each picture as a whole and tile by tile. A tile's four numbers are a --region of the other commands.",
    )
    _image_options(survey, region=False)
    survey.add_argument("--rows", type=int, default=2, metavar="N", help="tiles from top to bottom, 1 to 4 (default 2)")
    survey.add_argument(
        "--columns", type=int, default=2, metavar="N", help="tiles from left to right, 1 to 4 (default 2)"
    )
    setting_options(survey, but=NOT_OF_SURVEYS)


def _image_options(parser: argparse.ArgumentParser, *, region: bool = True) -> None:
    parser.add_argument("image", nargs="+", metavar="IMAGE", help=IMAGES_HELP)
    parser.add_argument("--json", action="store_true", help="JSON Lines in the order of the pictures")
    if region:
        parser.add_argument(
            "--region",
            type=float,
            nargs=4,
            metavar=("L", "T", "R", "B"),
            help="look only at this part, as fractions from 0 to 1",
        )
