"""`blip2tools demo`: fresh pictures, a real server, a real client, and an honest count.

The pictures are drawn when the command runs, their file names give nothing away, and everything the model says comes
through the Model Context Protocol, exactly as an agent would get it.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import tempfile
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, TypeVar

from pydantic import ValidationError

from blip2tools.cli.demo.page import render_page
from blip2tools.cli.demo.quiz import Exhibit, make_quiz
from blip2tools.cli.demo.report import (
    DEFAULT_PICTURES,
    DemoReport,
    Mark,
    Option,
    Outcome,
    Style,
    outcome_lines,
    total_lines,
)
from blip2tools.demo.draw import draw
from blip2tools.schemas import AnswerResult, BriefStatus, CaptionResult, MatchResult, Result
from blip2tools.settings import environment_without_settings, variable, wants_colors

if TYPE_CHECKING:
    from mcp import Client

MAX_PICTURES: Final = 100
PAGE_NAME: Final = "blip2tools-demo.html"
DONE, FAILED, USAGE, NO_MODEL = 0, 1, 2, 3  # the exit statuses of the command line

_TIMEOUT_S: Final = 300  # for one call, and for loading the model
_POLL_S: Final = 0.1
R = TypeVar("R", bound=Result)


class DemoError(Exception):
    """The demo cannot go on; the message is one sentence for a person."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def run_demo(
    *,
    seed: int | None = None,
    pictures: int = DEFAULT_PICTURES,
    output: Path | None = None,
    open_browser: bool = False,
    stream: TextIO | None = None,
    errors: TextIO | None = None,
) -> int:
    """Draw fresh pictures, ask a real server about them, and report the results.

    Args:
        seed: repeats the pictures and questions of an earlier run; a fresh one by default.
        pictures: how many, 1 to 100.
        output: where the page goes, a file or a folder; a new temporary folder by default.
        open_browser: show the page at the end.
        stream: where the results are written, standard output by default; in colour if that is a terminal.
        errors: where failures are written, standard error by default.

    Returns:
        The exit status: 0 if every question was answered, rightly or wrongly; 1 if the server failed; 2 for wrong
        arguments or a missing extra; 3 if the model cannot be loaded.
    """
    stream = sys.stdout if stream is None else stream
    errors = sys.stderr if errors is None else errors
    style = Style(colors=wants_colors(stream))
    try:
        _require_mcp()
        if not 1 <= pictures <= MAX_PICTURES:
            raise DemoError(f"The demo shows 1 to {MAX_PICTURES} pictures, not {pictures}.", USAGE)
        _check_output(output)
        with tempfile.TemporaryDirectory(prefix="blip2tools-demo-") as folder:
            report = _examine(secrets.randbelow(1_000_000) if seed is None else seed, pictures, folder, stream, style)
            page = _write_page(report, output)
    except DemoError as error:
        _tell(errors, str(error))
        return error.status
    for line in total_lines(report, style):
        _tell(stream, line)
    _tell(stream, f"{'Page':9} {page}")
    _tell(stream, f"{'Again':9} {report.command}")
    if open_browser:
        webbrowser.open(page.as_uri())
    return DONE


def _require_mcp() -> None:
    try:
        import mcp  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "mcp":
            raise
        raise DemoError("The demo needs an extra: pip install 'blip2tools[mcp]'", USAGE) from error


def _check_output(output: Path | None) -> None:
    """Check before the work, not after it, that the page can be written."""
    if output is not None and not output.absolute().parent.is_dir():
        raise DemoError(f"There is no folder {output.parent} to write the page to.", USAGE)


def _write_page(report: DemoReport, output: Path | None) -> Path:
    page = Path(tempfile.mkdtemp(prefix="blip2tools-demo-")) if output is None else output.absolute()
    try:
        page = page / PAGE_NAME if page.is_dir() else page
        page.write_text(render_page(report), encoding="utf-8")
    except OSError as error:
        raise DemoError(f"The page could not be written to {page}: {error.strerror}.") from error
    return page


def _examine(seed: int, pictures: int, folder: str, stream: TextIO, style: Style) -> DemoReport:
    """Draw, ask, and report each picture's outcome as soon as it is known."""
    room = Path(folder).resolve()
    quiz: dict[Path, Exhibit] = {}
    for number, exhibit in enumerate(make_quiz(seed, pictures), start=1):
        path = room / f"picture-{number}.png"
        draw(exhibit.scene).save(path)
        quiz[path] = exhibit
    many = "1 picture" if pictures == 1 else f"{pictures} pictures"
    _tell(stream, f"{style.title('blip2tools demo')}  seed {seed}, {many} drawn just now")
    _tell(stream, style.quiet("Starting a real MCP server and loading the demo model ..."))
    _tell(stream, "")

    def tell(outcome: Outcome) -> None:
        for line in outcome_lines(outcome, style):
            _tell(stream, line)

    outcomes, start_seconds = _ask_server(quiz, room, tell)
    return DemoReport(seed, tuple(outcomes), start_seconds, sum(outcome.seconds for outcome in outcomes))


# The client


def _ask_server(quiz: dict[Path, Exhibit], room: Path, tell: Callable[[Outcome], None]) -> tuple[list[Outcome], float]:
    """Ask the server: every picture's outcome, and how long the server took to start."""
    from mcp import MCPError

    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        failure: BaseException
        try:
            return asyncio.run(_visit(quiz, room, log, tell))
        except* (DemoError, MCPError, OSError, ValidationError) as group:
            failure = _innermost(group)
        if isinstance(failure, BrokenPipeError):  # not the server: the reader of our own output has closed it
            raise failure
        told = _last_lines(log)
        if isinstance(failure, DemoError):
            raise DemoError(f"{failure}{told}", failure.status) from failure
        status = NO_MODEL if "model_unavailable" in told else FAILED
        raise DemoError(f"The server does not answer.{told}", status) from failure


async def _visit(
    quiz: dict[Path, Exhibit], room: Path, log: TextIO, tell: Callable[[Outcome], None]
) -> tuple[list[Outcome], float]:
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(
        command=sys.executable,
        args=[
            *("-m", "blip2tools", "serve", "--preload"),
            *("--model", "demo", "--matcher", "demo"),
            *("--allow-dir", str(room)),
        ],
        # A user's settings could change what is measured. The device depends on the machine, and stays.
        # Nor may commands of the user's lean on a server that ends in a minute.
        env={**environment_without_settings(keep=["device", "cache_dir"]), variable("use_server"): "0"},
    )
    started = time.perf_counter()
    async with Client(stdio_client(server, errlog=log), read_timeout_seconds=_TIMEOUT_S) as client:
        await _wait_for_model(client)
        start_seconds = time.perf_counter() - started
        outcomes = []
        for path, exhibit in quiz.items():
            outcomes.append(await _look(client, path, exhibit))
            tell(outcomes[-1])
    return outcomes, start_seconds


async def _wait_for_model(client: Client) -> None:
    """Return when the model is loaded, so that what follows measures answers and not the start."""
    latest = time.perf_counter() + _TIMEOUT_S
    while not (status := await _call(client, BriefStatus, "vision_status")).loaded:
        if status.state.startswith("unavailable") or time.perf_counter() > latest:
            raise DemoError(f"The model cannot be loaded: {status.state}", NO_MODEL)
        await asyncio.sleep(_POLL_S)


async def _look(client: Client, path: Path, exhibit: Exhibit) -> Outcome:
    """Ask all questions about one picture."""
    started = time.perf_counter()
    image = path.name
    seen = await _call(client, CaptionResult, "caption_image", image=image)
    marks = [Mark("caption", "", seen.text, exhibit.caption, seen.confidence)]
    for question in exhibit.questions:
        told = await _call(client, AnswerResult, "ask_image", image=image, question=question.text)
        marks.append(Mark("question", question.text, told.answer, question.answer, told.confidence))
    marks += [await _choose(client, image, exhibit), await _match(client, image, exhibit)]
    return Outcome(path, exhibit.caption, tuple(marks), time.perf_counter() - started)


async def _choose(client: Client, image: str, exhibit: Exhibit) -> Mark:
    question = exhibit.choice_question
    told = await _call(
        client, AnswerResult, "ask_image", image=image, question=question.text, choices=list(exhibit.choices)
    )
    options = tuple(
        Option(choice.text, choice.probability, "true" if choice.text == question.answer else "false")
        for choice in told.choices or ()
    )
    return Mark("choice", question.text, told.answer, question.answer, told.confidence, options)


async def _match(client: Client, image: str, exhibit: Exhibit) -> Mark:
    truths = {claim.text: f"false: {claim.edit}" if claim.edit else "true" for claim in exhibit.claims}
    told = await _call(client, MatchResult, "match_image_text", image=image, texts=list(truths))
    options = tuple(Option(match.text, match.probability, truths[match.text]) for match in told.matches)
    truth = next(claim.text for claim in exhibit.claims if claim.edit is None)
    return Mark("match", "", options[0].text, truth, options[0].probability, options)


async def _call(client: Client, kind: type[R], tool: str, **arguments: object) -> R:
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        text = " ".join(getattr(block, "text", "") for block in result.content)
        raise DemoError(
            f"The server refused {tool}: {text}", NO_MODEL if text.startswith("model_unavailable") else FAILED
        )
    return kind.model_validate(result.structured_content)


def _innermost(error: BaseException) -> BaseException:
    """The first real error in a group: task groups wrap what ends them, once for each level."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# The terminal


def _tell(stream: TextIO, line: str) -> None:
    """Write a line at once, with a question mark for what the terminal's encoding does not have."""
    encoding = stream.encoding or "utf-8"
    stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()


def _last_lines(log: TextIO, number: int = 5) -> str:
    """The end of the server's own log, which usually says why."""
    log.seek(0)
    lines = [line.rstrip() for line in log if line.strip()][-number:]
    return "\nThe end of the server's log:" + "".join(f"\n  {line}" for line in lines) if lines else ""
