"""What settings ask for: names of checkpoints to their files. Loads neither torch nor transformers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blip2tools import hub
from blip2tools.calibration import Temperatures
from blip2tools.checkpoints.memory import free_memory
from blip2tools.checkpoints.sizes import weights_of
from blip2tools.errors import ModelUnavailableError
from blip2tools.family import (
    CAPTIONERS,
    DEMO_CAPTIONER,
    FAMILY,
    SUGGESTED,
    Kind,
    Member,
    demo_folder,
    find,
    memory_bytes,
    partner,
)
from blip2tools.hub import Progress
from blip2tools.settings import Settings

if TYPE_CHECKING:
    from blip2tools.model import Captioner, Matcher, Pixels
    from blip2tools.text import CaptionerText, MatcherText

_HEADROOM = 1.15  # weights, and what a few pictures need beside them
_SPARE_MEMORY = 2**28

DEMO_WARNING = (
    "this is the built-in demo model, which only knows drawn shapes; "
    f"`blip2tools pull {SUGGESTED}` fetches one for photographs"
)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a model may take on its device."""

    memory: int | None  # free bytes; None if unknown, and then everything fits
    bytes_each: int  # of a weight

    def fits(self, needed: int) -> bool:
        """Whether `needed` bytes of weights and the work with them fit."""
        return self.memory is None or needed * _HEADROOM + _SPARE_MEMORY <= self.memory


@dataclass(frozen=True, slots=True)
class Located:
    """One checkpoint of a plan."""

    name: str  # for users: short name, hub id, or the folder's own name
    kind: Kind
    folder: Path | None  # None: to be pulled first
    member: Member | None  # its entry in the family's table
    repository: str | None  # hub id

    @property
    def here(self) -> bool:
        """Whether it can be loaded now."""
        return self.folder is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be loaded."""

    captioner: Located
    matcher: Located | None
    warnings: tuple[str, ...]  # what every result should say about this choice

    @property
    def here(self) -> bool:
        """Whether all of it can be loaded without a download."""
        return self.captioner.here and (self.matcher is None or self.matcher.here)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready. The matcher's three parts are all there or all None."""

    captioner: Captioner
    pixels: Pixels
    words: CaptionerText
    matcher: Matcher | None
    matcher_pixels: Pixels | None
    matcher_words: MatcherText | None
    model: str
    matcher_name: str | None
    device: str
    dtype: str
    notes: tuple[str, ...]  # what every result should say about this model
    temperatures: Temperatures = field(default_factory=Temperatures)  # of confidences, where they were fitted
    self_test: str | None = None  # its verdict in one line; None where it was not run

    @property
    def shared_trunk(self) -> bool:
        """Whether captioner and matcher can use the same states of a picture."""
        return self.matcher is not None and self.matcher.trunk is self.captioner.trunk


def locate(settings: Settings, budget: Budget | None = None) -> Plan:
    """What `settings` ask for, without loading anything, torch included.

    Args:
        settings: `model` and `matcher`; without a budget also what it is guessed from.
        budget: what `auto` may take.

    Raises:
        ModelUnavailableError: a name that can never work. A model that only has to be pulled is no error here.
    """
    budget = budget or _likely_budget(settings)
    warnings: list[str] = []
    named = settings.model != "auto"
    captioner = _named(settings.model, "captioner") if named else _auto_captioner(budget)
    if captioner.member is DEMO_CAPTIONER:
        warnings.append(DEMO_WARNING)
    elif not captioner.here:
        warnings.append(
            f"the model {captioner.name} is not on this computer yet; run `blip2tools pull {captioner.name}`"
        )

    matcher: Located | None = None
    if settings.matcher == "auto":
        matcher, reason = _auto_matcher(captioner, budget)
        warnings += [reason] if reason else []
    elif settings.matcher != "none":
        matcher = _named(settings.matcher, "matcher")
        if not matcher.here:
            warnings.append(
                f"the matcher {matcher.name} is not on this computer yet; run `blip2tools pull {matcher.name}`"
            )
    return Plan(captioner, matcher, tuple(warnings))


def is_cached(name: str) -> bool:
    """Whether a short name, hub id or folder can be loaded without a download."""
    if name in ("auto", "none"):
        return True
    kinds: tuple[Kind, ...] = ("captioner", "matcher")
    for kind in kinds:
        try:
            if _named(name, kind).here:
                return True
        except ModelUnavailableError:
            continue
    return False


def pull(name: str, progress: Progress | None = None) -> Path:
    """Download a model by its short name or hub id; see `hub.pull`.

    Raises:
        ModelUnavailableError: nothing that could be downloaded goes by this name, or the download failed.
    """
    member = find(name)
    if name in ("auto", "none") or (member is not None and member.hub is None):
        raise ModelUnavailableError(f"There is nothing to download for {name!r}; name one of {_choices()}.")
    repository = member.hub if member is not None else name
    if repository is None or not _is_hub_id(repository):
        raise ModelUnavailableError(f"There is no model named {name!r} to download; name one of {_choices()}.")
    return hub.pull(repository, member.name if member else name, progress)


def _auto_captioner(budget: Budget) -> Located:
    for member in CAPTIONERS:
        located = _of_member(member)
        if located.here and budget.fits(_memory(located, budget)):
            return located
    return _of_member(DEMO_CAPTIONER)


def _auto_matcher(captioner: Located, budget: Budget) -> tuple[Located | None, str | None]:
    if captioner.member is None:
        return None, "there is no image-text matcher: none is known to go with this model; set one (`matcher`)"
    matcher = _of_member(partner(captioner.member))
    if matcher.member is None or not matcher.here:
        return None, f"there is no image-text matcher; `blip2tools pull {matcher.name}` fetches the one that fits"
    # Its own tower is loaded before it can be compared and dropped.
    if not budget.fits(_memory(captioner, budget) + _memory(matcher, budget)):
        return None, f"there is no image-text matcher: {matcher.name} does not fit in memory beside {captioner.name}"
    return matcher, None


def _memory(located: Located, budget: Budget) -> int:
    """Bytes of its weights: by its own files where they are here, else by the family's table, else 0."""
    parts = located.member.weights if located.member is not None else None
    if located.folder is not None:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # judged when it is loaded
            parts = weights_of(located.folder)
    return 0 if parts is None else memory_bytes(parts, budget.bytes_each)


def _likely_budget(settings: Settings) -> Budget:
    """A guess without torch, which may be on its way in in another thread: a GPU that is there has room enough."""
    gpu = settings.device.startswith("cuda") or (
        settings.device == "auto" and Path("/proc/driver/nvidia/version").exists()
    )
    half = settings.dtype in ("float16", "bfloat16") or (settings.dtype == "auto" and gpu)
    return Budget(memory=None if gpu else free_memory(), bytes_each=2 if half else 4)


def _of_member(member: Member) -> Located:
    folder = demo_folder(member.kind) if member.hub is None else hub.cached(member.hub)
    return Located(member.name, member.kind, folder, member, member.hub)


def _named(name: str, kind: Kind) -> Located:
    """The checkpoint that a user named: the family's names first, then folders, then hub ids."""
    member = find(name, kind)
    if member is not None:
        return _of_member(member)
    other = find(name)
    if other is not None:
        raise ModelUnavailableError(f"{other.name} is a {other.kind}, not a {kind}; choose one of {_choices(kind)}.")
    folder = Path(name).expanduser()
    if folder.is_dir():
        shown = shown_name(name)
        if lacking := hub.missing_from(folder):
            raise ModelUnavailableError(f"The folder {shown!r} lacks {lacking}; it cannot be loaded as a {kind}.")
        return Located(shown, kind, folder, None, None)
    if _is_hub_id(name):
        return Located(name, kind, hub.cached(name), None, name)
    raise ModelUnavailableError(
        f"There is no {kind} named {shown_name(name)!r}; choose one of {_choices(kind)}, a hub id, or a folder."
    )


def _is_hub_id(name: str) -> bool:
    owner, _, repository = name.partition("/")
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    return all(part and set(part) <= allowed and part[0] not in ".-" for part in (owner, repository))


def shown_name(name: str) -> str:
    """A name for messages: of a path only the last part."""
    return name if _is_hub_id(name) else (Path(name).name or name)[:100]


def _choices(kind: Kind | None = None) -> str:
    names = [member.name for member in FAMILY if kind in (None, member.kind) and (kind or member.hub)]
    return ", ".join(names)
