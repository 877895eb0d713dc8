"""Local data sets: pictures with captions, or with questions and answers.

    JSON Lines      {"image": "a.jpg", "captions": ["..."]}          pictures next to the file, or in --images
                    {"image": "a.jpg", "question": "...", "answers": ["...", ...]}
    COCO captions   {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}
    Karpathy split  [{"image": "val2014/a.jpg", "caption": ["..."]}]  as the reference evaluates COCO
    VQAv2, OK-VQA   {"questions": [{"question_id", "image_id", "question"}], "data_subtype": "val2014"} with
                    {"annotations": [{"question_id", "answers": [{"answer"}], "question_type", "answer_type"}]}

A folder stands for the one such file in it (two for VQAv2) or in its `annotations`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blip2tools.errors import InvalidInputError, NotFoundError

_IMAGE_FOLDERS: Final = ("", "images", "val2014", "test2015", "val2017", "train2014", "train2017")


@dataclass(frozen=True, slots=True)
class Captioned:
    """A picture and what people wrote about it."""

    id: str
    image: Path
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a picture and what people answered."""

    id: str
    image: Path
    question: str
    answers: tuple[str, ...]
    question_type: str | None = None
    answer_type: str | None = None


def captioned(dataset: Path, images: Path | None = None) -> list[Captioned]:
    """Pictures with captions.

    Args:
        dataset: a file or a folder in one of the forms above.
        images: where the pictures are; by default next to the file, or in a folder with one of the usual names there.

    Raises:
        NotFoundError: the data set, or the folder, is not there.
        InvalidInputError: it has none of the forms.
    """
    (content, file), *others = _contents(dataset)
    if others:
        raise InvalidInputError(f"The folder {dataset.name!r} holds several data sets; name the file.")
    places = _places(file, images)
    rows = _rows(content)
    if rows is not None:
        found = [
            Captioned(_name(row, number), _picture(places, _text(row, "image")), _texts(row, "captions", "caption"))
            for number, row in enumerate(rows)
        ]
    else:
        found = list(_coco(_object(content, file), places, file))
    return _unique(found, file)


def asked(dataset: Path, images: Path | None = None, annotations: Path | None = None) -> list[Asked]:
    """Questions with answers.

    Args:
        dataset: a file or a folder in one of the forms above.
        images: as in `captioned`.
        annotations: the file of answers, where `dataset` is a file of questions.

    Raises:
        NotFoundError: the data set, or the folder, is not there.
        InvalidInputError: it has none of the forms.
    """
    contents = [*_contents(dataset), *(_contents(annotations) if annotations else [])]
    (content, file), *others = contents
    rows = _rows(content)
    if rows is not None and not others:
        places = _places(file, images)
        found = [
            Asked(
                _name(row, number),
                _picture(places, _text(row, "image")),
                _text(row, "question"),
                _texts(row, "answers", "answer"),
                row.get("question_type"),
                row.get("answer_type"),
            )
            for number, row in enumerate(rows)
        ]
        return _unique(found, file)
    parts = [part for part, _ in contents if isinstance(part, dict)]
    questions = [part for part in parts if "questions" in part]
    answers = [part for part in parts if "annotations" in part and "images" not in part]
    if len(questions) != 1 or len(answers) != 1:
        raise InvalidInputError(
            f"{dataset.name!r} is not a data set of questions: JSON Lines, or one file of questions and one of annotations."
        )
    return _unique(list(_vqa(questions[0], answers[0], _places(file, images))), file)


def _coco(content: Mapping[str, Any], places: Sequence[Path], file: Path) -> Iterator[Captioned]:
    if not {"images", "annotations"} <= content.keys():
        raise InvalidInputError(f"{file.name!r} has neither the form of COCO captions nor that of JSON Lines.")
    told: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        told.setdefault(annotation.get("image_id"), []).append(_text(annotation, "caption"))
    for image in content["images"]:
        if image.get("id") in told:
            picture = _picture(places, _text(image, "file_name"))
            yield Captioned(str(image["id"]), picture, tuple(told[image["id"]]))


def _vqa(questions: Mapping[str, Any], answers: Mapping[str, Any], places: Sequence[Path]) -> Iterator[Asked]:
    given = {annotation.get("question_id"): annotation for annotation in answers["annotations"]}
    subtype = questions.get("data_subtype", "")
    for question in questions["questions"]:
        annotation = given.get(question.get("question_id"))
        if annotation is None:
            raise InvalidInputError(f"The question {question.get('question_id')} has no annotation.")
        number = int(question["image_id"])
        names = (f"COCO_{subtype}_{number:012d}.jpg", f"{number:012d}.jpg", f"{number}.jpg", f"{number}.png")
        yield Asked(
            str(question["question_id"]),
            _picture(places, *names),
            _text(question, "question"),
            tuple(_text(answer, "answer") for answer in annotation["answers"]),
            annotation.get("question_type"),
            annotation.get("answer_type"),
        )


# ---- files ----


def _contents(dataset: Path) -> list[tuple[Any, Path]]:
    """The content of a file, or of every file of a folder that could be a data set."""
    if dataset.is_dir():
        files = sorted(
            path
            for folder in (dataset, dataset / "annotations")
            for path in (folder.iterdir() if folder.is_dir() else ())
            if path.suffix in (".json", ".jsonl")
        )
    else:
        files = [dataset]
    if not files or not all(file.is_file() for file in files):
        raise NotFoundError(f"There is no data set at {str(dataset)!r}.")
    return [(_content(file), file) for file in files]


def _content(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{file.name!r} is not readable as {file.suffix[1:].upper() or 'JSON'}.") from error


def _places(file: Path, images: Path | None) -> list[Path]:
    roots = [images] if images else [file.parent, file.parent.parent]
    if images is not None and not images.is_dir():
        raise NotFoundError(f"There is no folder {str(images)!r}.")
    return [root / name for root in roots for name in _IMAGE_FOLDERS]


def _picture(places: Sequence[Path], *names: str) -> Path:
    """The first that is there; else the likeliest, whose absence will be noticed when it is read."""
    candidates = [place / name for name in names for place in places]
    return next((path for path in candidates if path.is_file()), candidates[0])


# ---- fields ----


def _rows(content: Any) -> list[dict[str, Any]] | None:
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        return content
    return None


def _object(content: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise InvalidInputError(f"{file.name!r} is empty or has none of the known forms.")
    return content


def _name(row: Mapping[str, Any], number: int) -> str:
    return str(row.get("id", row.get("question_id", number)))


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInputError(f"The data set has an entry without {name!r}.")
    return value


def _texts(row: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    for name in names:
        value = row.get(name)
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and values and all(isinstance(one, str) for one in values):
            return tuple(values)
    raise InvalidInputError(f"The data set has an entry without {names[0]!r}.")


def _unique(found: list[Any], file: Path) -> list[Any]:
    if not found:
        raise InvalidInputError(f"{file.name!r} holds no entries.")
    if len({one.id for one in found}) < len(found):
        raise InvalidInputError(f"{file.name!r} has two entries with the same id.")
    return found
