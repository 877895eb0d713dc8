"""`python -m training.premises.real_questions`: how far the language reaches, on questions that people asked.

It is given two files of questions, one a line: about photographs, and about general knowledge (those of Ray et al. 2016, arXiv
1606.06622, name no licence and are no part of this project), and what a person judged of a sample. Without the judgement it
writes the sheet to judge: a line for each question drawn, with what is read from it, tabs between.

    -        nothing is presupposed
    ~he      a pronoun without a named person: not judged
    a; b     these statements

The person puts `right` or `wrong` before it, and `nothing` or `something` for what the question does presuppose. A question whose
reading has changed since counts as not judged, and is reported.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from blip2tools.demo.draw import draw
from blip2tools.demo.world import WIDE, sample_scene
from blip2tools.vision import Vision
from blip2tools.vision.premises import is_about_no_picture, read

SEED: Final = 20261127
DRAWN: Final = 500
QUIZ: Final = 1000


def main() -> None:
    """Count, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("visual", type=Path, help="questions about photographs")
    parser.add_argument("other", type=Path, help="questions about general knowledge")
    parser.add_argument("--judged", type=Path, help="the sheet with a person's judgement")
    parser.add_argument("--sheet", type=Path, help="write the sheet to judge, and nothing else")
    parser.add_argument("--seed", type=int, default=SEED)
    chosen = parser.parse_args()
    visual, other = _questions(chosen.visual), _questions(chosen.other)
    chance = random.Random(chosen.seed)
    drawn = [visual[place] for place in sorted(chance.sample(range(len(visual)), DRAWN))]
    if chosen.sheet:
        chosen.sheet.write_text("".join(f"\t\t{told(question)}\t{question}\n" for question in drawn), encoding="utf-8")
        return
    _say(f"seed {chosen.seed}; {len(visual):,} questions about photographs, {len(other):,} others")
    if chosen.judged:
        _judged(drawn, chosen.judged)
    start = time.process_time()
    called = sum(map(is_about_no_picture, visual))
    _say(f'called "about no picture": {called / len(visual):.4f} of {len(visual):,} (at most 0.01)')
    for question in visual[:DRAWN]:
        read(question)
    _say(f"{(time.process_time() - start) / (len(visual) + DRAWN) * 1e6:.0f} microseconds a question")
    quiz = random.Random(chosen.seed).sample(other, QUIZ)
    _say(f"of {QUIZ:,} others called so from their words: {sum(map(is_about_no_picture, quiz)) / QUIZ:.3f}")
    _say(f"... in small letters: {sum(is_about_no_picture(question.lower()) for question in quiz) / QUIZ:.3f}")
    _say(f"... or told by what they presuppose, asked about scenes: {_told(quiz, chosen.seed):.3f} (at least 0.90)")


def told(question: str) -> str:
    """The reading of a question, in short."""
    reading = read(question)
    if reading.statements:
        return "; ".join(statement.text for statement in reading.statements)
    return f"~{reading.pronoun}" if reading.pronoun else "-"


def _questions(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _judged(drawn: Sequence[str], sheet: Path) -> None:
    """Shares of the drawn questions that are read rightly, by what they do presuppose."""
    verdicts = {}
    for line in sheet.read_text(encoding="utf-8").splitlines():
        verdict, truth, reading, question = line.split("\t")
        verdicts[question] = (verdict, truth, reading)
    counts = {"something": [0, 0], "nothing": [0, 0]}
    changed = 0
    for question in drawn:
        verdict, truth, reading = verdicts[question]
        if reading != told(question):
            changed += 1
            continue
        counts[truth][0] += verdict == "right"
        counts[truth][1] += 1
    for truth, (right, number) in counts.items():
        _say(f"presupposes {truth}: {right / number:.3f} of {number} read rightly (at least 0.90)")
    _say(f"not judged, as the reading has changed since: {changed}")


def _told(quiz: Sequence[str], seed: int) -> float:
    """The share of questions that a result doubts in words, each asked about a scene of its own."""
    doubted = 0
    with Vision.load(model="demo", matcher="demo", num_beams=1) as vision:
        for place, question in enumerate(quiz):
            image = draw(sample_scene(random.Random(f"quiz/{seed}/{place}"), world=WIDE))
            premise = vision.ask(image, question[:500]).premise
            doubted += premise is not None and premise.holds is False
    return doubted / len(quiz)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
