"""The verbs of `Vision` about folders of pictures: index them, and search."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2tools.errors import InvalidInputError
from blip2tools.schemas import IndexResult, SearchArguments, SearchResult, parse
from blip2tools.vision.keywords import ImageInput
from blip2tools.vision.loop import Runner

if TYPE_CHECKING:
    from blip2tools.index.library import Library
    from blip2tools.vision.finding import Finding
    from blip2tools.vision.verbs import Verbs


class Shelves:
    """The indexes that are open, and what searches them; nothing until they are asked for."""

    def __init__(self) -> None:
        self._library: Library | None = None
        self._finding: Finding | None = None

    def library(self, verbs: Verbs) -> Library:
        """The indexes."""
        from blip2tools.index.library import Library

        self._library = self._library or Library(verbs.settings.cache_folder)
        return self._library

    def finding(self, verbs: Verbs) -> Finding:
        """What searches."""
        from blip2tools.vision.finding import Finding

        self._finding = self._finding or Finding(verbs.means(self.library(verbs)), verbs.relations())
        return self._finding

    def close(self) -> None:
        """Close everything."""
        if self._library is not None:
            self._library.close()


class FolderVerbs(Runner):
    """The verbs of this module, which `Vision` inherits."""

    _verbs: Verbs
    _shelves: Shelves

    async def aindex(self, folder: str | os.PathLike[str], *, rebuild: bool = False) -> IndexResult:
        """See `index`."""
        from blip2tools.vision.indexing import index

        name = os.fspath(folder)
        if not name:
            raise InvalidInputError("The folder is empty; name one with pictures.")
        means = self._verbs.means(self._shelves.library(self._verbs))
        with self._verbs.paced():
            return await index(means, self._verbs.sources, name, rebuild=rebuild)

    def index(self, folder: str | os.PathLike[str], *, rebuild: bool = False) -> IndexResult:
        """Make the pictures in a folder, and in all folders below it, findable by `search`.

        Only new or changed files are looked at: by size and time of change, then by content, so that a new name costs no
        look. Deleted files leave the index. After a stop or kill at any moment the next run continues from there. The index is
        in the cache folder of the settings; features are those of the matcher (ITC), in 16 bits.

        Args:
            folder: any of the caller's own folders, unless `allowed_dirs` is set.
            rebuild: start over, with another matcher for example.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`: `busy` while another process indexes this folder;
                `invalid_input` where another matcher made the index; `model_unavailable` without a matcher.
        """
        return self.run(self.aindex(folder, rebuild=rebuild))

    def pictures_in(self, folder: str | os.PathLike[str], *, recursive: bool = True) -> list[Path]:
        """The files in a folder that are called or begin like pictures, by name, without looking at any of them.

        Args:
            folder: any of the caller's own folders, unless `allowed_dirs` is set.
            recursive: with all folders below it.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`.
        """
        from blip2tools.vision.finding import pictures_in

        sources = self._verbs.sources
        (root,) = sources.searched(os.fspath(folder))
        names = sorted(entry.name for entry in pictures_in(sources, root, nested=recursive))
        return [root / os.fsdecode(name) for name in names]

    async def asearch(
        self,
        query: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        limit: int = 10,
        *,
        image: ImageInput | None = None,
    ) -> SearchResult:
        """See `search`."""
        asked: dict[str, Any] = {
            "query": query,
            "image": None if image is None else "-",
            "folder": None if folder is None else os.fspath(folder),
            "limit": limit,
        }
        arguments = parse(SearchArguments, asked)
        finding, verbs = self._shelves.finding(self._verbs), self._verbs

        async def verb(one: Any, options: object, deadline: float) -> SearchResult:
            return await finding.search(verbs.sources, one, arguments, deadline)

        found = await verbs.admitted(verb, image, {})
        return found.model_copy(update={"warnings": [*verbs.warnings(), *found.warnings]})

    def search(
        self,
        query: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        limit: int = 10,
        *,
        image: ImageInput | None = None,
    ) -> SearchResult:
        """Find pictures by what they show, or the duplicates of one.

        By text, the nearest pictures by ITC (at most 128) are judged by ITM, as the reference retrieves, and by the captioner
        where the text names a relation of two things. A hit `fits` or does not: with `none_fits` the first one is the best
        miss. By picture, duplicates are only reported: `fits` is the same picture, byte by byte ("exact") or
        scaled and recoded ("near").

        A folder without an index is looked through now, its newest pictures first, as far as the time for a call allows; a
        warning tells where an index would help.

        Args:
            query: a statement like a caption, in English, up to 512 characters.
            folder: where, with all folders below it; every allowed one by default.
            limit: how many hits, 1 to 50.
            image: a picture instead of `query`.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`; `model_unavailable` without a matcher.
        """
        return self.run(self.asearch(query, folder, limit, image=image))
