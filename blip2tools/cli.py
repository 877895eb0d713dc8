"""The command line. Each command is thin: options become settings, one verb of `Vision` does the work."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2tools import __version__
from blip2tools.bench import add_bench_command
from blip2tools.cli_pictures import INTERRUPTED, NO_MODEL, OK, SOME_FAILED, USAGE, Bar, fail, look, say, tell
from blip2tools.cli_settings import given_settings, names_a_model, setting_options
from blip2tools.cli_setup import add_setup_commands
from blip2tools.commands import AddCommand
from blip2tools.doctor import LOOKED_AT, add_doctor_command
from blip2tools.errors import InvalidInputError, ModelUnavailableError, VisionError
from blip2tools.evaluate import add_evaluate_command
from blip2tools.keywords import GenerationKeywords
from blip2tools.options import STYLES
from blip2tools.settings import HTTP_SETTINGS, PULL_SETTINGS, Settings

if TYPE_CHECKING:
    from blip2tools.schemas import AnswerResult, CaptionResult, MatchResult, SurveyResult, Tile
    from blip2tools.vision import Vision

DESCRIPTION = """\
Sight for text-only agents: captions, answers and image-text match from a local BLIP-2 model.

Without a model of its own on this machine it answers from a small demo checkpoint that only knows drawn shapes;
'blip2tools models' lists the real ones and 'blip2tools pull NAME' fetches one."""

NOT_OF_SURVEYS = ("best_of", "abstain_below", "vqa_template")
SPEECH = (
    *GenerationKeywords.__annotations__,
    *NOT_OF_SURVEYS,
)  # settings of what is said, of which a match has nothing

EPILOG = """\
exit status: 0 all well, 1 some pictures failed, 2 wrong usage, 3 model unavailable, 130 interrupted
every setting can also be given as a variable: --num-beams 3 is BLIP2TOOLS_NUM_BEAMS=3"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; the process's own by default.

    Returns:
        The exit status: 0 all well, 1 some pictures failed, 2 usage, 3 model unavailable, 130 interrupted.
    """
    arguments = _parser().parse_args(argv)
    # A person gets one sentence; what lies behind it is for who asks for it. The server turns its log on by itself.
    level = logging.INFO if arguments.verbose else logging.CRITICAL
    logging.basicConfig(stream=sys.stderr, level=level, format="blip2tools: %(message)s")
    try:
        return int(arguments.command(arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a pager) has gone, which is its right. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return SOME_FAILED
    except ModelUnavailableError as error:
        return fail(error, NO_MODEL)
    except VisionError as error:
        return fail(error, USAGE)


# ---- commands ----


def _caption(arguments: argparse.Namespace) -> int:
    async def one(vision: Vision, image: str) -> CaptionResult:
        return await vision.acaption(
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
    async def one(vision: Vision, image: str) -> AnswerResult:
        return await vision.aask(image, arguments.question, choices=arguments.choice or None, region=arguments.region)

    def show(result: AnswerResult) -> str:
        choices = [f"{choice.probability:.2f}  {choice.text}" for choice in result.choices or []]
        return "\n  ".join([f"{result.answer}  (confidence {result.confidence:.2f}{_abstained(result)})", *choices])

    return look(arguments, one, show, settings=given_settings(arguments), download=names_a_model(arguments))


def _abstained(result: CaptionResult | AnswerResult) -> str:
    return ", abstained" if result.abstained else ""


def _match(arguments: argparse.Namespace) -> int:
    async def one(vision: Vision, image: str) -> MatchResult:
        return await vision.amatch(image, arguments.text, region=arguments.region)

    def show(result: MatchResult) -> str:
        return "\n  ".join(
            ["", *(f"{match.probability:.2f}  (cosine {match.cosine:.2f})  {match.text}" for match in result.matches)]
        )

    return look(arguments, one, show, settings=given_settings(arguments), download=names_a_model(arguments))


def _survey(arguments: argparse.Namespace) -> int:
    async def one(vision: Vision, image: str) -> SurveyResult:
        return await vision.asurvey(image, rows=arguments.rows, columns=arguments.columns)

    def show(result: SurveyResult) -> str:
        return "\n  ".join([f"{result.overall}  (confidence {result.confidence:.2f})", *map(_tile, result.tiles)])

    return look(arguments, one, show, settings=given_settings(arguments), download=names_a_model(arguments))


def _tile(tile: Tile) -> str:
    match = "" if tile.match is None else f", match {tile.match.probability:.2f}"
    box = " ".join(f"{edge:.2f}" for edge in tile.box)
    return f"{box}  {tile.caption}  (confidence {tile.confidence:.2f}{match})"


def _serve(arguments: argparse.Namespace) -> int:
    try:
        return _serve_http(arguments) if arguments.http else _serve_stdio(arguments)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("mcp", "starlette", "uvicorn"):
            raise
        say("The server needs an extra: pip install 'blip2tools[mcp]'")
        return USAGE


def _serve_http(arguments: argparse.Namespace) -> int:
    logging.getLogger().setLevel(logging.INFO)
    from blip2tools.http_server import DEFAULT_HOST, DEFAULT_PORT, Listener, serve_http
    from blip2tools.vision import Vision

    settings = Settings.load(**given_settings(arguments))
    with Listener(
        DEFAULT_HOST if arguments.host is None else arguments.host,
        DEFAULT_PORT if arguments.port is None else arguments.port,
        settings,
    ) as listener:
        vision = Vision.load(preload=False, download=names_a_model(arguments), **given_settings(arguments))
        vision.preload()  # here nobody waits for a handshake, and a balancer waits for /readyz
        serve_http(vision, listener, page=not arguments.no_ui)
    return OK


def _serve_stdio(arguments: argparse.Namespace) -> int:
    given = {"--host": arguments.host, "--port": arguments.port, "--no-ui": arguments.no_ui or None}
    given |= {"--" + name.replace("_", "-"): getattr(arguments, name) for name in HTTP_SETTINGS}
    if useless := [flag for flag, value in given.items() if value is not None]:
        raise InvalidInputError(f"{useless[0]} has a meaning with --http only.")
    # Before any import that could print: standard output belongs to the protocol from here on.
    from blip2tools.mcp_server import claim_stdout, serve_stdio

    with claim_stdout() as wire:
        logging.getLogger().setLevel(logging.INFO)
        from blip2tools import checkpoints
        from blip2tools.engine import WORKER
        from blip2tools.vision import Vision

        vision = Vision.load(preload=False, download=names_a_model(arguments), **given_settings(arguments))
        # Otherwise the first look at a picture loads the model: torch must not slow down the handshake.
        if arguments.preload or not checkpoints.locate(vision.settings).here:
            vision.preload()
        serve_stdio(vision, wire=wire)
    if any(thread.name == WORKER for thread in threading.enumerate()):
        # A slow machine is still loading the model for a client that has gone: the interpreter's own end, beneath native
        # code at work in another thread, may abort the process.
        logging.shutdown()
        os._exit(OK)
    return OK


def _models(arguments: argparse.Namespace) -> int:
    from blip2tools import checkpoints
    from blip2tools.family import FAMILY, memory_table

    rows = [
        {
            "name": member.name,
            "kind": member.kind,
            "parameters": member.parameters,
            "download_bytes": member.download_bytes,
            "memory_bytes": memory_table(member),
            "image_size": member.image_size,
            "here": checkpoints.is_cached(member.name),
            "note": member.note,
        }
        for member in FAMILY
    ]
    if arguments.json:
        for row in rows:
            tell(json.dumps(row))
        return OK
    titles = ("name", "kind", "parameters", "download", "memory 32/16/8/4 bit", "picture", "here", "note")
    cells = [titles, *(_model_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    for line in cells:
        tell("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return OK


def _model_cells(row: dict[str, Any]) -> tuple[str, ...]:
    memory = row["memory_bytes"]
    return (
        row["name"],
        row["kind"],
        _amount(row["parameters"], ""),
        _amount(row["download_bytes"], "B") if row["download_bytes"] else "none",
        " / ".join("-" if size is None else _amount(size, "B") for size in memory.values()),
        f"{row['image_size']} px",
        "yes" if row["here"] else "no",
        row["note"],
    )


def _amount(number: int, unit: str) -> str:
    """1.2 G, 985.1 M, ..."""
    scale, letter = (1e9, "G") if number >= 1e9 else (1e6, "M")
    return f"{number / scale:.1f} {letter}{unit}"


def _pull(arguments: argparse.Namespace) -> int:
    from blip2tools import checkpoints

    settings = Settings.load(**given_settings(arguments))
    for name in arguments.model_name:
        with Bar(name) as bar:
            checkpoints.fetch(name, settings, bar, anyway=arguments.anyway)
        say(f"{name} is ready.")
    return OK


def _demo(arguments: argparse.Namespace) -> int:
    from blip2tools.demo.show import run_demo

    return run_demo(seed=arguments.seed, pictures=arguments.pictures, output=arguments.output)


# ---- options ----


class _Help(argparse.RawDescriptionHelpFormatter):
    """Wide enough for the longest command beside its summary."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="blip2tools",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"blip2tools {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the log, with the causes of failures")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(command=run)
        return sub

    _add_looking_commands(command)
    _add_serve_command(command)
    _add_model_commands(command)
    add_bench_command(command)
    setting_options(add_doctor_command(command, given_settings), only=LOOKED_AT)
    add_evaluate_command(command)
    add_setup_commands(command, parser)
    return parser


def _add_looking_commands(command: AddCommand) -> None:
    caption = command("caption", _caption, "say what is in pictures", "Say in one sentence what is in each picture.")
    _image_options(caption)
    caption.add_argument("--prompt", help="beginning of the caption, which the model continues")
    caption.add_argument(
        "--style",
        choices=tuple(STYLES),
        default="plain",
        help="a prompt with options that belong to it (default plain)",
    )
    caption.add_argument("--num-captions", type=int, default=1, metavar="N", help="captions for each picture, 1 to 5")
    setting_options(caption, but=("vqa_template",))

    ask = command("ask", _ask, "ask a question about pictures", "Ask one question about each picture.")
    _image_options(ask)
    ask.add_argument("-q", "--question", required=True, help="the question, in English")
    ask.add_argument("-c", "--choice", action="append", help="a possible answer to score; give 2 to 20 of them")
    setting_options(ask, but=("best_of",))

    match = command("match", _match, "score statements against pictures", "Score how well each text fits each picture.")
    _image_options(match)
    match.add_argument("-t", "--text", action="append", required=True, help="a statement; give 1 to 64 of them")
    setting_options(match, but=SPEECH)

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


def _add_serve_command(command: AddCommand) -> None:
    serve = command(
        "serve",
        _serve,
        "serve the tools to MCP clients",
        "Serve the tools over the Model Context Protocol on standard input and output.\n"
        "MCP clients start this command themselves: see the README for their configuration.\n\n"
        "With --http one server serves many clients, with MCP at /mcp, pictures to POST /images and a page at /.",
    )
    serve.add_argument("--preload", action="store_true", help="load the model at once, not at the first call")
    serve.add_argument("--http", action="store_true", help="serve over HTTP instead of standard input and output")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1); any other than loopback needs a token")
    serve.add_argument("--port", type=int, metavar="N", help="port to listen on (default 8765); 0 takes a free one")
    serve.add_argument("--no-ui", action="store_true", help="no page at /")
    setting_options(serve, http=True)


def _add_model_commands(command: AddCommand) -> None:
    models = command(
        "models",
        _models,
        "list the BLIP-2 family and what is here",
        "The BLIP-2 family: sizes, and what is on this machine.",
    )
    models.add_argument("--json", action="store_true", help="JSON Lines instead of a table")

    pull = command(
        "pull",
        _pull,
        "download a checkpoint",
        "Download a checkpoint to the local Hugging Face cache; an interrupted download resumes.",
    )
    pull.add_argument(
        "model_name", nargs="+", metavar="MODEL", help="a short name from 'blip2tools models', or a hub id"
    )
    pull.add_argument("--anyway", action="store_true", help="also what does not fit in this machine's memory")
    setting_options(pull, only=PULL_SETTINGS)

    demo = command(
        "demo",
        _demo,
        "watch a text-only client learn what is in fresh pictures",
        "Draw fresh pictures, serve the demo checkpoint, and ask about them as a text-only MCP client.",
    )
    demo.add_argument("--seed", type=int, help="repeat the pictures of an earlier run")
    demo.add_argument("--pictures", type=int, default=6, metavar="N", help="how many pictures (default 6)")
    demo.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write the HTML page (default: a temporary folder)"
    )


def _image_options(parser: argparse.ArgumentParser, *, region: bool = True) -> None:
    parser.add_argument(
        "image", nargs="+", metavar="IMAGE", help="a file, a data: URI, or an http(s) URL with --allow-urls"
    )
    parser.add_argument("--json", action="store_true", help="JSON Lines in the order of the pictures")
    if region:
        parser.add_argument(
            "--region",
            type=float,
            nargs=4,
            metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
            help="look only at this part, as fractions from 0 to 1",
        )
