"""Results of a search for pictures, and of indexing."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from blip2tools.schemas.arguments import MAX_FOLDER, Arguments, Reference, Words, given
from blip2tools.schemas.notebook import Pictured, Shown
from blip2tools.schemas.results import Failure, Result

MOST_TOLD = 3  # misses in a text block
MAX_HITS = 50


class SearchArguments(Arguments):
    """Arguments of `search_images`."""

    alternatives = ("query", "image")

    query: Annotated[Words | None, BeforeValidator(given)] = Field(
        None, description="What the picture shows, as a caption, e.g. 'a dog on a beach'; at most 512 characters."
    )
    image: Annotated[Reference | None, BeforeValidator(given)] = Field(
        None, description="Instead of query: find this picture's duplicates. Example: holiday.jpg"
    )
    folder: Annotated[str, Field(min_length=1, max_length=MAX_FOLDER)] | None = Field(
        None, description="An allowed folder or one inside it, e.g. 'holiday'; all of them if left out."
    )
    limit: int = Field(10, ge=1, le=MAX_HITS, description="How many hits at most, 1 to 50.")


class SearchHit(BaseModel):
    """One picture that was found."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    path: str = Field(description="A reference that every tool accepts as its image.")
    probability: float | None = Field(
        ge=0,
        le=1,
        description="Probability that the text fits, by the matching head (ITM); null in a search by picture.",
    )
    cosine: float = Field(ge=-1, le=1, description="Nearness to the text, or likeness to the picture (ITC).")
    fits: bool = Field(description="Whether the text fits, or the picture is the same.")
    duplicate: str = Field("", description='In a search by picture: "exact" (the same bytes), "near", or empty.')

    def line(self) -> str:
        """The hit in one line."""
        if self.probability is None:
            return f"{self.cosine:.2f} {self.path}{f' ({self.duplicate} duplicate)' if self.duplicate else ''}"
        return f"{self.probability:.2f} {self.path}"


class SearchResult(Result):
    """Result of `search_images`."""

    hits: list[SearchHit] = Field(description="Pictures, best first; those that do not fit come last.")
    none_fits: bool = Field(description="Whether no picture fits; the first hit is then the best miss.")
    indexed: int = Field(description="How many pictures an index covers there; 0 without one.")
    searched: int = Field(description="How many pictures were searched, in the index and outside of it.")
    model: str = Field(description="The checkpoint that judged.")
    warnings: list[str] = Field(description="Reasons to doubt this result; empty when there are none.")

    def text_block(self) -> str:
        fitting = [hit.line() for hit in self.hits if hit.fits]
        misses = [hit.line() for hit in self.hits if not hit.fits][:MOST_TOLD]
        by_picture = any(hit.probability is None for hit in self.hits)
        where = f"of {self.searched} searched"
        if fitting:
            one = len(fitting) == 1
            found = (
                ("duplicate" if one else "duplicates") if by_picture else ("picture fits" if one else "pictures fit")
            )
            order = "likeness" if by_picture else "probability"
            lines = [f"{len(fitting)} {found}, {order} first ({where}):", *fitting]
        else:
            lines = [f"{'no duplicate' if by_picture else 'no picture fits'} ({where})"]
        if misses:
            lines += ["most like it:" if by_picture else "near misses:", *misses]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])

    def _shown(self) -> Shown:
        rows = [
            [hit.path, "yes" if hit.fits else "no", hit.line().partition(" ")[0], hit.duplicate] for hit in self.hits
        ]
        by_picture = any(hit.probability is None for hit in self.hits)
        return Shown(
            "nothing fits; the best misses:" if self.none_fits else "",
            [f"{self.searched} searched"],
            ["picture", "fits", "likeness" if by_picture else "probability", "duplicate"],
            rows,
            warnings=self.warnings,
            pictures=[Pictured(hit.path, caption=hit.line()) for hit in self.hits],
        )


class UnindexedFile(BaseModel):
    """A file that looks like a picture and cannot be read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    error: Failure


class IndexResult(Result):
    """Result of indexing a folder."""

    folder: str
    matcher: str = Field(description="The checkpoint that made the features; empty where there was nothing to look at.")
    pictures: int = Field(description="How many files can be found now.")
    added: int = Field(description="Pictures that were looked at.")
    known: int = Field(description="Files with a new name or time whose content was known.")
    unchanged: int = Field(description="Files that were as before.")
    removed: int = Field(description="Files that are gone.")
    seconds: float = Field(description="How long it took.")
    unreadable: list[UnindexedFile] = Field(description="Files that look like pictures and cannot be read, and why.")
    warnings: list[str] = Field(description="Folders that could not be listed.")

    def text_block(self) -> str:
        renamed = f", {self.known} known by their content" if self.known else ""
        failed = f", {len(self.unreadable)} cannot be read" if self.unreadable else ""
        found = "1 picture" if self.pictures == 1 else f"{self.pictures} pictures"
        return "\n".join(
            [
                f"{self.folder}: {found} can be found ({self.added} new{renamed}, {self.unchanged} "
                f"unchanged, {self.removed} gone{failed}; {self.seconds:.1f} s)",
                *(f"cannot be read: {one.path}: {one.error.code}: {one.error.message}" for one in self.unreadable),
                *(f"warning: {warning}" for warning in self.warnings),
            ]
        )
