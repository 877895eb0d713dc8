"""From logits to texts: greedy choice, sampling and beam search, row by row.

The search follows that of transformers 5 (`generation/utils.py`, `_beam_search`, with `early_stopping=False`), so that every
row gets the tokens that the library would give it alone; on request it ends as the reference's search does, see
`options.BeamRule`. The batch is different: rows may join it before any token, a row that has ended is removed, and a
cancelled row ends at its next token.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor

from blip2tools.model.encoder import MASKED
from blip2tools.model.language import LanguageModel, Rows, sent
from blip2tools.model.options import Finish, GenerationOptions, Spoken

CROWDED = 0.75  # rows are removed when no more than this share of them goes on: copying the others costs about one step

Candidate: TypeAlias = tuple[float, int, int, float]  # score so far, sequence, next token, that token's log-probability


@dataclass(frozen=True, slots=True)
class Text:
    """The text of one sequence so far."""

    ids: tuple[int, ...] = ()
    logprob: float = 0.0  # summed, of the model itself
    score: float = 0.0  # summed, after the options that change scores
    finish: Finish | None = None

    def then(self, token: int, logprob: float, score: float, finish: Finish | None = None) -> Text:
        return Text((*self.ids, token), self.logprob + logprob, score, finish)

    def spoken(self, eos: int, finish: Finish) -> Spoken:
        ids = self.ids[:-1] if self.ids[-1] == eos else self.ids
        return Spoken(ids=ids, logprob=self.logprob / len(self.ids), tokens=len(self.ids), finish=finish)


class Model(Protocol):
    """A model that adds tokens to rows, and rows to rows."""

    @property
    def ahead(self) -> bool:
        """Whether a step may begin before the last token is known, and be wasted if that was the end."""

    def extend(self, rows: Rows, ids: Tensor) -> tuple[Rows, Tensor]:
        """See `LanguageModel.extend`."""

    def join(self, rows: Rows, others: Rows) -> Rows:
        """See `LanguageModel.join`."""


class Row(Protocol):
    """One request in a batch."""

    done: bool
    texts: list[Text]  # what its sequences go on from
    parents: list[int]  # which of its sequences each of them was before the last token

    @property
    def left(self) -> int:
        """Tokens that it may still generate, unless it ends before."""

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
        stop: tells after each token whether the row is to end with what it has.
    """

    def __init__(self, cap: int, count: int, eos: int, stop: Callable[[], bool]) -> None:
        self._cap, self._eos, self._stop = cap, eos, stop
        self.texts = [Text()] * count
        self.parents = list(range(count))
        self.done = False

    @property
    def left(self) -> int:
        return self._cap - max(len(text.ids) for text in self.texts)

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
        stop: tells after each token whether the row is to end with what it has.
    """

    def __init__(self, cap: int, options: GenerationOptions, eos: int, stop: Callable[[], bool]) -> None:
        self._cap, self._options, self._eos, self._stop = cap, options, eos, stop
        self._ended: list[tuple[float, Text]] = []
        self._stopped = False
        # A text that is cut short counts this many tokens more: the reference counts the start token.
        self._before = 1 if options.beam_rule == "lavis" else 0
        self.texts = [Text()]
        self.parents = [0]
        self.done = False

    @property
    def left(self) -> int:
        return self._cap - len(self.texts[0].ids)

    def choose(self, candidates: Sequence[Candidate]) -> None:
        beams, length = self._options.num_beams, len(self.texts[0].ids) + 1
        self._stopped = length < self._cap and self._stop()
        over = length == self._cap or self._stopped
        given = self._options.length_penalty
        exponent = 1.0 if given is None else given
        penalty = length**exponent
        running: list[tuple[int, Text]] = []
        for place, (score, parent, token, logprob) in enumerate(candidates):
            text = self.texts[parent].then(token, logprob, score)
            if token != self._eos:
                running.append((parent, text))
            if place < beams and (token == self._eos or (over and not self._before)):
                self._ended.append((score / penalty, text))  # further candidates are there to go on with
        self._keep_best()
        full = len(self._ended) == beams
        if self._before:
            penalty = (length + 1) ** exponent
            self.done = full and candidates[0][0] / penalty <= self._ended[-1][0]
            if over and not self.done:
                self._ended += [(text.score / penalty, text) for _, text in running[:beams]]
                self._keep_best()
            self.done |= over
        else:
            self.done = over or (full and running[0][1].score / penalty <= self._ended[-1][0])
        if not self.done:
            self.parents = [parent for parent, _ in running[:beams]]
            self.texts = [text for _, text in running[:beams]]

    def _keep_best(self) -> None:
        self._ended = sorted(self._ended, key=lambda ended: -ended[0])[: self._options.num_beams]

    def spoken(self) -> list[Spoken]:
        texts = [text for _, text in self._ended[: self._options.num_return_sequences]]
        # A search that was cut short may hold a text with an end, but not the one that it would have found.
        return [text.spoken(self._eos, "stopped" if self._stopped else self._finish(text)) for text in texts]

    def _finish(self, text: Text) -> Finish:
        return "eos" if text.ids[-1] == self._eos else "length"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The candidates for the next tokens of rows, while they are copied from the device."""

    tokens: Tensor | None  # one for each sequence, still on the device; None where a search has to choose among them
    candidates: Callable[[], list[list[Candidate]]]
    """Waits for the candidates of each row, best first."""


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
        self._penalised = options.repetition_penalty != 1 or options.no_repeat_ngram_size > 0
        self._streams: dict[int, list[random.Random]] = {}  # of each request

    def __call__(self, logits: Tensor, rows: Sequence[int], texts: Sequence[Sequence[Text]]) -> Chosen:
        """The candidates for the next tokens of the rows with these numbers, from logits (all their sequences, V)."""
        logits = logits.float()
        said = [text.ids for row in texts for text in row]
        if self._options.do_sample:
            shares = [stream.random() for row in rows for stream in self._draws(row)]
            tokens = nucleus(self._scored(logits, said), self._options.temperature, self._options.top_p, shares)
        elif self._options.num_beams > 1:
            return Chosen(None, self._best(logits.log_softmax(-1), said, texts))
        else:
            tokens = self._scored(logits, said).argmax(-1)
        found = _together(tokens, logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1))

        def candidates() -> list[list[Candidate]]:
            each = iter(found())
            steps = [[(place, *next(each)) for place in range(len(row))] for row in texts]
            return [[(0.0, place, int(token), logprob) for place, token, logprob in row] for row in steps]

        return Chosen(tokens, candidates)

    def _best(
        self, logprobs: Tensor, said: Sequence[tuple[int, ...]], texts: Sequence[Sequence[Text]]
    ) -> Callable[[], list[list[Candidate]]]:
        """Twice as many as there are beams: as many can end, and the search must be able to go on."""
        vocabulary, count = logprobs.shape[-1], 2 * self._options.num_beams
        before = sent([[text.score for text in row] for row in texts], logprobs.device)
        scores = self._scored(logprobs, said).view(*before.shape, vocabulary) + before[..., None]
        best, places = scores.flatten(1).topk(count)
        found = _together(best, places, logprobs.view(len(texts), -1).gather(1, places))
        return lambda: [
            [(score, *divmod(int(place), vocabulary), logprob) for score, place, logprob in row] for row in found()
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
        if not self._penalised and not short:
            return scores
        scores = scores.clone()
        if self._penalised:
            self._penalise(scores, said)
        if short:
            scores[sent(short, scores.device), self._eos] = MASKED
        return scores

    def _penalise(self, scores: Tensor, said: Sequence[Sequence[int]]) -> None:
        """Change scores (R, V) by the text of each row: first discourage words, then forbid them.

        As the library does it: a penalty divides what is above 0 and multiplies what is below (CTRL, arXiv 1909.05858).
        """
        texts = [[*self._start, *ids] for ids in said]
        penalty, size = self._options.repetition_penalty, self._options.no_repeat_ngram_size
        if penalty != 1 and (words := [(row, word) for row, text in enumerate(texts) for word in sorted(set(text))]):
            at = tuple(sent(words, scores.device).T)
            now = scores[at]
            scores[at] = torch.where(now < 0, now * penalty, now / penalty)
        if ends := [(row, word) for row, text in enumerate(texts) for word in sorted(repeating(text, size))]:
            scores[tuple(sent(ends, scores.device).T)] = MASKED


def repeating(said: Sequence[int], size: int) -> set[int]:
    """Ids that would complete an n-gram of this size that is there already; none where the size is 0."""
    if size < 1 or len(said) < size:
        return set()
    end = tuple(said[len(said) - size + 1 :])
    return {said[at + size - 1] for at in range(len(said) - size + 1) if tuple(said[at : at + size - 1]) == end}


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
        """Keep only the rows at these places."""
        if len(places) < len(self.live):
            self.rows, self.live = self.rows.kept(places), [self.live[place] for place in places]

    def asked(self, logits: Tensor, chooser: Chooser) -> Chosen:
        """The candidates of every request, from logits (R, V)."""
        return chooser(logits, self.live, [self.requests[number].texts for number in self.live])

    def choose(
        self, chosen: Chosen, said: Callable[[int, list[Spoken]], None] | None, ahead: Tensor | None = None
    ) -> Tensor | None:
        """Let every request choose its sequences' next tokens, and report those that are done.

        Args:
            chosen: what they can choose among.
            said: see `decode`.
            ahead: logits of the step after, if it has begun.

        Returns:
            Those logits of the rows that are left.
        """
        for number, found in zip(self.live, chosen.candidates(), strict=True):
            request = self.requests[number]
            if not request.done:
                request.choose(found)
                if said is not None and request.done:
                    said(number, request.spoken())
        going = self.going()
        if not going:
            self.live = []
            return None
        width = len(self.requests[self.live[going[0]]].texts)
        if len(going) <= CROWDED * len(self.live):
            self.keep(going)
            if ahead is not None:
                index = [place * width + sequence for place in going for sequence in range(width)]
                ahead = ahead.index_select(0, sent(index, ahead.device))
        batch = [self.requests[number] for number in self.live]
        if self.rows.sequences != width:
            self.rows = self.rows.widened(width)
        else:
            self.rows.reorder([place * width + parent for place, row in enumerate(batch) for parent in row.parents])
        return ahead

    def goes_on(self) -> bool:
        """Whether any request can still generate more than one token."""
        return any(not one.done and one.left > 1 for one in (self.requests[number] for number in self.live))

    def newest(self) -> list[list[int]]:
        """The ids to add, one for each sequence."""
        return [[text.ids[-1]] for number in self.live for text in self.requests[number].texts]


class Eager:
    """The steps of a language model as they are, counted.

    Args:
        model: whose steps.
        count: gets one more for each step, as "eager".
    """

    ahead = False

    def __init__(self, model: LanguageModel, count: Counter[str]) -> None:
        self._model = model
        self._count = count

    def extend(self, rows: Rows, ids: Tensor) -> tuple[Rows, Tensor]:
        """See `LanguageModel.extend`."""
        self._count["eager"] += 1
        return self._model.extend(rows, ids)

    def join(self, rows: Rows, others: Rows) -> Rows:
        """See `LanguageModel.join`."""
        return self._model.join(rows, others)


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
        said: called as `said(number, texts)` for each request when it is done, before the others are.
        more: called before each token for requests that join; they get the next numbers.
    """
    requests, rows, first = begun
    batch = Batch(list(requests), list(range(len(requests))), rows)
    batch.choose(batch.asked(first, chooser), said)
    logits: Tensor | None = None  # of a step that has begun before others joined
    while batch.live:
        if (found := more()) is not None:
            if logits is not None:
                batch.choose(batch.asked(logits[:, -1], chooser), said)
                logits = None
            _joined(model, batch, found, chooser, said)
            if not batch.live:
                break
        if logits is None:
            batch.rows, logits = model.extend(batch.rows, sent(batch.newest(), batch.rows.own.device))
        chosen, ahead = batch.asked(logits[:, -1], chooser), None
        if model.ahead and chosen.tokens is not None and batch.goes_on():
            batch.rows, ahead = model.extend(batch.rows, chosen.tokens[:, None])
        logits = batch.choose(chosen, said, ahead)
    return [request.spoken() for request in batch.requests]


def _joined(
    model: Model,
    batch: Batch,
    begun: Begun,
    chooser: Chooser,
    said: Callable[[int, list[Spoken]], None] | None,
) -> None:
    """Let further requests choose their first tokens and come into the batch."""
    requests, rows, logits = begun
    numbers = list(range(len(batch.requests), len(batch.requests) + len(requests)))
    batch.requests += requests
    others = Batch(batch.requests, numbers, rows)
    others.choose(others.asked(logits, chooser), said)
    others.keep(others.going())
    if not others.live:
        return
    if batch.live:
        batch.keep(batch.going())
        batch.rows, batch.live = model.join(batch.rows, others.rows), batch.live + others.live
    else:
        batch.rows, batch.live = others.rows, others.live


def _together(*parts: Tensor) -> Callable[[], Any]:
    """The values of tensors of one shape side by side, as lists: with one wait for the device instead of one for each.

    It waits only for the work that the device has been given so far, not for what it gets until the values are read.
    """
    whole = torch.stack([part.float() for part in parts], -1)  # exact for whole numbers below 2 ** 24
    if not whole.is_cuda:
        return whole.tolist
    here = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=True)
    here.copy_(whole, non_blocking=True)
    arrived = cast(Any, torch.cuda).Event()
    arrived.record()

    def values() -> Any:
        arrived.synchronize()
        return here.tolist()

    return values


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
