"""The findings of checks: typed, so that a report is data and a verdict can be kept."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["ok", "warning", "failed", "skipped"]


class Finding(BaseModel):
    """One check and its outcome."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="The check, in one or two words.")
    status: Status = Field(
        description="`ok`, `warning` (works, but not as well as it could), `failed`, or `skipped` where it says nothing."
    )
    sentence: str = Field(description="What was found.")
    remedy: str | None = Field(default=None, description="What to do about it; null where there is nothing to do.")


class Verdict(BaseModel):
    """The self-test of one model on one machine."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(description="The captioner, and the matcher behind a plus sign.")
    tested: datetime = Field(description="When, in UTC.")
    seconds: float = Field(ge=0, description="How long it took.")
    findings: tuple[Finding, ...]
    complete: bool = Field(description="Whether every check came to its end; another verdict is not remembered.")

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return failed(self.findings)

    @property
    def summary(self) -> str:
        """One line for the status."""
        when = f"{self.tested:%Y-%m-%d}"
        if self.failed:
            return f"failed on {when}: {', '.join(self.failed)}"
        return f"passed on {when}: {', '.join(one.name for one in self.findings if one.status == 'ok')}"


def failed(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Names of the failed ones."""
    return tuple(one.name for one in findings if one.status == "failed")
