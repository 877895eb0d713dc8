"""From logits to texts: greedy choice, sampling and beam search, row by row.

The search follows that of transformers 5 (`generation/utils.py`, `_beam_search`, with `early_stopping=False`), so that every
row gets the tokens that the library would give it alone. What it does not share is the batch: others may join it before any
token, a row that has ended is taken out, and one whose caller has gone ends at its next token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from blip2tools.model.language import MASKED, Rows, sent
from blip2tools.model.options import Finish, GenerationOptions, Spoken

CROWDED = (
    0.75  # rows are taken out when no more than this share of them goes on: copying the others costs about one step
)

Candidate: TypeAlias = tuple[float, int, int, float]  # score so far, sequence, next token, that token's log-probability


@dataclass(frozen=True, slots=True)
class Text:
    """What one sequence has said so far."""

    ids: tuple[int, ...] = ()
    logprob: float = 0.0  # summed, of the model itself
    score: float = 0.0  # summed, as the options that change scores have it
    finish: Finish | None = None

    def then(self, token: int, logprob: float, score: float, finish: Finish | None = None) -> Text:
        return Text((*self.ids, token), self.logprob + logprob, score, finish)

    def spoken(self, eos: int, finish: Finish) -> Spoken:
        ids = self.ids[:-1] if self.ids[-1] == eos else self.ids
        return Spoken(ids=ids, logprob=self.logprob / len(self.ids), tokens=len(self.ids), finish=finish)


class Model(Protocol):
    """What adds tokens to rows, and rows to rows."""

    def extend(self, rows: Rows, ids: Tensor) -> tuple[Rows, Tensor]:
        """See `LanguageModel.extend`."""

    def join(self, rows: Rows, others: Rows) -> Rows:
        """See `LanguageModel.join`."""


class Row(Protocol):
    """One request in a batch."""

    done: bool
    texts: list[Text]  # what its sequences go on from
    parents: list[int]  # which of its sequences each of them was before the last token

    def choose(self, candidates: Sequence[Candidate]) -> None:
        """Take the next tokens, best candidates first."""

    def spoken(self) -> list[Spoken]:
        """Its texts, best first, once it is done."""


class Samples:
    """Sequences that go on side by side: one greedy text, or samples that each have their own random numbers.

    Args:
        cap: the most tokens.
        count: sequences.
        eos: end-of-sequence id.
        stop: asked after each token whether the row shall end with what it has.
    """

    def __init__(self, cap: int, count: int, eos: int, stop: Callable[[], bool]) -> None:
        self._cap, self._eos, self._stop = cap, eos, stop
        self.texts = [Text()] * count
        self.parents = list(range(count))
        self.done = False

    def choose(self, candidates: Sequence[Candidate]) -> None:
        for _, place, token, logprob in candidates:
            text = self.texts[place]
            if text.finish is None:
                finish: Finish | None = (
                    "eos" if token == self._eos else "length" if len(text.ids) + 1 == self._cap else None
                )
                self.texts[place] = text.then(token, logprob, 0.0, finish)
        self.done = all(text.finish for text in self.texts) or self._stop()

    def spoken(self) -> list[Spoken]:
        return [text.spoken(self._eos, text.finish or "stopped") for text in self.texts]


class Beams:
    """A beam search.

    Args:
        cap: the most tokens.
        options: beams, length penalty, and how many of the texts to return.
        eos: end-of-sequence id.
        stop: asked after each token whether the row shall end with what it has.
    """

    def __init__(self, cap: int, options: GenerationOptions, eos: int, stop: Callable[[], bool]) -> None:
        self._cap, self._options, self._eos, self._stop = cap, options, eos, stop
        self._ended: list[tuple[float, Text]] = []
        self._stopped = False
        self.texts = [Text()]
        self.parents = [0]
        self.done = False

    def choose(self, candidates: Sequence[Candidate]) -> None:
        beams, length = self._options.num_beams, len(self.texts[0].ids) + 1
        self._stopped = length < self._cap and self._stop()
        over = length == self._cap or self._stopped
        given = self._options.length_penalty
        penalty = length ** (1.0 if given is None else given)
        running: list[tuple[int, Text]] = []
        for place, (score, parent, token, logprob) in enumerate(candidates):
            text = self.texts[parent].then(token, logprob, score)
            if not over and token != self._eos:
                running.append((parent, text))
            elif place < beams:  # the further candidates are there to go on with, when the best ones end
                self._ended.append((score / penalty, text))
        self._ended = sorted(self._ended, key=lambda ended: -ended[0])[:beams]
        full = len(self._ended) == beams
        self.done = over or (full and running[0][1].score / penalty <= self._ended[-1][0])
        if not self.done:
            self.parents = [parent for parent, _ in running[:beams]]
            self.texts = [text for _, text in running[:beams]]

    def spoken(self) -> list[Spoken]:
        texts = [text for _, text in self._ended[: self._options.num_return_sequences]]
        # A search that was cut short may hold a text with an end, but not the one that it would have found.
        return [text.spoken(self._eos, "stopped" if self._stopped else self._finish(text)) for text in texts]

    def _finish(self, text: Text) -> Finish:
        return "eos" if text.ids[-1] == self._eos else "length"


class Chooser:
    """The next tokens' candidates for every row, from logits.

    Options that change scores are applied here and not by `generate`, which would skip as many *generated* tokens as a row
    has padding on its left, so that a penalised row would depend on its neighbours.

    Args:
        options: of the whole batch.
        start: ids before the first new token, which count as said (T5's start token).
        eos: end-of-sequence id.
    """

    def __init__(self, options: GenerationOptions, start: Sequence[int], eos: int) -> None:
        self._options, self._start, self._eos = options, tuple(start), eos
        self._penalties: list[Any] = []
        if options.repetition_penalty != 1:
            self._penalties.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if options.no_repeat_ngram_size:
            self._penalties.append(NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size))
        self._streams: dict[int, list[random.Random]] = {}  # of each request

    def __call__(self, logits: Tensor, rows: Sequence[int], texts: Sequence[Sequence[Text]]) -> list[list[Candidate]]:
        """Candidates of the rows of these numbers from logits (all their sequences, V), best first."""
        logits = logits.float()
        said = [text.ids for row in texts for text in row]
        if self._options.do_sample:
            shares = [stream.random() for row in rows for stream in self._draws(row)]
            tokens = nucleus(self._scored(logits, said), self._options.temperature, self._options.top_p, shares)
        elif self._options.num_beams > 1:
            return self._best(logits.log_softmax(-1), said, texts)
        else:
            tokens = self._scored(logits, said).argmax(-1)
        chosen = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1)
        found = iter(_together(tokens, chosen))
        steps = [[(place, *next(found)) for place in range(len(row))] for row in texts]
        return [[(0.0, place, int(token), logprob) for place, token, logprob in row] for row in steps]

    def _best(
        self, logprobs: Tensor, said: Sequence[tuple[int, ...]], texts: Sequence[Sequence[Text]]
    ) -> list[list[Candidate]]:
        """Twice as many as there are beams: as many can end, and the search must be able to go on."""
        vocabulary, count = logprobs.shape[-1], 2 * self._options.num_beams
        before = sent([[text.score for text in row] for row in texts], logprobs.device)
        scores = self._scored(logprobs, said).view(*before.shape, vocabulary) + before[..., None]
        best, places = scores.flatten(1).topk(count)
        chosen = logprobs.view(len(texts), -1).gather(1, places)
        return [
            [(score, *divmod(int(place), vocabulary), logprob) for score, place, logprob in row]
            for row in _together(best, places, chosen)
        ]

    def _draws(self, row: int) -> list[random.Random]:
        """Random numbers for each sequence of a row: alone or together, a request with a seed draws the same ones."""
        if row not in self._streams:
            seed = random.SystemRandom().getrandbits(63) if self._options.seed is None else self._options.seed
            count = self._options.num_return_sequences
            self._streams[row] = [random.Random(f"{seed}:{number}") for number in range(count)]
        return self._streams[row]

    def _scored(self, scores: Tensor, said: Sequence[tuple[int, ...]]) -> Tensor:
        short = [place for place, ids in enumerate(said) if len(ids) < self._options.min_new_tokens]
        if not self._penalties and not short:
            return scores
        scores = scores.clone()
        for length in {len(ids) for ids in said} if self._penalties else ():
            # The library's processors take ids of one length; rows that joined later have said less.
            places = [place for place, ids in enumerate(said) if len(ids) == length]
            index = sent(places, scores.device)
            texts = [[*self._start, *said[place]] for place in places]
            ids = sent(texts, scores.device).long()
            part = scores.index_select(0, index)
            for penalty in self._penalties:
                part = penalty(ids, part)
            scores.index_copy_(0, index, part)
        if short:
            scores[sent(short, scores.device), self._eos] = MASKED
        return scores


@dataclass(slots=True)
class Batch:
    """Requests that are being decoded together, and what the model has read and said for them.

    Attributes:
        requests: all of them, in the order in which they came.
        live: which of them the rows are of.
        rows: see `language.Rows`; each sequence's newest token is chosen but not yet added.
    """

    requests: list[Row]
    live: list[int]
    rows: Rows

    def going(self) -> list[int]:
        """Places of the rows that are not done."""
        return [place for place, request in enumerate(self.live) if not self.requests[request].done]

    def keep(self, places: Sequence[int]) -> None:
        """Only the rows at these places."""
        if len(places) < len(self.live):
            self.rows, self.live = self.rows.kept(places), [self.live[place] for place in places]

    def choose(self, logits: Tensor, chooser: Chooser, said: Callable[[int, list[Spoken]], None] | None) -> None:
        """Let every request choose its sequences' next tokens from logits (R, V), and tell what is done by that."""
        candidates = chooser(logits, self.live, [self.requests[number].texts for number in self.live])
        for number, found in zip(self.live, candidates, strict=True):
            request = self.requests[number]
            if not request.done:
                request.choose(found)
                if said is not None and request.done:
                    said(number, request.spoken())
        going = self.going()
        if not going:
            self.live = []
            return
        if len(going) <= CROWDED * len(self.live):
            self.keep(going)
        batch = [self.requests[number] for number in self.live]
        width = len(batch[0].texts)
        if self.rows.sequences != width:
            self.rows = self.rows.widened(width)
        else:
            self.rows.reorder([place * width + parent for place, row in enumerate(batch) for parent in row.parents])

    def newest(self) -> list[list[int]]:
        """The ids to add, one for each sequence."""
        return [[text.ids[-1]] for number in self.live for text in self.requests[number].texts]


Begun: TypeAlias = tuple[list[Row], Rows, Tensor]  # requests, and what `LanguageModel.begin` gave for them


def decode(
    model: Model,
    begun: Begun,
    chooser: Chooser,
    said: Callable[[int, list[Spoken]], None] | None = None,
    more: Callable[[], Begun | None] = lambda: None,
) -> list[list[Spoken]]:
    """Let every request choose token after token until all are done.

    Args:
        model: adds the tokens.
        begun: requests and their prompts, one row for each.
        chooser: what can be said next.
        said: told as `said(number, texts)` of each request when it is done, whatever the others still have to say.
        more: asked before each token for requests that join; they are numbered on.
    """
    requests, rows, logits = begun
    batch = Batch(list(requests), list(range(len(requests))), rows)
    batch.choose(logits, chooser, said)
    while batch.live:
        if (found := more()) is not None:
            requests, rows, logits = found
            first = len(batch.requests)
            batch.requests += requests
            others = Batch(batch.requests, list(range(first, len(batch.requests))), rows)
            others.choose(logits, chooser, said)
            others.keep(others.going())
            if others.live:
                batch.keep(batch.going())
                batch.rows, batch.live = model.join(batch.rows, others.rows), batch.live + others.live
        ids = sent(batch.newest(), batch.rows.own.device)
        batch.rows, logits = model.extend(batch.rows, ids)
        batch.choose(logits[:, -1], chooser, said)
    return [request.spoken() for request in batch.requests]


def _together(*parts: Tensor) -> Any:
    """The values of tensors of one shape side by side, as lists: one wait for the device, and not one for each."""
    return torch.stack([part.float() for part in parts], -1).tolist()  # exact for whole numbers below 2 ** 24


def nucleus(scores: Tensor, temperature: float, top_p: float, shares: Sequence[float]) -> Tensor:
    """One token id per row, (R,), drawn from the smallest set of tokens whose mass reaches `top_p`.

    Args:
        scores: (R, V).
        shares: a uniform random number for each row, so that what it draws depends neither on the global generator nor on
            its neighbours, and is the same on every device.
    """
    ordered, order = (scores / temperature).sort(dim=-1, descending=True)
    share = ordered.softmax(-1)
    mass = share.cumsum(-1)
    kept = ((mass - share < top_p) & (share > 0)).sum(-1, keepdim=True).clamp(min=1)
    # Below 1 by more than one float32 rounding, or the product below could reach the whole mass.
    uniform = sent([min(share, 1 - 2**-22) for share in shares], mass.device)
    target = mass.gather(1, kept - 1) * uniform[:, None]
    position = (mass <= target).sum(-1, keepdim=True).minimum(kept - 1)
    return order.gather(1, position).squeeze(1)
