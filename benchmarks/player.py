"""A player of the games that cannot see: text in, tool calls and an answer out.

It knows only the rules of the games and the format of the tools' texts: whatever it says about a picture it has read in a
tool's text, or, without tools, in the one caption that it was given. Where that does not help, it guesses among the options.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage

from benchmarks.games import CLAIMS, SHEET_ROWS
from blip2tools.demo.words import NUMBERS
from blip2tools.demo.world import BACKGROUNDS, COLORS, PLACES, SHAPES, SIZES
from blip2tools.langchain_tools.scripted import calls_all, says

Call: TypeAlias = tuple[str, dict[str, Any]]

SURE: Final = 0.25  # two pictures whose probabilities are nearer than this are looked at again

_THING: Final = re.compile(rf"\ban? (?:({'|'.join(SIZES)}) )?(?:({'|'.join(COLORS)}) )?({'|'.join(SHAPES)}|object)\b")
_SIDE: Final = re.compile(r" (above|below|to the left of|to the right of) an? ")
_PLACE: Final = re.compile(rf"(?:at|in) the ({'|'.join(sorted(PLACES, key=len, reverse=True))})\b")
_GROUND: Final = re.compile(rf"\b({'|'.join(BACKGROUNDS)}) background")


@dataclass(frozen=True, slots=True)
class Told:
    """One tool call of the player, and the text that came back."""

    tool: str
    arguments: dict[str, Any]
    text: str

    def answer(self) -> str:
        """The answer of `ask_image`; empty if it failed."""
        found = re.match(r"answer: (.*)", self.text)
        return found[1] if found else ""

    def probability(self, statement: str) -> float:
        """The probability of a statement by `match_image_text`; 0 if it failed."""
        found = re.search(rf"^([01]\.\d\d) \(cosine \S+\) {re.escape(statement)}$", self.text, flags=re.M)
        return float(found[1]) if found else 0.0


@dataclass(frozen=True, slots=True)
class Task:
    """A game's text, taken apart."""

    pictures: list[str]
    question: str
    options: list[str]
    captions: list[str]

    @property
    def dice(self) -> random.Random:
        """The random numbers for guesses: the same for the same task."""
        return random.Random(self.question + " ".join(self.pictures + self.options))

    def find(self, pattern: str) -> tuple[str, ...]:
        """The groups of a pattern that the question must fit."""
        found = re.search(pattern, self.question)
        if found is None:
            raise ValueError(f"the player does not know this game: {self.question}")
        return found.groups()


def read_task(text: str) -> Task:
    """Take a game's text apart."""
    names, question, *rest = text.splitlines()
    return Task(
        pictures=re.findall(r"[\w-]+\.png", names),
        question=question,
        options=[found[1] for line in rest if (found := re.match(r"\(\d+\) (.+)", line))],
        captions=[found[1] for line in rest if (found := re.match(r"\[image img_\w+: (.*)\]", line))],
    )


def play_with_tools(messages: list[BaseMessage]) -> AIMessage:
    """The next step of a player with tools."""
    task = read_task(messages[0].text)
    step = _game(task, _WITH_TOOLS)(task, _told(messages))
    return says(step) if isinstance(step, str) else calls_all(step)


def play_with_captions(messages: list[BaseMessage]) -> AIMessage:
    """The answer of a player that has one caption of each picture and nothing else."""
    task = read_task(messages[0].text)
    return says(_game(task, _WITH_CAPTIONS)(task))


def _told(messages: Sequence[BaseMessage]) -> list[Told]:
    asked = {call["id"]: call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls}
    replies = [(asked[getattr(reply, "tool_call_id")], reply.text) for reply in messages if reply.type == "tool"]  # noqa: B009
    return [Told(call["name"], call["args"], text) for call, text in replies]


# With tools: each game's next calls, or its answer


def _which(task: Task, told: list[Told]) -> str | list[Call]:
    first, second = task.find(r"shows (an? \w+ \w+) above (an? \w+ \w+)\?")
    statements = [f"{first} above {second}", f"{second} above {first}"]
    if not told:
        return [_match(picture, statements) for picture in task.pictures]
    matches = [one for one in told if one.tool == "match_image_text"]
    ranked = sorted(
        matches, key=lambda one: one.probability(statements[0]) - one.probability(statements[1]), reverse=True
    )
    best, rival = (one.arguments["image"] for one in ranked[:2])
    lead = ranked[0].probability(statements[0]) - ranked[1].probability(statements[0])
    if lead >= SURE:
        return str(best)
    if len(told) == len(matches):  # a close finish: ask both
        question = f"is the {first.split(' ', 1)[1]} above the {second.split(' ', 1)[1]}?"
        return [_ask(picture, question) for picture in (best, rival)]
    return next((str(one.arguments["image"]) for one in told if one.answer() == "yes"), str(best))


def _difference(task: Task, told: list[Told]) -> str | list[Call]:
    pairs = [re.findall(r"the (\w+)", option) for option in task.options]
    statements = [f"a {upper} above a {lower}" for upper, lower in pairs]
    opposites = [f"a {lower} above a {upper}" for upper, lower in pairs]
    if not told:
        return [_match(picture, statements) for picture in task.pictures]
    first, second = told
    changes = [
        (first.probability(one) + second.probability(other)) - (first.probability(other) + second.probability(one))
        for one, other in zip(statements, opposites, strict=True)
    ]
    return str(changes.index(max(changes)) + 1)


def _claims(task: Task, told: list[Told]) -> str | list[Call]:
    if not told:
        return [_match(task.pictures[0], task.options)]
    return _numbers(told[0].probability(claim) > 0.5 for claim in task.options)


def _odd(task: Task, told: list[Told]) -> str | list[Call]:
    one, other = task.find(r"the (\w+) and the (\w+) stand")
    statements = [f"a {one} above a {other}", f"a {other} above a {one}"]
    if not told:
        return [_match(picture, statements) for picture in task.pictures]
    leans = {
        answer.arguments["image"]: answer.probability(statements[0]) - answer.probability(statements[1])
        for answer in told
    }
    usual = sorted(leans.values())[len(leans) // 2]
    return str(max(leans, key=lambda picture: abs(leans[picture] - usual)))


def _two_hops(task: Task, told: list[Told]) -> str | list[Call]:
    direction, anchor, listed = task.find(r"is (above|below) the (\w+)\? Choose from: ([\w ,]+)\.")
    options = listed.split(", ")
    picture = task.pictures[0]
    if not told:
        return [_ask(picture, f"what is {direction} the {anchor}?")]
    if len(told) == 1:
        thing = re.sub(r"^an? ", "", told[0].answer())
        return [_ask(picture, f"where is the {thing}?", options)]
    return told[1].answer() or task.dice.choice(options)


def _sheet(task: Task, told: list[Told]) -> str | list[Call]:
    what, listed = task.find(r"How many ([\w ]+) are on .* Choose from: ([\w ,]+)\.")
    if not told:
        share = 1 / SHEET_ROWS
        corners = itertools.product(range(SHEET_ROWS), repeat=2)
        tiles = [[column * share, row * share, (column + 1) * share, (row + 1) * share] for row, column in corners]
        return [_ask(task.pictures[0], f"how many {what} are there?", region=tile) for tile in tiles]
    counts = [NUMBERS.index(one.answer()) if one.answer() in NUMBERS else 0 for one in told]
    return _word(sum(counts), listed.split(", "), task.dice)


def _word(number: int, options: list[str], dice: random.Random) -> str:
    word = NUMBERS[number] if number < len(NUMBERS) else ""
    return word if word in options else dice.choice(options)


def _numbers(truths: Any) -> str:
    return " ".join(str(number) for number, truth in enumerate(truths, 1) if truth)


def _match(image: str, texts: list[str]) -> Call:
    return "match_image_text", {"image": image, "texts": texts}


def _ask(image: str, question: str, choices: list[str] | None = None, region: list[float] | None = None) -> Call:
    arguments = {"image": image, "question": question, "choices": choices, "region": region}
    return "ask_image", {name: value for name, value in arguments.items() if value is not None}


# With one caption of each picture


def holds(statement: str, caption: str) -> bool | None:
    """Whether a statement is true by what a caption says; None if the caption does not tell."""
    said, seen = _THING.findall(statement), _THING.findall(caption)
    found: list[int] = []
    for size, color, shape in said:
        fitting = (
            index
            for index, (its_size, its_color, its_shape) in enumerate(seen)
            if index not in found
            and size in ("", its_size)
            and color in ("", its_color)
            and shape in ("object", its_shape)
        )
        if (index := next(fitting, None)) is None:
            return False
        found.append(index)
    ground, real_ground = _GROUND.search(statement), _GROUND.search(caption)
    if ground and real_ground and ground[1] != real_ground[1]:
        return False
    if side := _SIDE.search(statement):
        return _side_holds(side[1], found, caption)
    return None if _PLACE.search(statement) else True


def _side_holds(side: str, found: list[int], caption: str) -> bool | None:
    if _SIDE.search(caption) or side in ("above", "below"):
        return None  # three things are listed from left to right, and nothing is said of their heights
    return (found[0] < found[1]) == (side == "to the left of")


def _guess_which(task: Task) -> str:
    (wanted,) = task.find(r"shows (.+)\?")
    possible = [
        name for name, words in zip(task.pictures, task.captions, strict=True) if holds(wanted, words) is not False
    ]
    return task.dice.choice(possible or task.pictures)


def _guess_option(task: Task) -> str:
    return str(task.dice.randrange(len(task.options)) + 1)


def _guess_claims(task: Task) -> str:
    dice = task.dice
    judged = [holds(claim, task.captions[0]) for claim in task.options[:CLAIMS]]
    return _numbers(dice.random() < 0.5 if truth is None else truth for truth in judged)


def _guess_picture(task: Task) -> str:
    return task.dice.choice(task.pictures)


def _guess_place(task: Task) -> str:
    (listed,) = task.find(r"Choose from: ([\w ,]+)\.")
    return task.dice.choice(listed.split(", "))


def _guess_number(task: Task) -> str:
    what, listed = task.find(r"How many ([\w ]+) are on .* Choose from: ([\w ,]+)\.")
    traits = [trait for thing in _THING.findall(task.captions[0]) for trait in thing]
    name = next(trait for trait in (*COLORS, *SHAPES) if what.startswith(trait))
    return _word(traits.count(name), listed.split(", "), task.dice)


_GAME_MARKS: Final = {
    "which": "Which picture shows",
    "difference": "and not of the second",
    "claims": "Which of these statements",
    "odd": "Which is the odd one",
    "two hops": "Where in the picture",
    "sheet": "It is a sheet",
}
_WITH_TOOLS: Final[dict[str, Callable[[Task, list[Told]], str | list[Call]]]] = {
    "which": _which,
    "difference": _difference,
    "claims": _claims,
    "odd": _odd,
    "two hops": _two_hops,
    "sheet": _sheet,
}
_WITH_CAPTIONS: Final[dict[str, Callable[[Task], str]]] = {
    "which": _guess_which,
    "difference": _guess_option,
    "claims": _guess_claims,
    "odd": _guess_picture,
    "two hops": _guess_place,
    "sheet": _guess_number,
}


def _game(task: Task, table: dict[str, Any]) -> Any:
    for kind, mark in _GAME_MARKS.items():
        if mark in task.question:
            return table[kind]
    raise ValueError(f"the player does not know this game: {task.question}")
