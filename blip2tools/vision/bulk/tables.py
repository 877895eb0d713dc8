"""Rows as columns, for CSV and parquet: nothing nested but lists, one line for each text of a match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from blip2tools.vision.bulk.tasks import Row, Task, Verb

Kind = str  # text, number, whole, truth, texts, numbers, or rows (of numbers)

_ABOUT: Final[dict[str, Kind]] = {"handle": "text", "width": "whole", "height": "whole", "region": "numbers"}
_MATCH: Final[dict[str, Kind]] = {"probability": "number", "cosine": "number"}
_ENDS: Final[dict[str, Kind]] = {"model": "text", "warnings": "texts"}
_FAILURE: Final[dict[str, Kind]] = {"error_code": "text", "error_message": "text"}
_SAID: Final[dict[str, Kind]] = {"confidence": "number", "abstained": "truth"}
COLUMNS: Final[dict[Verb, dict[str, Kind]]] = {
    "caption": {
        "source": "text",
        "text": "text",
        **_SAID,
        **_MATCH,
        "alternatives": "texts",
        "alternative_confidences": "numbers",
        **_ABOUT,
        **_ENDS,
        **_FAILURE,
    },
    "ask": {
        "source": "text",
        "question": "text",
        "answer": "text",
        **_SAID,
        "choices": "texts",
        "choice_probabilities": "numbers",
        "premise": "text",
        "premise_probability": "number",
        "premise_holds": "truth",
        **_ABOUT,
        **_ENDS,
        **_FAILURE,
    },
    "match": {"source": "text", "text": "text", **_MATCH, **_ABOUT, **_ENDS, **_FAILURE},
    "features": {"source": "text", "vectors": "rows", **_ABOUT, **_FAILURE},
}
"""Columns of each verb. A picture that failed has its source, what it was asked, and the two columns of its error."""


def lines_of(task: Task) -> int:
    """Lines that a picture has in a table."""
    return len(task.options["texts"]) if task.verb == "match" else task.rows


def flat(task: Task, rows: Sequence[Row]) -> list[Row]:
    """The rows of one picture as lines of a table, with every column; what a line does not have is None."""
    empty = dict.fromkeys(COLUMNS[task.verb])
    return [{**empty, **line} for row in rows for line in _lines(task, row)]


def _lines(task: Task, row: Row) -> Iterator[Row]:
    common: Row = {name: row[name] for name in ("source", "question") if name in row}
    texts: list[str] = task.options.get("texts", [])
    if "error" in row:
        common |= {"error_code": row["error"]["code"], "error_message": row["error"]["message"]}
        yield from [{**common, "text": text} for text in texts] or [common]
        return
    image = row["image"]
    common |= {name: image[name] for name in ("handle", "width", "height")} | {"region": row["region"]}
    common |= {name: row[name] for name in _ENDS if name in row}
    match task.verb:
        case "caption":
            yield {**common, **_caption(row)}
        case "ask":
            yield {**common, **_answer(row)}
        case "match":
            scores = {one["text"]: one for one in row["matches"]}
            for text in texts:
                yield {**common, "text": text, **{name: scores[text][name] for name in _MATCH}}
        case "features":
            yield {**common, "vectors": row["vectors"]}


def _caption(row: Row) -> Row:
    match: dict[str, Any] = row["match"] or dict.fromkeys(_MATCH)
    return {
        "text": row["text"],
        **{name: row[name] for name in _SAID},
        **{name: match[name] for name in _MATCH},
        "alternatives": [one["text"] for one in row["alternatives"]],
        "alternative_confidences": [one["confidence"] for one in row["alternatives"]],
    }


def _answer(row: Row) -> Row:
    premise = row["premise"] or {}
    choices = row["choices"]
    return {
        "answer": row["answer"],
        **{name: row[name] for name in _SAID},
        "choices": choices and [one["text"] for one in choices],
        "choice_probabilities": choices and [one["probability"] for one in choices],
        "premise": premise.get("text"),
        "premise_probability": premise.get("probability"),
        "premise_holds": premise.get("holds"),
    }
