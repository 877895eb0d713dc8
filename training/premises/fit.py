"""`python -m training.premises.fit`: the rule for the scores of the demo's matcher, written next to the captioner's weights.

Fitted are the log-odds from which a statement holds; the factor by which a premise that fails lowers a confidence, as logistic
regression of the truth of statements on their log-odds, noisy and turned pictures among them; and the probability, of all offered
choices together, below which none of them is the answer. What there can be in the demo's world is known and not fitted.

`--unfamiliar` fits one number and leaves the others: how far the log-odds of an answer fall where a picture does not look like
the demo's world.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from PIL import Image

from blip2tools.checkpoints import confidence
from blip2tools.checkpoints.confidence import Premises, Scaling
from blip2tools.checkpoints.family import demo_folder
from blip2tools.cli.evaluate.mixture import FOR_ANSWERS, mixture
from blip2tools.cli.evaluate.reliability import Judged, calibration_error, fit
from blip2tools.demo.words import DIRECTION_WORDS, phrase
from blip2tools.demo.world import COLORS, WIDE, Scene
from blip2tools.engine.requests import AnswerRequest, ChoiceRequest, Question, Ranking, Utterance
from blip2tools.model.options import Generation
from blip2tools.vision import Vision
from blip2tools.vision.doubts import Asked
from training.premises import reliability

SEED = 4242
PICTURES = 600
STEEPEST = 100
SPENT = 0.01
MARGIN = 3.0  # log-odds: what is there is 7 above 0 in the median, what is not is 9 below


def main() -> None:
    """Fit, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--unfamiliar", action="store_true", help="fit this alone")
    chosen = parser.parse_args()
    path = demo_folder("captioner") / confidence.FILE
    before = confidence.premises_rule(path.parent)
    with Vision.load(model="demo", matcher="demo", num_beams=1) as vision:
        if chosen.unfamiliar:
            slope = unfamiliar(vision, chosen.seed, chosen.pictures)
            rule, name = before.model_copy(update={"unfamiliar": slope}), "unfamiliar"
            facts: dict[str, object] = {"seed": chosen.seed, "pictures": chosen.pictures, "date": _today()}
        else:
            rule, facts = fitted(vision, chosen.seed, chosen.pictures)
            rule, name = rule.model_copy(update={"unfamiliar": before.unfamiliar}), "premises"
    confidence.write_premises(path, rule, {name: facts})
    print(path.read_text())  # noqa: T201


def fitted(vision: Vision, seed: int, pictures: int) -> tuple[Premises, dict[str, object]]:
    """The rule, and how it was fitted, for readers."""
    known: list[tuple[float, bool]] = []
    said: list[tuple[float, bool]] = []
    for image, scene, chance in _pictures(seed, pictures):
        known += _statements(vision, image, scene, chance)
        said += _choices(vision, image, scene, chance)
    holds = _threshold([odds for odds, true in known if true], [odds for odds, true in known if not true])
    least = math.exp(_threshold([odds for odds, right in said if right], [odds for odds, right in said if not right]))
    below = [right for odds, right in said if math.exp(odds) < least]
    rule = Premises(
        holds=round(holds, 2),
        fails=round(holds, 2),
        margin=MARGIN,
        others=tuple(phrase(shape=shape) for shape in WIDE.shapes),
        known=True,
        relations=tuple(DIRECTION_WORDS.values()),
        scaling=_scaling(known),
        said=round(least, 4),
        none=round((1 + sum(below)) / (2 + len(below)), 4),
    )
    return rule, {"seed": seed, "pictures": pictures, "statements": len(known), "choices": len(said), "date": _today()}


def unfamiliar(vision: Vision, seed: int, pictures: int) -> float:
    """How far an answer's log-odds fall for each unit by which the own caption of an unfamiliar picture is unlikely.

    About pictures of something else any confidence is too high, and turned and noisy ones have unlikely captions as well: so it
    is as steep as keeps the calibration error of these within `SPENT` of what it is without.
    """
    rows = [vision.run(_doubted(vision, put)) for put in reliability.questions("harder pictures", seed, pictures // 2)]
    right = [float(one.right) for one in rows]

    def error(slope: int) -> float:
        return calibration_error(
            [one.factor * confidence.lowered(one.sure, slope * one.strange) for one in rows], right
        )

    return float(next(slope for slope in itertools.count() if error(slope + 1) > error(0) + SPENT or slope == STEEPEST))


@dataclass(frozen=True, slots=True)
class Doubted:
    """An answer.

    Attributes:
        sure: its confidence, from its words alone.
        factor: of a premise that fails, or 1.
        strange: how far below 0 the mean log-probability of the picture's own caption is; 0 for a familiar picture, and for one
            that shows what the question takes for granted.
        right: whether it is the truth, word for word.
    """

    sure: float
    factor: float
    strange: float
    right: bool


async def _doubted(vision: Vision, put: reliability.Put) -> Doubted:
    verbs, deadline = vision._verbs, time.monotonic() + 60
    (seen,) = await verbs._look_at_parts(put.image, [put.region], deadline)
    asked = Asked.of(put.question)
    request = AnswerRequest(seen.sight, Question(put.question, (), None), Generation(num_beams=1), asked.statements)
    told: Utterance = await verbs._ask_engine(request, deadline)
    doubt = await verbs._asking._doubts.about(seen.sight, asked, told.fits, deadline)
    own = await verbs._describe(seen.sight, Generation(num_beams=1), deadline)
    strange = -own.spoken.logprob if verbs._is_strange(own) and not doubt.holds else 0.0
    return Doubted(told.confidence, doubt.factor, strange, told.text.strip() == put.truth)


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _pictures(seed: int, pictures: int) -> Iterator[tuple[Image.Image, Scene, random.Random]]:
    for place, sample in enumerate(mixture(seed, pictures, FOR_ANSWERS)):
        yield sample.image, sample.scene, random.Random(f"premises/{seed}/{place}")


def _statements(vision: Vision, image: Image.Image, scene: Scene, chance: random.Random) -> list[tuple[float, bool]]:
    """Statements about one thing, half of them true, with the matcher's log-odds."""
    thing = chance.choice(scene.things)
    absent = chance.choice([one for one in WIDE.shapes if not scene.number(shape=one)])
    color = chance.choice([one for one in COLORS if not scene.number(color=one)])
    other = chance.choice([one for one in COLORS if not scene.number(color=one, shape=thing.shape)])
    true = {phrase(shape=thing.shape), phrase(color=thing.color), phrase(color=thing.color, shape=thing.shape)}
    false = {phrase(shape=absent), phrase(color=color), phrase(color=other, shape=thing.shape)}
    found = vision.match(image, [*sorted(true), *sorted(false)]).matches
    return [(_odds(match.probability), match.text in true) for match in found]


def _choices(vision: Vision, image: Image.Image, scene: Scene, chance: random.Random) -> list[tuple[float, bool]]:
    """Log-probability that the model says one of the choices, and whether the right one is among them."""
    alone = [thing for thing in scene.things if scene.number(shape=thing.shape) == 1]
    if not alone:
        return []
    thing = chance.choice(alone)
    question = f"what color is the {thing.shape}?"
    wrong = chance.sample([one for one in COLORS if one != thing.color], 3)
    told = []
    for right, choices in ((True, [thing.color, *wrong[:2]]), (False, wrong)):
        said = vision.run(_ranking(vision, image, question, choices)).said
        told.append((math.log(max(said, 1e-30)), right))
    return told


async def _ranking(vision: Vision, image: Image.Image, question: str, choices: Sequence[str]) -> Ranking:
    verbs, deadline = vision._verbs, time.monotonic() + 60
    seen = await verbs._look(image, None, deadline)
    asked = ChoiceRequest(seen.sight, Question(question, (), None), tuple(choices))
    return cast(Ranking, await verbs._ask_engine(asked, deadline))


def _odds(probability: float) -> float:
    bounded = min(max(probability, 1e-7), 1 - 1e-7)
    return math.log(bounded / (1 - bounded))


def _threshold(above: Sequence[float], below: Sequence[float]) -> float:
    """The threshold between two kinds of numbers with the fewest errors, as shares of each kind; the middle of the best gap."""
    points = sorted({*above, *below})
    middles = [(one + other) / 2 for one, other in itertools.pairwise(points)]

    def errors(point: float) -> float:
        return sum(one < point for one in above) / len(above) + sum(one >= point for one in below) / len(below)

    least = min(map(errors, middles))
    best = [point for point in middles if errors(point) <= least]
    return best[len(best) // 2]


def _scaling(known: Sequence[tuple[float, bool]]) -> Scaling:
    """Logistic regression of the truth of a statement on its log-odds."""
    return fit([Judged(_log_probability(odds), 1, float(true)) for odds, true in known])


def _log_probability(odds: float) -> float:
    return -math.log1p(math.exp(-odds)) if odds > -30 else odds


if __name__ == "__main__":
    main()
