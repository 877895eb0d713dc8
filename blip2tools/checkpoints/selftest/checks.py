"""The checks. Each looks at one promise of a loaded model and gives its finding; the tensor side of the self-test.

Most of what can go wrong with BLIP-2 raises no exception: a processor without image slots leaves the picture out, padding on
the wrong side moves positions, a Q-Former in half precision overflows, and the words still come out fluent.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from blip2tools.checkpoints import Loaded
from blip2tools.checkpoints.family import Member
from blip2tools.checkpoints.memory import is_out_of_memory
from blip2tools.checkpoints.selftest.beside import LIMITS, Whole, compare
from blip2tools.checkpoints.selftest.findings import Finding
from blip2tools.checkpoints.selftest.samples import ANSWERS, PICTURES, QUESTION
from blip2tools.model.options import GenerationOptions, Spoken

TOKENS = 12  # of a caption: enough to name what is there
PUBLISHED_QUERIES = 32  # num_query_tokens of every published member
GREEDY = GenerationOptions(num_beams=1)
# Half precision rounds sums in another order for another batch: a near tie may then fall to another word.
HALF_PRECISION_GAP = 0.1  # mean log-probability, or logit
# So it may with quantized weights: another number of rows is multiplied by another kernel, which rounds the states in another
# way. What reads the wrong places is further off.
QUANTIZED_GAP = {"8bit": 0.5, "4bit": 1.0}
EXACT_GAP = 1e-2

logger = logging.getLogger(__name__)


class Trial:
    """A loaded model and its results for the bundled pictures, each computed once.

    Args:
        loaded: the model.
        named: its entry in the family's table.
        unquantized: loads what a quantized model was made from; None where there is not enough memory for it.
    """

    def __init__(
        self, loaded: Loaded, named: Member | None, unquantized: Callable[[], Whole | None] = lambda: None
    ) -> None:
        self.loaded = loaded
        self.unquantized = unquantized
        self.captioner = loaded.captioner
        self.known = named is not None
        self.published = named is not None and named.hub is not None
        again = f"run `blip2tools pull {named.name}` again" if named is not None and self.published else None
        self.files = (
            f"{again or 'compare the files with those that the model was published with'}, or choose another model"
        )

    @property
    def gap(self) -> float:
        """By how much a near tie may be decided otherwise in another batch: mean log-probability, or logit."""
        if (quantize := self.loaded.quantize) in QUANTIZED_GAP and self.loaded.device == "cpu":
            return QUANTIZED_GAP[quantize]
        return EXACT_GAP if self.captioner.dtype == torch.float32 else HALF_PRECISION_GAP

    @cached_property
    def pixels(self) -> Tensor:
        return self.loaded.pixels([picture.open() for picture in PICTURES])

    @cached_property
    def matcher_pixels(self) -> Tensor:
        """Pixels for the matcher's own vision tower, where there is one."""
        pixels = self.loaded.matcher_pixels
        if pixels is None:
            raise Nothing("there is no matcher")
        return pixels([picture.open() for picture in PICTURES])

    @cached_property
    def states(self) -> Tensor:
        return self.captioner.trunk.see(self.pixels)

    @cached_property
    def tokens(self) -> Tensor:
        return self.captioner.query(self.states)

    @cached_property
    def prompts(self) -> list[tuple[int, ...]]:
        """Prompts for the three captions, and for one question."""
        words = self.loaded.words
        return [words.caption(words.prompt).ids] * len(PICTURES) + [words.question(QUESTION).ids]

    @cached_property
    def batch(self) -> list[Spoken]:
        """The three captions and the answer about the first picture, decoded together."""
        return self.speak(torch.cat([self.tokens, self.tokens[:1]]), self.prompts)

    def speak(self, tokens: Tensor, prompts: Sequence[Sequence[int]]) -> list[Spoken]:
        spoken = self.captioner.speak(tokens, prompts, GREEDY, max_new_tokens=[TOKENS] * len(prompts))
        return [row[0] for row in spoken]

    def text(self, spoken: Spoken) -> str:
        return self.loaded.words.decode(spoken.ids)

    def misfits(self, texts: Sequence[str]) -> int | None:
        """The first picture that another's text fits as well as its own or better; None if there is none.

        Raises:
            Nothing: there is no matcher. Doubt: its numbers overflow.
        """
        matcher, pixels, encode = self.loaded.matcher, self.loaded.matcher_pixels, self.loaded.matcher_words
        if matcher is None or pixels is None or encode is None:
            raise Nothing("there is no matcher")
        shared = self.loaded.shared_trunk
        states = self.states if shared else matcher.trunk.see(self.matcher_pixels)
        ids = [encode(text).ids for text in texts]
        # Logits, as probabilities saturate.
        logits = torch.stack([matcher.match(states[row : row + 1], ids) for row in range(len(PICTURES))])
        margins = logits[..., 1] - logits[..., 0]
        if not bool(torch.isfinite(margins).all()):
            raise Doubt("the matcher gives values that are NaN or infinite (overflow)", self.files)
        for own, other in itertools.permutations(range(len(PICTURES)), 2):
            if margins[own, own] <= margins[own, other]:
                return own
        return None


class Doubt(Exception):  # noqa: N818 - a finding on its way out, not an error
    """A check has failed: what was found, and what to do."""

    def __init__(self, sentence: str, remedy: str) -> None:
        super().__init__(sentence)
        self.sentence, self.remedy = sentence, remedy


class Nothing(Exception):  # noqa: N818 - likewise
    """A check has nothing to look at, and why."""


def configuration(trial: Trial) -> str:
    """Set up as it was trained: sizes, epsilons, precision."""
    captioner, pixels = trial.captioner, trial.loaded.pixels
    found = captioner.oddities()
    if captioner.trunk.image_size != pixels.size:
        found.append(f"pictures are made {pixels.size} px large for a vision tower of {captioner.trunk.image_size} px")
    matcher, matcher_pixels = trial.loaded.matcher, trial.loaded.matcher_pixels
    if matcher is not None and matcher_pixels is not None and matcher.trunk.image_size != matcher_pixels.size:
        found.append("the matcher's pictures have another size than its vision tower")
    if found:
        raise Doubt(f"{'; '.join(found)}", trial.files)
    return f"{pixels.size} px pictures, float32 Q-Former, settings as in training"


def tokenizer(trial: Trial) -> str:
    """Words survive the conversion to ids and back, and no id is unknown to the model."""
    words, captioner = trial.loaded.words, trial.captioner
    for picture in PICTURES:
        row = words.caption(picture.statement).ids
        ids = row[1:] if captioner.family == "opt" else row[:-1]
        if words.decode(ids) != picture.statement:
            raise Doubt(f"the tokenizer makes {words.decode(ids)!r} of {picture.statement!r}", trial.files)
        # Without its merges a byte-level tokenizer still gives the text back, letter by letter.
        if trial.published and len(ids) > 2 * len(picture.statement.split()):
            raise Doubt(f"the tokenizer cuts {picture.statement!r} into {len(ids)} pieces", trial.files)
    if words.vocabulary > captioner.vocabulary:
        raise Doubt("the tokenizer has more words than the model", trial.files)
    matcher, matcher_words = trial.loaded.matcher, trial.loaded.matcher_words
    if matcher is not None and matcher_words is not None:
        for picture in PICTURES:
            if matcher_words.decode(matcher_words(picture.statement).ids) != picture.statement:
                raise Doubt(f"the matcher's tokenizer does not know {picture.statement!r}", trial.files)
        if matcher_words.vocabulary > matcher.vocabulary:
            raise Doubt("the matcher's tokenizer has more words than the matcher", trial.files)
    return "texts come back as they went in"


def prompt(trial: Trial) -> str:
    """Image slots, then the text with its one special token, and no padding read (transformers #22014, #34223)."""
    captioner = trial.captioner
    special, place, name = (captioner.eos, -1, "EOS") if captioner.bos is None else (captioner.bos, 0, "BOS")
    for ids in trial.prompts:
        if ids.count(special) != 1 or ids[place] != special:
            raise Doubt(f"a prompt holds {name} {ids.count(special)} times, and not once in its place", trial.files)
    slots = captioner.num_queries
    if trial.published and slots != PUBLISHED_QUERIES:
        raise Doubt(f"there are {slots} image slots, and not {PUBLISHED_QUERIES}", trial.files)
    tokens = torch.cat([trial.tokens, trial.tokens[:1]])
    for places, ids in zip(captioner.places(tokens, trial.prompts), trial.prompts, strict=True):
        if places != slots + len(ids):
            raise Doubt(
                f"{places} places are read, and not {slots} image slots and {len(ids)} tokens: padding counts as words",
                "report this: it is a fault of this package",
            )
    return f"{slots} image slots and one {name}"


def numbers(trial: Trial) -> str:
    """Check that nothing overflows on the way from pixels to words."""
    steps = [("the vision tower", trial.states), ("the Q-Former", trial.tokens)]
    remedy = "use float32 (`--dtype float32`), or bfloat16 where the card has it"
    for name, tensor in steps:
        if not bool(torch.isfinite(tensor).all()):
            raise Doubt(f"{name} gives values that are NaN or infinite (overflow)", remedy)
    words = trial.loaded.words
    scores = trial.captioner.rank(
        trial.tokens[:1], words.question(QUESTION).ids, [words.candidate(text) for text in ANSWERS]
    )
    if not all(math.isfinite(total) for total, _ in scores):
        raise Doubt("the language model gives values that are NaN or infinite (overflow)", remedy)
    return "all finite"


def pictures(trial: Trial) -> str:
    """The picture reaches the words."""
    captions = [trial.text(spoken) for spoken in trial.batch[: len(PICTURES)]]
    if len(set(captions)) == 1:
        raise Doubt("different pictures get the same caption: the model does not see them", trial.files)
    return f"{len(PICTURES)} pictures, {len(set(captions))} captions"


def batch(trial: Trial) -> str:
    """The same words alone and in a batch with longer and shorter rows."""
    exact = trial.gap == EXACT_GAP
    for row in (0, len(PICTURES)):
        alone_states = trial.captioner.trunk.see(trial.pixels[:1])
        alone = trial.speak(trial.captioner.query(alone_states), [trial.prompts[row]])[0]
        together = trial.batch[row]
        near = not exact and abs(alone.logprob - together.logprob) <= trial.gap
        if alone.ids != together.ids and not near:
            raise Doubt("a picture gets other words in a batch than alone", "serve one row at a time (`--max-batch 1`)")
    return "the same words alone and in a batch"


def decoding(trial: Trial) -> str:
    """The decoder's fast path (caches, shared prompts, compiled or not) gives the same words as the library's plain forward."""
    captioner = trial.captioner
    for row, spoken in enumerate(trial.batch):
        if not spoken.ids:
            continue
        picture = row % len(PICTURES)
        logits = captioner.plain_logits(trial.tokens[picture : picture + 1], trial.prompts[row], spoken.ids)
        logits = logits.clone()
        logits[: GREEDY.min_new_tokens, captioner.eos] = float("-inf")  # an end so early is not allowed to either
        said = logits.gather(1, torch.tensor([spoken.ids], device=logits.device).T)[:, 0]
        # The likeliest token has the largest logit: how far below it is that of the token that was chosen?
        if bool((logits.amax(1) - said > trial.gap).any()):
            raise Doubt(
                "words are decoded that the library's own forward would not say",
                "report this, with what `blip2tools doctor --json` prints: it is a fault of this package",
            )
    return "the same words as the library's plain forward"


def quantized(trial: Trial) -> str:
    """A quantized model gives what full precision gives, but for rounding."""
    size = trial.loaded.quantize
    if size == "none":
        raise Nothing("the model is not quantized")
    whole = trial.unquantized()
    if whole is None:
        raise Nothing("there is not enough memory for the unquantized model as well")
    found = compare(trial, whole)
    if faults := LIMITS[size].faults(found):
        other = "try 8bit, or leave `--quantize` out" if size == "4bit" else "leave `--quantize` out"
        raise Doubt(f"too far from full precision ({', '.join(faults)}): {found.sentence}", other)
    return found.sentence


def answer(trial: Trial) -> str:
    """A question in the trained template gets an answer (an empty one: transformers #30383)."""
    said = trial.text(trial.batch[-1])
    if not said:
        raise Doubt("a question gets an empty answer", trial.files)
    return f"{QUESTION} {said}"


def match(trial: Trial) -> str:
    """Check that each picture fits its own statement better than the others'."""
    wrong = trial.misfits([picture.statement for picture in PICTURES])
    if wrong is not None:
        raise Doubt(
            f"the matcher finds another text to fit the picture of {PICTURES[wrong].statement} better", trial.files
        )
    return "every picture fits its own text best"


def words(trial: Trial) -> str:
    """Check that each caption fits its own picture best: captioner and matcher, with two tokenizers, agree."""
    if not trial.known:
        raise Nothing("only the published models are known to describe these pictures")
    wrong = trial.misfits([trial.text(spoken) or "nothing" for spoken in trial.batch[: len(PICTURES)]])
    if wrong is not None:
        raise Doubt(f"the caption of {PICTURES[wrong].statement} does not fit its picture best", trial.files)
    return "every caption fits its own picture best"


CHECKS: tuple[Callable[[Trial], str], ...] = (
    configuration,
    tokenizer,
    prompt,
    numbers,
    pictures,
    batch,
    decoding,
    quantized,
    answer,
    match,
    words,
)


def run(
    loaded: Loaded, named: Member | None, unquantized: Callable[[], Whole | None] = lambda: None
) -> tuple[list[Finding], bool]:
    """Run every check on a loaded model; also returns whether all were completed. None of them raises.

    Args:
        loaded: the model.
        named: its entry in the family's table.
        unquantized: as for `Trial`.
    """
    trial = Trial(loaded, named, unquantized)
    findings, complete = [], True
    for check in CHECKS:
        name = check.__name__
        try:
            findings.append(Finding(name=name, status="ok", sentence=check(trial)))
        except Nothing as reason:
            findings.append(Finding(name=name, status="skipped", sentence=str(reason)))
        except Doubt as doubt:
            findings.append(Finding(name=name, status="failed", sentence=doubt.sentence, remedy=doubt.remedy))
        except Exception as error:  # whatever a damaged model raises is a finding about it, not the end of the process
            logger.warning("self-test: %s ended with an error", name, exc_info=error)
            findings.append(_broken_off(name, error, trial))
            complete = False
    return findings, complete


def _broken_off(name: str, error: Exception, trial: Trial) -> Finding:
    if is_out_of_memory(error):
        sentence = "there is not enough memory to run the model"
        remedy = "choose a smaller model, another device, or a half-precision dtype"
    else:
        sentence, remedy = "the model cannot be run on a simple picture", trial.files
    return Finding(name=name, status="failed", sentence=sentence, remedy=remedy)
