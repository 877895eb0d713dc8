"""Sentences, names, code and numbers for pages that nobody has written before: all drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

_NOUNS: Final = [
    "harbour",
    "ferry",
    "lantern",
    "ledger",
    "orchard",
    "bridge",
    "signal",
    "kettle",
    "granary",
    "window",
    "compass",
    "valley",
    "engine",
    "notebook",
    "station",
    "market",
    "archive",
    "garden",
    "barrel",
    "workshop",
    "canal",
    "chimney",
    "library",
    "meadow",
    "turbine",
    "courtyard",
    "furnace",
    "lighthouse",
    "quarry",
    "tunnel",
    "vineyard",
    "warehouse",
    "battery",
    "carriage",
    "ladder",
    "mirror",
    "parcel",
    "railway",
    "shelter",
    "telegraph",
]
_PEOPLE: Final = [
    "Ada",
    "Bruno",
    "Carla",
    "Dmitri",
    "Elena",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Keiko",
    "Lars",
    "Mina",
    "Nadia",
    "Otto",
    "Paula",
    "Quentin",
    "Rosa",
]
_SURNAMES: Final = [
    "Abelson",
    "Birk",
    "Castell",
    "Duran",
    "Eklund",
    "Ferrer",
    "Grimm",
    "Haddad",
    "Ivarsen",
    "Jansky",
    "Kowal",
    "Lindqvist",
    "Moreau",
    "Novak",
]
_ADJECTIVES: Final = [
    "quiet",
    "narrow",
    "copper",
    "early",
    "wooden",
    "distant",
    "careful",
    "bright",
    "hollow",
    "northern",
    "steady",
    "rusty",
    "modest",
    "sudden",
    "gentle",
    "crooked",
    "plain",
    "heavy",
    "winter",
    "foreign",
    "empty",
    "patient",
    "broken",
    "public",
]
_VERBS: Final = [
    "reached",
    "repaired",
    "measured",
    "carried",
    "opened",
    "painted",
    "counted",
    "delivered",
    "followed",
    "inspected",
    "moved",
    "replaced",
    "sealed",
    "watched",
    "crossed",
    "described",
    "emptied",
    "lifted",
    "recorded",
    "sorted",
]
_ENDINGS: Final = (
    "before the rain began",
    "at 7:45 in the morning",
    "for the third time this week",
    "without a word",
    "because the old one had failed",
    "and nobody noticed",
    "as the plan had said",
    "near the south gate",
    "(see page 12)",
    "while the others slept",
)
_CITIES: Final = [
    "Altmark",
    "Brennick",
    "Corvale",
    "Dunmere",
    "Esterby",
    "Fallow",
    "Garrick",
    "Holmsund",
    "Ivory",
    "Kessel",
    "Lorne",
    "Marrow",
]
_UNITS: Final = ("kg", "m", "%", "km/h", "pcs", "h")
_FIELDS: Final = [
    "width",
    "height",
    "index",
    "total",
    "offset",
    "buffer",
    "result",
    "count",
    "limit",
    "value",
    "name",
    "items",
    "path",
]
_CALLS: Final = [
    "read_row",
    "parse_line",
    "load_page",
    "open_file",
    "merge_parts",
    "sort_keys",
    "find_next",
    "split_text",
    "make_key",
]


class Words:
    """Text from a seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def pick(self, options: Sequence[str]) -> str:
        """One of them."""
        return self._random.choice(options)

    def number(self, low: int, high: int) -> int:
        """An integer from `low` to `high`."""
        return self._random.randint(low, high)

    def shuffled(self, options: Sequence[str]) -> list[str]:
        """All of them, in another order."""
        return self._random.sample(options, len(options))

    def person(self) -> str:
        """A name."""
        return f"{self.pick(_PEOPLE)} {self.pick(_SURNAMES)}"

    def city(self) -> str:
        """A place that is on no map."""
        return self.pick(_CITIES)

    def amount(self) -> str:
        """A sum of money, a measure or a share."""
        kind = self.number(0, 3)
        if kind == 0:
            return f"${self.number(1, 9)},{self.number(100, 999)}.{self.number(10, 99)}"
        if kind == 1:
            return f"€{self.number(2, 980)}.{self.number(10, 99)}"
        return (
            f"{self.number(1, 999)} {self.pick(_UNITS)}" if kind == 2 else f"{self.number(1, 99)}.{self.number(0, 9)}%"
        )

    def date(self) -> str:
        """A day."""
        return f"{self.number(2019, 2031)}-{self.number(1, 12):02}-{self.number(1, 28):02}"

    def heading(self) -> str:
        """A few words with a capital."""
        kind = self.pick(("report", "notes", "plan", "log", "summary"))
        return f"{self.pick(_ADJECTIVES)} {self.pick(_NOUNS)} {kind}".capitalize()

    def label(self) -> str:
        """One or two words with a capital."""
        return (
            f"{self.pick(_ADJECTIVES)} {self.pick(_NOUNS)}".capitalize()
            if self.number(0, 1)
            else self.pick(_NOUNS).capitalize()
        )

    def sentence(self) -> str:
        """One sentence."""
        subject = self.person() if self.number(0, 2) == 0 else f"the {self.pick(_ADJECTIVES)} {self.pick(_NOUNS)}"
        thing = f"the {self.pick(_ADJECTIVES)} {self.pick(_NOUNS)}"
        kind = self.number(0, 5)
        if kind == 0:
            text = f"in {self.city()} {subject} {self.pick(_VERBS)} {thing} {self.pick(_ENDINGS)}"
        elif kind == 1:
            text = f"{subject} {self.pick(_VERBS)} {self.number(2, 980)} of them, which cost {self.amount()} in all"
        elif kind == 2:
            text = f'"{self.pick(_ADJECTIVES)}," said {self.person()}, and {self.pick(_VERBS)} {thing} again'
        else:
            text = f"{subject} {self.pick(_VERBS)} {thing} {self.pick(_ENDINGS)}"
        first = 1 if text.startswith('"') else 0
        return text[:first] + text[first].upper() + text[first + 1 :] + "."

    def paragraph(self, sentences: int) -> str:
        """So many sentences."""
        return " ".join(self.sentence() for _ in range(sentences))

    def code(self, lines: int) -> list[str]:
        """Lines of a program in some language."""
        write: Callable[[], list[str]] = self._random.choice((self._python, self._script, self._query, self._shell))
        found: list[str] = []
        while len(found) < lines:
            found += write()
        return found[:lines]

    def _python(self) -> list[str]:
        call, one, two = self.pick(_CALLS), *self.shuffled(_FIELDS)[:2]
        return [
            f"def {call}({one}: int, {two}: str = '{self.pick(_NOUNS)}') -> list[str]:",
            f'    """Return every {self.pick(_NOUNS)} in the {self.pick(_NOUNS)}."""',
            f"    {one} = {one} * {self.number(2, 99)} + len({two})",
            f"    if {one} >= {self.number(100, 4096)} and not {two}.startswith('#'):",
            f"        raise ValueError(f'{{{one}}} is above the limit')",
            f"    return [{two}[i:i + {self.number(2, 9)}] for i in range({one})]",
            "",
        ]

    def _script(self) -> list[str]:
        call, one, two = self.pick(_CALLS), *self.shuffled(_FIELDS)[:2]
        return [
            f"export function {call}({one}, {two}) {{",
            f"  const {self.pick(_NOUNS)} = {one}.map((item) => item.{two} ?? {self.number(0, 64)});",
            f"  // {self.sentence()}",
            f"  if ({one}.length === 0 || !{two}) {{ return null; }}",
            f"  return {{ {one}: {two}, ok: true }};",
            "}",
            "",
        ]

    def _query(self) -> list[str]:
        return [
            f"SELECT {self.pick(_FIELDS)}, COUNT(*) AS {self.pick(_FIELDS)}",
            f"FROM {self.pick(_NOUNS)}s WHERE {self.pick(_FIELDS)} > {self.number(3, 900)}",
            f"GROUP BY {self.pick(_FIELDS)} HAVING MIN({self.pick(_FIELDS)}) <> '{self.pick(_NOUNS)}'",
            f"ORDER BY {self.pick(_FIELDS)} DESC LIMIT {self.number(5, 500)};",
            "",
        ]

    def _shell(self) -> list[str]:
        return [
            f"$ {self.pick(('ls', 'cat', 'grep'))} -n {self.pick(_NOUNS)} ./{self.pick(_NOUNS)}/{self.pick(_FIELDS)}.txt",
            f"{self.number(1, 400)}: {self.sentence()}",
            f"warning: {self.pick(_FIELDS)} is {self.number(2, 70)} KB, expected {self.number(2, 70)} KB",
            f"[{self.date()} {self.number(10, 23)}:{self.number(10, 59)}] INFO {self.pick(_CALLS)} took {self.number(2, 900)} ms",
            "",
        ]
