"""Small data sets of the demo's world, in the forms that `blip2tools evaluate` reads."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from blip2tools.demo.draw import draw
from blip2tools.demo.questions import sample_questions
from blip2tools.demo.words import caption
from blip2tools.demo.world import sample_scene


def scenes(number: int, seed: int = 11) -> list[Any]:
    """Scenes with different captions."""
    chance, found = random.Random(seed), {}
    while len(found) < number:
        scene = sample_scene(chance)
        found.setdefault(caption(scene), scene)
    return list(found.values())


def json_lines(folder: Path, number: int) -> tuple[Path, Path]:
    """Files of captions and of questions, their pictures beside them."""
    chance = random.Random(5)
    captions, questions = [], []
    for place, scene in enumerate(scenes(number)):
        draw(scene, 64).save(folder / f"{place}.png")
        captions.append({"image": f"{place}.png", "captions": [caption(scene)]})
        for question in sample_questions(scene, 2, chance):
            questions.append(
                {
                    "id": f"{place}-{question.kind}-{len(questions)}",
                    "image": f"{place}.png",
                    "question": question.text,
                    "answers": [question.answer] * 10,
                    "question_type": question.kind,
                }
            )
    return _lines(folder / "captions.jsonl", captions), _lines(folder / "questions.jsonl", questions)


def coco(folder: Path, number: int) -> Path:
    """COCO's layout: pictures in `val2014`, captions in `annotations`; two captions of each picture."""
    (folder / "val2014").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for place, scene in enumerate(scenes(number)):
        name = f"COCO_val2014_{place + 1:012d}.jpg"
        draw(scene).save(folder / "val2014" / name, quality=95)
        images.append({"id": place + 1, "file_name": name})
        told = (caption(scene), f"{caption(scene)}.".capitalize())
        annotations += [
            {"image_id": place + 1, "id": len(annotations) + n, "caption": text} for n, text in enumerate(told)
        ]
    content = {"images": images, "annotations": annotations, "info": {}}
    (folder / "annotations" / "captions_val2014.json").write_text(json.dumps(content))
    return folder


def vqav2(folder: Path, number: int) -> Path:
    """VQAv2's layout: questions and annotations beside the pictures' folder."""
    (folder / "val2014").mkdir(parents=True)
    chance = random.Random(6)
    questions, annotations = [], []
    for place, scene in enumerate(scenes(number)):
        draw(scene).save(folder / "val2014" / f"COCO_val2014_{place + 1:012d}.jpg", quality=95)
        for question in sample_questions(scene, 2, chance):
            name = 1000 + len(questions)
            questions.append({"question_id": name, "image_id": place + 1, "question": question.text})
            answers = [{"answer": question.answer, "answer_id": n, "answer_confidence": "yes"} for n in range(10)]
            kind = "yes/no" if question.answer in ("yes", "no") else "other"
            annotations.append(
                {
                    "question_id": name,
                    "image_id": place + 1,
                    "answers": answers,
                    "answer_type": kind,
                    "question_type": question.text.split()[0],
                    "multiple_choice_answer": question.answer,
                }
            )
    asked = {"questions": questions, "data_subtype": "val2014", "data_type": "mscoco"}
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps(asked))
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return folder


def _lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
