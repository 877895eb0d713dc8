"""The sight test: does what an agent says come from the pixels?

A text-only agent of LangChain's `create_agent` plays games whose truth is known (`games.py`): with the tools, either of
`Blip2Toolkit` or as the official MCP client gets them from a server; with one caption of each picture and no tools; and with
the tools again, after the pictures behind the names were exchanged for those of another game. The tools are worth something
if the first score is high, and only pixels can explain it if the second is far lower and the third is chance.

The agent is scripted (`player.py`): it shows what flows from pixels to an agent, and is no evidence about which tools a real
model would choose.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import math
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import BaseTool

from benchmarks.games import CLAIMS, GAMES, Game, GameKind, make_game
from benchmarks.over_mcp import tools_over_mcp
from benchmarks.player import play_with_captions, play_with_tools
from blip2tools.langchain_tools import Blip2Toolkit, aingest
from blip2tools.langchain_tools.scripted import ScriptedChatModel
from blip2tools.vision import Vision

TEXT = """\
A scripted text-only LangChain agent plays games about freshly drawn pictures whose truth is known: with the tools, with one
caption of each picture only, and with the pictures exchanged behind its back. It shows what flows from pixels to an agent,
and is no evidence about which tools a real model would choose."""

MAX_GAMES = 1000

Condition = Literal["tools", "caption", "swapped"]
Face = Literal["langchain", "mcp"]
FACES: Final[tuple[Face, ...]] = get_args(Face)
CONDITIONS: Final[tuple[Condition, ...]] = get_args(Condition)
TITLES: Final[dict[Condition, str]] = {
    "tools": "with tools",
    "caption": "one caption only",
    "swapped": "pictures swapped",
}
AT_ONCE: Final = 4  # games played side by side: a server's agents do not wait for each other either
BAND: Final = 2.6  # standard errors: chance stays within them 99 times of 100


@dataclass(frozen=True, slots=True)
class Score:
    """The results of one kind of game, as shares of the points."""

    game: str
    tools: float
    caption: float
    swapped: float
    chance: float


@dataclass(frozen=True, slots=True)
class SightReport:
    """The results of a run of the sight test."""

    seed: int
    games: int
    date: str
    scores: tuple[Score, ...]
    face: Face = "langchain"

    @property
    def total(self) -> Score:
        """The mean over the kinds of games."""
        names = (*CONDITIONS, "chance")
        means = {name: math.fsum(getattr(score, name) for score in self.scores) / len(self.scores) for name in names}
        return Score("all", **means)

    @property
    def error(self) -> float:
        """The standard error of the mean score of a guesser."""
        parts = [
            score.chance * (1 - score.chance) / (self.games * (CLAIMS if score.game == "claims" else 1))
            for score in self.scores
        ]
        return math.sqrt(math.fsum(parts)) / len(parts)

    @property
    def at_chance(self) -> bool:
        """Whether an agent with swapped pictures does no better and no worse than guessing, at 99 %."""
        return abs(self.total.swapped - self.total.chance) <= BAND * self.error

    @property
    def command(self) -> str:
        """The command that repeats this run."""
        face = "" if self.face == "langchain" else f" --face {self.face}"
        return f"python -m benchmarks.sight --seed {self.seed} --games {self.games}{face}"

    def as_dict(self) -> dict[str, Any]:
        """The report for `--json`."""
        return {
            "seed": self.seed,
            "games": self.games,
            "date": self.date,
            "command": self.command,
            "scores": [asdict(score) for score in (*self.scores, self.total)],
            "at_chance": self.at_chance,
        }

    def table(self) -> str:
        """The report as a table in Markdown."""
        lines = [
            f"| game | {' | '.join(TITLES.values())} | chance |",
            "|---|" + "---:|" * (len(TITLES) + 1),
        ]
        for score in (*self.scores, self.total):
            cells = [f"{getattr(score, name):.0%}".replace("%", " %") for name in (*CONDITIONS, "chance")]
            bold = "**" if score.game == "all" else ""
            lines.append(f"| {bold}{score.game}{bold} | " + " | ".join(f"{bold}{cell}{bold}" for cell in cells) + " |")
        return "\n".join(lines)


def run_sight(
    *,
    seed: int = 1,
    games: int = 20,
    kinds: Sequence[GameKind] = GAMES,
    face: Face = "langchain",
    progress: Callable[[str], None] | None = None,
) -> SightReport:
    """Play, under all three conditions, and count.

    Args:
        seed: draws the pictures and the questions.
        games: how many of each kind; at least 2, so that pictures can be exchanged.
        kinds: which games.
        face: how the agent gets the tools: `Blip2Toolkit`, or the official MCP client with a server of its own over stdio.
        progress: told before each part.
    """
    if games < 2:
        raise ValueError("the sight test needs at least two games of each kind")
    with tempfile.TemporaryDirectory(prefix="blip2tools-sight-") as name:
        room = Path(name).resolve()
        with Vision.load(model="demo", matcher="demo", allowed_dirs=(room,)) as vision:

            async def play() -> list[Score]:
                async with _tools(face, vision, room) as tools:
                    return [await _play_kind(vision, tools, room, kind, seed, games, progress) for kind in kinds]

            scores = vision.run(play())
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return SightReport(seed, games, today, tuple(scores), face)


@asynccontextmanager
async def _tools(face: Face, vision: Vision, room: Path) -> AsyncIterator[list[BaseTool]]:
    if face == "langchain":
        yield Blip2Toolkit(vision).get_tools()
        return
    async with tools_over_mcp(room) as tools:
        yield tools


async def _play_kind(
    vision: Vision,
    tools: list[BaseTool],
    room: Path,
    kind: GameKind,
    seed: int,
    number: int,
    progress: Callable[[str], None] | None,
) -> Score:
    games = [make_game(kind, seed, index) for index in range(number)]
    others = [*games[1:], games[0]]
    points: dict[str, float] = {}
    for condition in CONDITIONS:
        if progress:
            progress(f"{kind}, {TITLES[condition]}")
        for game, other in zip(games, others, strict=True):
            shown = other if condition == "swapped" else game
            for name, picture in zip(game.pictures, shown.pictures.values(), strict=True):
                picture.save(room / name)
        points[condition] = await _play(vision, tools, room, games, condition)
    return Score(kind, **points, chance=games[0].chance)


async def _play(vision: Vision, tools: list[BaseTool], room: Path, games: list[Game], condition: Condition) -> float:
    """The mean score of the games, the pictures being in the room."""
    blind = condition == "caption"
    script: Callable[[list[BaseMessage]], AIMessage] = play_with_captions if blind else play_with_tools
    agent: Any = create_agent(ScriptedChatModel(script=script), [] if blind else tools)
    gate = asyncio.Semaphore(AT_ONCE)

    async def play(game: Game) -> float:
        async with gate:
            content: list[Any] = [{"type": "text", "text": game.text}]
            if blind:
                content += [{"type": "image", "url": str(room / name)} for name in game.pictures]
            asked = await aingest([HumanMessage(content)], vision)
            said = await agent.ainvoke({"messages": asked})
            return game.score(said["messages"][-1].text)

    return math.fsum(await asyncio.gather(*map(play, games))) / len(games)


def main(argv: Sequence[str] | None = None) -> int:
    """Play, count, print.

    Args:
        argv: the words after the program's name; the process's own by default.

    Returns:
        The exit status: 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sight", description=TEXT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="draws the pictures and questions (default 1)")
    parser.add_argument(
        "--games", type=_number, default=20, metavar="N", help="games of each kind, 2 to 1000 (default 20)"
    )
    parser.add_argument(
        "--face", choices=FACES, default="langchain", help="how the agent gets the tools (default langchain)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args(argv)
    report = run_sight(
        seed=arguments.seed,
        games=arguments.games,
        face=arguments.face,
        progress=_progress if sys.stderr.isatty() else None,
    )
    if arguments.json:
        sys.stdout.write(json.dumps(report.as_dict()) + "\n")
        return 0
    guess = f"guessing gives {report.total.chance:.0%} +- {report.error:.0%} (standard error)"
    sys.stdout.write(
        f"{report.table()}\n\n{report.date}, seed {report.seed}, {report.games} games of each kind; {guess}\n"
    )
    return 0


def _progress(what: str) -> None:
    sys.stderr.write(f"{what}\n")


def _number(text: str) -> int:
    number = int(text)
    if not 2 <= number <= MAX_GAMES:
        raise argparse.ArgumentTypeError(f"must be from 2 to {MAX_GAMES}")
    return number


if __name__ == "__main__":
    sys.exit(main())
