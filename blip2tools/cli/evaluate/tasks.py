"""The evaluations: predictions of one model about one data set, and the scores computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blip2tools.checkpoints.confidence import Calibration, Scaling, read, write
from blip2tools.cli.evaluate import captions, datasets, reliability, vqa
from blip2tools.cli.evaluate.journal import Journal, Prediction, predict
from blip2tools.errors import InvalidInputError, VisionError
from blip2tools.vision.search import AT_ONCE, shortlists
from blip2tools.vision.styles import Style
from blip2tools.vision.together import each

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blip2tools.vision import Vision

    Scores = NDArray[np.float32]

RECALLS: Final = (1, 5, 10)
TEXTS_AT_ONCE: Final = 64
NEVER: Final = -100.0  # the score of a pair outside the shortlists, as in the reference

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation: what it reads, and where it keeps its predictions.

    Attributes:
        vision: the model.
        journal: the file of predictions.
        facts: what distinguishes this run from another one, for the journal and the report.
        progress: receives how many items are done, and of how many.
    """

    vision: Vision
    journal: Path
    facts: Mapping[str, Any]
    progress: Progress
    failed: dict[str, VisionError] = field(default_factory=dict)

    def report(self, items: int, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """The report: facts, counts, numbers, and what failed with its reason."""
        return {
            **self.facts,
            "items": items,
            "failed": [{"id": name, "code": error.code} for name, error in sorted(self.failed.items())],
            **numbers,
        }


async def evaluate_captions(run: Run, items: Sequence[datasets.Captioned], style: Style) -> dict[str, Any]:
    """CIDEr, BLEU and ROUGE-L."""
    which = captions.tokenizer()
    captions.check()  # before hours of work, not after

    async def verb(item: datasets.Captioned) -> Prediction:
        told = await run.vision.acaption(item.image, style=style)
        match = None if told.match is None else told.match.probability
        return {"caption": told.text, "confidence": told.confidence, "match": match}

    with Journal(run.journal, run.facts) as journal:
        run.failed.update(await predict(items, journal, verb, run.progress))
        done = [item for item in items if item.id in journal.done]
        told = {item.id: journal.done[item.id]["caption"] for item in done}
    if not done:
        return run.report(len(items), {"scores": None})
    truths = {item.id: item.captions for item in done}
    exact = math.fsum(told[item.id] in item.captions for item in done) / len(done)
    return run.report(
        len(items), {"tokenizer": which, "scores": captions.scores(truths, told, which), "word_for_word": exact}
    )


async def evaluate_vqa(
    run: Run, items: Sequence[datasets.Asked], *, reference: bool, lemmatize: bool, calibration: Path | None
) -> dict[str, Any]:
    """VQA soft accuracy.

    Args:
        run: the run.
        items: questions with answers.
        reference: prepare questions as the reference does.
        lemmatize: compare base forms, of the model's answers and of people's.
        calibration: where to write the scaling of confidences that half of the questions fit; the other half judges it.
    """
    lemmas = vqa.Lemmatizer() if lemmatize else None

    async def verb(item: datasets.Asked) -> Prediction:
        question = vqa.reference_question(item.question) if reference else item.question
        told = await run.vision.autterance(item.image, question)
        return {
            "answer": told.text,
            "confidence": told.confidence,
            "logprob": told.logprob,
            "tokens": told.tokens,
        }

    with Journal(run.journal, run.facts) as journal:
        run.failed.update(await predict(items, journal, verb, run.progress))
        told = dict(journal.done)
    done = [item for item in items if item.id in told]
    if not done:
        return run.report(len(items), {"accuracy": None})

    def accuracy(item: datasets.Asked) -> float:
        said, truths = told[item.id]["answer"], item.answers
        if lemmas is not None:
            said, truths = lemmas(said), tuple(map(lemmas, truths))
        return vqa.soft_accuracy(said, truths)

    right = {item.id: accuracy(item) for item in done}
    sure = [told[item.id]["confidence"] for item in done]
    numbers: dict[str, Any] = {
        "accuracy": math.fsum(right.values()) / len(done),
        "by_answer_type": vqa.by_group((item.answer_type, right[item.id]) for item in done),
        "by_question_type": vqa.by_group((item.question_type, right[item.id]) for item in done),
        "calibration_error": reliability.calibration_error(sure, list(right.values())),
        "auroc": reliability.auroc(sure, list(right.values())),
    }
    if calibration is not None:
        judged = [
            reliability.Judged(told[item.id]["logprob"], told[item.id]["tokens"], right[item.id]) for item in done
        ]
        numbers["reliability"] = _fitted(judged, calibration, run.facts)
    return run.report(len(items), numbers)


def _fitted(judged: Sequence[reliability.Judged], path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Fit on every other question, judge on those between, and add the scaling to what the file has."""
    fitting, testing = judged[::2], judged[1::2]
    if not testing:
        raise InvalidInputError("Calibration needs at least two answered questions.")
    found = reliability.Reliability("answers", reliability.fit(fitting), len(fitting), tuple(testing))
    before = read(path) if path.is_file() else Calibration()
    after = before.model_copy(update={"answer": rounded(found.scaling)})
    write(path, after, {**facts, "reliability": found.as_dict()})
    return found.as_dict()


def rounded(scaling: Scaling) -> Scaling:
    """Rounded to significant digits."""
    return Scaling(temperature=round(scaling.temperature, 4), shift=round(scaling.shift, 4))


async def evaluate_retrieval(run: Run, items: Sequence[datasets.Captioned], k: int) -> dict[str, Any]:
    """Recall at 1, 5 and 10, pictures by text and texts by picture: by ITC alone, and with ITM for the k nearest."""
    import numpy as np

    texts = [text for item in items for text in item.captions]
    owner = np.asarray([place for place, item in enumerate(items) for _ in item.captions])
    with Journal(run.journal, run.facts):  # refuses the journal of another run, and the file next to it
        cosines = await _cosines(run, items, texts)
    if cosines is None:  # a picture that is missing would be missed by its texts
        return run.report(len(items), {"recall": None})
    wanted = np.zeros(cosines.shape, dtype=bool)
    for image, short in enumerate(shortlists(cosines, k)):
        wanted[image, short] = True
    for text, short in enumerate(shortlists(cosines.T, k)):
        wanted[short, text] = True
    places = {item.id: place for place, item in enumerate(items)}

    async def judge(item: datasets.Captioned) -> Prediction:
        numbers = [int(number) for number in np.flatnonzero(wanted[places[item.id]])]
        given = [texts[number] for number in numbers]
        (hits,) = (await run.vision.aretrieve([item.image], given, direction="image_to_text", k=len(given))).queries
        return {"scores": {str(numbers[hit.index]): round(hit.score, 6) for hit in hits}}

    with Journal(run.journal, run.facts) as journal:
        run.failed.update(await predict(items, journal, judge, run.progress))
        judged = [journal.done.get(item.id) for item in items]
    if any(one is None for one in judged):
        return run.report(len(items), {"recall": None})
    sums = np.full_like(cosines, NEVER)
    for image, one in enumerate(judged):
        for number, score in (one or {"scores": {}})["scores"].items():
            sums[image, int(number)] = score
    by_text, by_image = _kept(sums.T, cosines.T, k), _kept(sums, cosines, k)
    return run.report(
        len(items),
        {
            "texts": len(texts),
            "k": min(k, len(texts)),
            "recall": {
                "itc": _recalls(cosines.T, cosines, owner),
                "reranked": _recalls(by_text, by_image, owner),
            },
        },
    )


async def _cosines(run: Run, items: Sequence[datasets.Captioned], texts: Sequence[str]) -> Scores | None:
    """ITC similarities, pictures x texts; kept next to the journal. None if a picture could not be read."""
    import numpy as np

    file = run.journal.with_name("cosines.npy")
    if file.is_file():
        kept: Scores = np.load(file, allow_pickle=False)
        if kept.shape == (len(items), len(texts)):
            return kept
    groups = [texts[first : first + TEXTS_AT_ONCE] for first in range(0, len(texts), TEXTS_AT_ONCE)]
    vectors = [vector for group in await each(run.vision.atext_features, groups, at_once=AT_ONCE) for vector in group]
    words = np.asarray(vectors, dtype=np.float32)
    done = 0

    async def look(item: datasets.Captioned) -> Scores | None:
        nonlocal done
        try:
            seen = await run.vision.afeatures(item.image)
        except VisionError as error:
            run.failed[item.id] = error
            return None
        done += 1
        run.progress(done, len(items))
        row: Scores = (np.asarray(seen.vectors, dtype=np.float32) @ words.T).max(axis=0)
        return row

    rows = [row for row in await each(look, items, at_once=AT_ONCE) if row is not None]
    if len(rows) < len(items):
        return None
    found = np.stack(rows)
    np.save(file, found, allow_pickle=False)
    return found


def _kept(sums: Scores, cosines: Scores, k: int) -> Scores:
    """Scores of each query's own shortlist; a pair that only the other direction judged does not count."""
    import numpy as np

    kept = np.full_like(sums, NEVER)
    for query, short in enumerate(shortlists(cosines, k)):
        kept[query, short] = sums[query, short]
    return kept


def _recalls(by_text: Scores, by_image: Scores, owner: Any) -> dict[str, dict[str, float]]:
    """Share of queries with a right candidate among the first 1, 5, 10: of a picture, any of its own texts."""
    import numpy as np

    text_ranks = [
        int(np.flatnonzero(np.argsort(-row, kind="stable") == owner[text])[0]) for text, row in enumerate(by_text)
    ]
    image_ranks = [
        int(np.flatnonzero(owner[np.argsort(-row, kind="stable")] == image)[0]) for image, row in enumerate(by_image)
    ]
    return {
        "text_to_image": {f"R@{n}": float(np.mean([rank < n for rank in text_ranks])) for n in RECALLS},
        "image_to_text": {f"R@{n}": float(np.mean([rank < n for rank in image_ranks])) for n in RECALLS},
    }
