"""Heads that exist only during training: they make the vision tower and the Q-Former find things, and are thrown away."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from blip2tools.demo.world import WIDE
from training.stages.architecture import PATCH, WIDTH
from training.stages.labels import IGNORED, PATCH_TRAITS, SLOTS, TRAITS, Labels

_NOTHING: Final = 0.2  # weight of a patch without a thing
_CHARACTER: Final = 3  # place of the character among the traits


class Found(NamedTuple):
    """The loss of the list of things, and the share of pictures whose list was right in every trait."""

    loss: Tensor
    right: float


class PatchHeads(nn.Module):
    """Heads that find what each patch shows, where its thing's middle is, and which of its pixels belong to a thing."""

    def __init__(self) -> None:
        super().__init__()
        self.traits = nn.Linear(WIDTH, sum(PATCH_TRAITS))
        self.outline = nn.Linear(WIDTH, PATCH * PATCH + 3)

    def forward(self, last: Tensor, early: Tensor, labels: Labels) -> Tensor:
        """The loss.

        Args:
            last: (B, 1 + P, D), what the tower gives.
            early: (B, 1 + P, D), what it has after two layers, where outlines are still near the surface.
            labels: of the pictures.
        """
        found = self.traits(last[:, 1:]).split(PATCH_TRAITS, -1)
        loss = torch.stack(
            [_cross_entropy(one, labels.patches[..., trait], trait, _NOTHING) for trait, one in enumerate(found)]
        ).sum()
        outline = self.outline(early[:, 1:])
        shown = (labels.patches[..., :1] > 0).float()
        masks = functional.binary_cross_entropy_with_logits(outline[..., :-3], labels.masks)
        offsets = functional.smooth_l1_loss(outline[..., -3:], labels.offsets * 16, reduction="none")
        return loss + 4 * masks + (offsets * shown).sum() / shown.sum() / 3


class SlotHeads(nn.Module):
    """The things in the order of the caption, from the first queries; background and number from the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.traits = nn.Linear(WIDTH, sum(TRAITS) + 2)
        self.ground = nn.Linear(WIDTH, len(WIDE.backgrounds) + SLOTS)

    def forward(self, queries: Tensor, labels: Labels) -> Found:
        """The loss from the Q-Former's last states (B, Q, D)."""
        *found, places = self.traits(queries[:, :SLOTS]).split([*TRAITS, 2], -1)
        loss = torch.stack(
            [_cross_entropy(one, labels.slots[..., trait], trait, 1.0) for trait, one in enumerate(found)]
        ).sum()
        there = labels.places[..., 2]
        distances = functional.smooth_l1_loss(places, labels.places[..., :2] * 4, reduction="none").mean(-1)
        names, numbers = self.ground(queries[:, SLOTS]).split([len(WIDE.backgrounds), SLOTS], -1)
        loss = loss + (distances * there).sum() / there.sum()
        loss = loss + functional.cross_entropy(names, labels.grounds[:, 0])
        loss = loss + functional.cross_entropy(numbers, labels.grounds[:, 1])
        with torch.no_grad():
            right = [
                (one.argmax(-1) == labels.slots[..., trait]) | (labels.slots[..., trait] == IGNORED)
                for trait, one in enumerate(found)
            ]
            share = torch.stack(right, -1).all(-1).all(-1).float().mean().item()
        return Found(loss, share)


def _cross_entropy(logits: Tensor, wanted: Tensor, trait: int, nothing: float) -> Tensor:
    """The loss of one trait; `nothing` is the weight of places without a thing. A character is only asked for on signs."""
    weight = logits.new_ones(logits.shape[-1])
    if trait != _CHARACTER:
        weight[0] = nothing
    elif not (wanted != IGNORED).any():
        return logits.sum() * 0
    return functional.cross_entropy(logits.flatten(0, -2), wanted.flatten(), weight=weight, ignore_index=IGNORED)
