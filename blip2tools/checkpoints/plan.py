"""From settings to checkpoints: names to files. Loads neither torch nor transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blip2tools.checkpoints import hub
from blip2tools.checkpoints.budget import Budget, admit, likely_budget
from blip2tools.checkpoints.confidence import Calibration, Premises
from blip2tools.checkpoints.family import (
    CAPTIONERS,
    DEMO_CAPTIONER,
    FAMILY,
    SUGGESTED,
    Kind,
    Member,
    demo_folder,
    find,
    partner,
)
from blip2tools.checkpoints.hub import Progress
from blip2tools.checkpoints.parents import caption_prompt
from blip2tools.checkpoints.published import Weights
from blip2tools.checkpoints.sizes import weights_of
from blip2tools.errors import ModelUnavailableError
from blip2tools.settings import Quantize, Settings

if TYPE_CHECKING:
    from blip2tools.checkpoints.prompts import CaptionerText, MatcherText
    from blip2tools.model import Captioner, Matcher, Pixels

DEMO_WARNING = f"demo model: it only knows drawn shapes; for photographs: `blip2tools pull {SUGGESTED}`"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which form of a named checkpoint is wanted."""

    revision: str | None = None
    allow_pickle: bool = False


@dataclass(frozen=True, slots=True)
class Located:
    """One checkpoint of a plan."""

    name: str  # for users: short name, hub id, or the folder's own name
    kind: Kind
    folder: Path | None  # None: to be pulled first
    member: Member | None  # its entry in the family's table
    repository: str | None  # hub id
    choice: Choice = Choice()
    source: str | None = None  # what `pull` calls it, where that is not its name
    adapter: Path | None = None  # folder of changes to it (peft)

    @property
    def here(self) -> bool:
        """Whether it can be loaded now."""
        return self.folder is not None

    @property
    def revision(self) -> str | None:
        """The commit of its files, where they come from the hub."""
        return None if self.folder is None else hub.revision_of(self.folder)

    @property
    def prompt(self) -> str:
        """The default prompt of captions; empty is none."""
        return caption_prompt(self.member, self.folder)

    @property
    def pull_command(self) -> str:
        """The command that fetches it."""
        pinned = f" --revision {self.choice.revision}" if self.choice.revision else ""
        return f"`blip2tools pull {self.source or self.name}{pinned}`"


@dataclass(frozen=True, slots=True)
class Plan:
    """The checkpoints that would be loaded."""

    captioner: Located
    matcher: Located | None
    warnings: tuple[str, ...]  # what every result should say about this choice
    quantize: Quantize = "none"  # as set, or chosen by `auto` where full precision does not fit

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
    calibration: Calibration = field(default_factory=Calibration)  # of confidences, where it was fitted
    familiar: float | None = None  # familiarity below which a picture is not of the model's world; None without a world
    premises: Premises = field(default_factory=Premises)  # how presuppositions of questions are judged
    revision: str | None = None  # commit of the captioner's files on the hub
    matcher_revision: str | None = None
    quantize: Quantize = "none"
    self_test: str | None = None  # its verdict in one line; None where it was not run
    compiled: bool = False  # whether decoding steps are compiled
    recorded: bool = False  # whether work on small batches is replayed as CUDA graphs
    uncompiled: str | None = None  # why not, where that was asked for

    @property
    def shared_trunk(self) -> bool:
        """Whether captioner and matcher can use the same states of a picture."""
        return self.matcher is not None and self.matcher.trunk is self.captioner.trunk


def locate(settings: Settings, budget: Budget | None = None) -> Plan:
    """The plan for `settings`, made without loading anything, torch included.

    Args:
        settings: `model` and `matcher`; without a budget also what it is guessed from.
        budget: what `auto` may take.

    Raises:
        ModelUnavailableError: a name that can never work. A model that only has to be pulled is not an error here.
    """
    budget = budget or likely_budget(settings)
    warnings: list[str] = []
    named = settings.model != "auto"
    choice = Choice(settings.revision, settings.allow_pickle)
    quantize = settings.quantize
    if named:
        captioner = _named(settings.model, "captioner", choice)
    else:
        captioner, quantize = _auto_captioner(budget, quantized="quantize" not in settings.model_fields_set)
        budget = replace(budget, quantize=quantize)
    if settings.revision and captioner.repository is None:
        raise ModelUnavailableError("`revision` pins a model of the hub: name one (`model`), or leave it out.")
    if captioner.member is DEMO_CAPTIONER:
        warnings.append(DEMO_WARNING)
    elif not captioner.here:
        warnings.append(f"the model {captioner.name} is not on this computer yet; run {captioner.pull_command}")

    matcher: Located | None = None
    choice = Choice(settings.matcher_revision, settings.allow_pickle)
    if settings.matcher == "auto":
        matcher, reason = _auto_matcher(captioner, budget)
        warnings += [reason] if reason else []
    elif settings.matcher != "none":
        matcher = _named(settings.matcher, "matcher", choice)
        if not matcher.here:
            warnings.append(f"the matcher {matcher.name} is not on this computer yet; run {matcher.pull_command}")
    if settings.matcher_revision and (settings.matcher == "auto" or matcher is None or matcher.repository is None):
        raise ModelUnavailableError(
            "`matcher_revision` pins a matcher of the hub: name one (`matcher`), or leave it out."
        )
    return Plan(captioner, matcher, tuple(warnings), quantize)


def is_cached(name: str) -> bool:
    """Whether a short name, hub id or folder can be loaded without a download."""
    if name in ("auto", "none"):
        return True
    kinds: tuple[Kind, ...] = ("captioner", "matcher")
    for kind in kinds:
        with suppress(ModelUnavailableError):
            if _named(name, kind, Choice()).here:
                return True
    return False


def pull(
    name: str, progress: Progress | None = None, *, choice: Choice | None = None, budget: Budget | None = None
) -> Path:
    """Download a model by its short name or hub id, and what it is based on; see `hub.pull`.

    Args:
        name: short name or hub id.
        progress: receives the progress.
        choice: revision, and whether pickles may be opened.
        budget: where it is to be loaded; None if that is not known.

    Raises:
        ModelUnavailableError: nothing to download has this name, the download failed, or the model is too
            large for the budget.
    """
    choice = choice or Choice()
    member = find(name)
    repository = downloadable(name)
    shown = member.name if member else name
    if member is not None and budget is not None:
        admit(shown, member.weights, budget, kind=member.kind)
    admission = None if budget is None or member is not None else _admission(shown, budget)
    folder = hub.pull(
        repository, shown, progress, revision=choice.revision, allow_pickle=choice.allow_pickle, admit=admission
    )
    if _is_adapter(folder):
        base, revision = _base_of(folder, shown)
        changed = find(base)
        beneath = changed.hub if changed is not None else base
        if beneath is not None and _is_hub_id(beneath) and not Path(base).expanduser().is_dir():
            if changed is not None and budget is not None:
                admit(changed.name, changed.weights, budget, kind=changed.kind)
            hub.pull(beneath, base, progress, revision=revision, allow_pickle=choice.allow_pickle)
    return folder


def downloadable(name: str, what: Literal["download", "remove"] = "download") -> str:
    """The hub id of a short name, or the hub id itself.

    Args:
        name: short name or hub id.
        what: is to be done with it, for the message.

    Raises:
        ModelUnavailableError: nothing that could be downloaded goes by this name.
    """
    member = find(name)
    if name in ("auto", "none") or (member is not None and member.hub is None):
        raise ModelUnavailableError(f"There is nothing to {what} for {name!r}; name one of {_choices()}.")
    found = member.hub if member is not None else name
    if found is None or not _is_hub_id(found):
        raise ModelUnavailableError(
            f"There is no model named {name!r} to {what}{_meant(name)}; name one of {_choices()}."
        )
    return found


def _admission(name: str, budget: Budget) -> Callable[[int], None]:
    return lambda values: admit(name, Weights(0, 0, 0, 0, values), budget)


def check_memory(plan: Plan, settings: Settings, budget: Budget) -> None:
    """Refuse named models that cannot fit, before they are fetched or loaded.

    Raises:
        ModelUnavailableError: it is too large; what to try is in the message.
    """
    captioner, matcher, budget = plan.captioner, plan.matcher, replace(budget, quantize=plan.quantize)
    parts = _weights(captioner)
    if settings.model != "auto" and parts is not None:
        admit(captioner.name, parts, budget)
    theirs = None if matcher is None else _weights(matcher)
    if settings.matcher not in ("auto", "none") and matcher is not None and theirs is not None:
        beside = 0 if parts is None else budget.needed(parts)
        admit(matcher.name, theirs, budget, kind="matcher", beside=beside)


def _auto_captioner(budget: Budget, *, quantized: bool) -> tuple[Located, Quantize]:
    """The most capable captioner that fits, and in which form: on a processor full precision, else 8 bits.

    Args:
        budget: what it may take.
        quantized: whether it may be quantized, though that was not asked for. In 4 bits captions get worse: a smaller model
            in 8 is better, and 4 are taken where there is none.
    """
    here = [located for located in map(_of_member, CAPTIONERS) if located.here]
    forms: list[list[Quantize]] = [[budget.quantize]]
    if quantized and budget.processor and budget.quantize == "none":
        forms = [["none", "8bit"], ["4bit"]]
    for sizes in forms:
        for located in here:
            for size in sizes:
                form = replace(budget, quantize=size)
                if form.fits(_memory(located, form)):
                    return located, size
    return _of_member(DEMO_CAPTIONER), budget.quantize


def _auto_matcher(captioner: Located, budget: Budget) -> tuple[Located | None, str | None]:
    if captioner.member is None:
        return None, "there is no image-text matcher: none is known to go with this model; set one (`matcher`)"
    matcher = _of_member(partner(captioner.member))
    if matcher.member is None or not matcher.here:
        return None, f"there is no image-text matcher; {matcher.pull_command} fetches the one that fits"
    # Its own tower is loaded before it can be compared and dropped.
    if not budget.fits(_memory(captioner, budget) + _memory(matcher, budget)):
        return (
            None,
            f"there is no image-text matcher: {matcher.name} does not fit in memory together with {captioner.name}",
        )
    return matcher, None


def _memory(located: Located, budget: Budget) -> int:
    parts = _weights(located)
    return 0 if parts is None else budget.needed(parts)


def _weights(located: Located) -> Weights | None:
    """The sizes from its own files if they are here, else from the family's table; None if neither tells."""
    if located.folder is not None:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # judged when it is loaded
            return weights_of(located.folder)
    return located.member.weights if located.member is not None else None


def _of_member(member: Member, choice: Choice = Choice()) -> Located:
    if member.hub is None:
        return Located(member.name, member.kind, demo_folder(member.kind), member, None)
    folder = hub.cached(member.hub, choice.revision, allow_pickle=choice.allow_pickle)
    return Located(member.name, member.kind, folder, member, member.hub, choice)


def _named(name: str, kind: Kind, choice: Choice, adapted_by: str | None = None) -> Located:
    """The checkpoint that a user named, or an adapter did: the family's names first, then folders, then hub ids."""
    member = find(name, kind)
    if member is not None:
        return _of_member(member, choice)
    other = find(name)
    if other is not None:
        raise ModelUnavailableError(f"{other.name} is a {other.kind}, not a {kind}; choose one of {_choices(kind)}.")
    folder = Path(name).expanduser()
    shown = shown_name(name)
    if folder.is_dir():
        if lacking := hub.missing_from(folder, allow_pickle=choice.allow_pickle):
            raise ModelUnavailableError(f"The folder {shown!r} lacks {lacking}; it cannot be loaded as a {kind}.")
        located = Located(shown, kind, folder, None, None, choice)
        return _adapted(located, folder, adapted_by) if _is_adapter(folder) else located
    if _is_hub_id(name):
        found = hub.cached(name, choice.revision, allow_pickle=choice.allow_pickle)
        located = Located(name, kind, found, None, name, choice)
        return _adapted(located, found, adapted_by) if found is not None and _is_adapter(found) else located
    raise ModelUnavailableError(
        f"There is no {kind} named {shown!r}{_meant(name, kind)}; choose one of {_choices(kind)}, a hub id, or a folder."
    )


def _is_adapter(folder: Path) -> bool:
    return (folder / hub.ADAPTER).is_file() and not (folder / "config.json").is_file()


def _adapted(located: Located, adapter: Path, adapted_by: str | None) -> Located:
    """The checkpoint that an adapter changes, under the adapter's name."""
    if adapted_by is not None:
        raise ModelUnavailableError(
            f"{adapted_by} changes {located.name}, which is an adapter itself; merge that one first."
        )
    name, revision = _base_of(adapter, located.name)
    base = _named(name, located.kind, replace(located.choice, revision=revision), adapted_by=located.name)
    return replace(base, name=f"{located.name} on {base.name}", source=base.name, adapter=adapter)


def _base_of(adapter: Path, name: str) -> tuple[str, str | None]:
    """Name and revision of the model that an adapter was trained on."""
    try:
        written = json.loads((adapter / hub.ADAPTER).read_text(encoding="utf-8"))
        base, revision = written["base_model_name_or_path"], written.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        base = revision = None
    if not isinstance(base, str) or not base or not isinstance(revision, str | None):
        raise ModelUnavailableError(
            f"The adapter {name} does not say which model it changes (`base_model_name_or_path`)."
        )
    return base, revision


def _is_hub_id(name: str) -> bool:
    owner, _, repository = name.partition("/")
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    return all(part and set(part) <= allowed and part[0] not in ".-" for part in (owner, repository))


def shown_name(name: str) -> str:
    """A name for messages: of a path only the last part."""
    return name if _is_hub_id(name) else (Path(name).name or name)[:100]


def _meant(name: str, kind: Kind | None = None) -> str:
    """The family's name that is near, as a part of a sentence."""
    names = [member.name for member in FAMILY if kind in (None, member.kind)]
    near = get_close_matches(name.lower(), names, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _choices(kind: Kind | None = None) -> str:
    names = [member.name for member in FAMILY if kind in (None, member.kind) and (kind or member.hub)]
    return ", ".join(names)
