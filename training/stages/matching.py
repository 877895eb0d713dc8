"""The third stage: the matcher's own Q-Former learns on the captioner's frozen trunk."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from blip2tools.demo.statements import ALL_EDITS
from blip2tools.demo.words import caption
from blip2tools.demo.world import Scene
from training.stages.architecture import WIDTH, new_matcher
from training.stages.bank import Bank
from training.stages.claims import IGNORED, Claim, Claims, Words, batched, claims
from training.stages.heads import SlotHeads
from training.stages.labels import Labels, label
from training.stages.loop import Schedule
from training.stages.qformer import KeysAndValues, keys_and_values, look, read, read_alone

_FIRST: Final = 0.11  # the share of the steps with short statements and mostly masked words
_RARELY: Final = 0.12
_FIRST_TEXTS: Final = (1, 4)  # pairs, and texts with masked words, about a picture
_LATER_TEXTS: Final = (3, 1)
_TRUNK: Final = ("model.vision_model.embeddings.", "model.vision_model.encoder.")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The frozen trunk's states; claims about the pictures, short and long ones apart; the captions; and the labels."""

    states: Tensor
    claims: list[Claims]
    captions: Claims
    labels: Labels


class _Comparisons(Dataset[Comparison]):
    """Made in the training process, since a batch depends on the wrong judgements so far."""

    def __init__(self, stage: MatchingStage) -> None:
        self._stage = stage

    def __getitem__(self, step: int) -> Comparison:
        return self._stage.comparison(step)


class WordHeads(nn.Module):
    """The right word at a place, and whether the word there is wrong; thrown away like the other heads.

    Also holds ITC's temperature, which the checkpoint has no place for.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.word = nn.Linear(WIDTH, vocabulary)
        self.wrong = nn.Linear(WIDTH, 1)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


class MatchingStage:
    """See the module.

    Args:
        bank: what the trunk saw.
        schedule: of the stage.
        processor: the matcher's.
    """

    name = "matching"

    def __init__(self, bank: Bank, schedule: Schedule, processor: Any) -> None:
        self.schedule = schedule
        self.memory: dict[str, Any] = dict.fromkeys(ALL_EDITS, 0.5)
        self._bank = bank
        tokenizer = processor.tokenizer
        self._words, self._pad = Words(tokenizer), int(tokenizer.pad_token_id)
        model = new_matcher(len(tokenizer), tokenizer.convert_tokens_to_ids("<image>"), schedule.seed)
        model.vision_model.requires_grad_(False)
        model.vision_model.post_layernorm.requires_grad_(True)
        self.modules = nn.ModuleDict({"model": model, "slots": SlotHeads(), "words": WordHeads(self._words.size)})

    def prepare(self, state: Path, before: Path | None = None) -> None:
        """Take over the trunk and, to begin with, the last LayerNorm and the layers that have learned to find things.

        Of the captioner's queries the first ones, which hold the things and the background, are kept: what is left to learn
        is to compare a text with them.

        Args:
            state: folder with the state of the vision stage.
            before: that of an earlier round, from which then comes everything but the trunk.
        """
        vision = state / "vision.pt"
        weights = torch.load(vision, weights_only=True)["modules"]
        if before:
            learned = torch.load(before / f"{self.name}.pt", weights_only=True)["modules"]
            trunk = {name: one for name, one in weights.items() if name.startswith(_TRUNK)}
            self.modules.load_state_dict(learned | trunk)
            return
        model: Any = self.modules["model"]
        for part in ("model.vision_model.", "model.qformer.", "slots."):
            given = {name: one for name, one in weights.items() if name.startswith(part)}
            missing, unexpected = self.modules.load_state_dict(given, strict=False)
            if unexpected or (part != "model.qformer." and any(name.startswith(part) for name in missing)):
                raise ValueError(f"{vision.name} does not hold the weights of this vision stage")
        with torch.no_grad():
            model.query_tokens.copy_(weights["model.query_tokens"][:, : model.query_tokens.shape[1]])

    def batches(self) -> Dataset[Comparison]:
        """See `Stage`."""
        return _Comparisons(self)

    def comparison(self, step: int) -> Comparison:
        """The batch of a step: edits with more errors more often."""
        rng = random.Random(f"{self.schedule.seed}/{step}")
        batch = self._bank.turn(step, self.schedule.seed)
        shown = self._bank.scenes(batch)[: self.schedule.batch]
        gone = self.schedule.gone(step)
        first = gone < _FIRST
        texts = _FIRST_TEXTS if first else _LATER_TEXTS
        share = 1.0 if first else max(0.25, 0.9 - gone)
        # Equally many for every picture, so that short texts go through together, without much padding.
        short = [math.floor(number * share + rng.random()) for number in texts]
        long = [number - few for number, few in zip(texts, short, strict=True)]
        told = [self._words(caption(scene)) for scene in shown]
        return Comparison(
            self._bank.states(batch)[: self.schedule.batch],
            [
                self._claims(shown, rng, (pairs, masked), gone, short=of_few)
                for of_few, (pairs, masked) in ((True, short), (False, long))
                if pairs or masked
            ],
            batched([Claim(ids, ids, [0.0] * len(ids), ids, 1, -1) for ids in told], self._pad),
            label(shown),
        )

    def _claims(
        self, shown: Sequence[Scene], rng: random.Random, texts: tuple[int, int], gone: float, *, short: bool
    ) -> Claims:
        pairs, masked = texts
        more = 0.5 if gone < _FIRST else max(0.0, 0.35 - 0.7 * gone)
        weights = [_RARELY + self.memory[edit] for edit in ALL_EDITS]
        made = [
            claims(scene, self._words, rng, pairs=pairs, masked=masked, short=short, more=more, weights=weights)
            for scene in shown
        ]
        return batched([claim for of_one in made for claim in of_one], self._pad)

    def loss(self, batch: Comparison, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        model: Any = self.modules["model"]
        gone = self.schedule.gone(step)
        pictures = keys_and_values(model, model.vision_model.post_layernorm(batch.states))
        asked = look(model, pictures)
        found = self.modules["slots"](asked, batch.labels)
        contrast, first = self._contrast(asked, batch.captions)
        # Sums over both parts, then means: losses in the first row, how much each counts in the second.
        sums = torch.stack([self._judge(claims, pictures) for claims in batch.claims]).sum(0)
        matching, words, wrong = (sums[0] / sums[1].clamp(min=1)).unbind()
        loss = matching * (0.5 if gone < _FIRST else 1.0) + words * (1.0 if gone < 0.65 else 0.3) + wrong
        loss = loss + 0.3 * contrast + (0.5 if gone < 0.3 else 0.1) * found.loss
        figures = {
            "matching": matching.item(),
            "right": 1 - sum(self.memory.values()) / len(self.memory),
            "worst": 1 - max(self.memory.values()),
            "words": words.item(),
            "wrong": wrong.item(),
            "contrast": contrast.item(),
            "first": first,
            "slots": found.right,
        }
        return loss, figures

    def _contrast(self, asked: Tensor, captions: Claims) -> tuple[Tensor, float]:
        """The loss of finding each picture's caption and each caption's picture in the batch, and how often it is found."""
        model: Any = self.modules["model"]
        heads: Any = self.modules["words"]
        read_texts = read_alone(model, captions.ids, (captions.ids != self._pad).long())
        images = functional.normalize(model.vision_projection(asked), dim=-1)
        texts = functional.normalize(model.text_projection(read_texts[:, 0]), dim=-1)
        best = torch.einsum("iqd,td->iqt", images, texts).amax(1)
        similarity = best * heads.scale.exp().clamp(max=100)
        own = torch.arange(len(similarity))
        loss = (functional.cross_entropy(similarity, own) + functional.cross_entropy(similarity.t(), own)) / 2
        return loss, (similarity.argmax(1) == own).float().mean().item()

    def _judge(self, claims: Claims, pictures: KeysAndValues) -> Tensor:
        """(2, 3): sums of the losses of matching, right words and wrong words, and how much each of them counts."""
        model: Any = self.modules["model"]
        heads: Any = self.modules["words"]
        judging, words = read(model, claims.ids, (claims.ids != self._pad).long(), pictures)
        asked = claims.right != IGNORED
        right = functional.cross_entropy(heads.word(words[asked]), claims.right[asked], reduction="none")
        judged = claims.wrong != IGNORED
        wrong = functional.binary_cross_entropy_with_logits(
            heads.wrong(words[judged])[:, 0],
            claims.wrong[judged].float(),
            pos_weight=torch.tensor(3.0),
            reduction="sum",
        )
        told = claims.true != IGNORED
        logits = model.itm_head(judging).mean(1)[told]
        true = claims.true[told]
        matching = functional.cross_entropy(logits, true, reduction="sum")
        self._remember([edit for edit in claims.edits if edit >= 0], (logits.argmax(-1) != true).tolist())
        weight = claims.weight[asked]
        losses = torch.stack([matching, (right * weight).sum(), wrong])
        return torch.stack([losses, torch.stack([told.sum(), weight.sum(), judged.sum()]).to(losses.dtype)])

    def _remember(self, edits: Sequence[int], failed: Sequence[bool]) -> None:
        for edit, name in enumerate(ALL_EDITS):
            outcomes = [miss for one, miss in zip(edits, failed, strict=True) if one == edit]
            if outcomes:
                kept = 0.98 ** len(outcomes)
                self.memory[name] = self.memory[name] * kept + (1 - kept) * sum(outcomes) / len(outcomes)
