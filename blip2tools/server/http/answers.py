"""Answers of our own routes but those of the tools, as they are sent and described."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from blip2tools.errors import ErrorCode


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(_Answer):
    """The body of an answer that is an error."""

    code: ErrorCode
    message: str = Field(description="One sentence that says what to do.")


class Ready(_Answer):
    """Whether calls are answered at once."""

    ready: bool
    state: str = Field(description="'not loaded', 'loading' with its progress, 'ready', or why it is unavailable.")
    model: str


class Kept(_Answer):
    """A picture that was received."""

    handle: str = Field(description="Short name of the picture, accepted as `image` by every tool.")
    width: int = Field(description="Full width in pixels.")
    height: int = Field(description="Full height in pixels.")
