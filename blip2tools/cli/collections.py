"""`index` and `search`: index folders of pictures, and search them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2tools.call import heard_by
from blip2tools.cli.console import OK, SOME_FAILED, say, tell
from blip2tools.cli.inputs import STANDARD_INPUT, standard_input
from blip2tools.cli.options import AddCommand, given_settings, names_a_model, setting_options
from blip2tools.cli.progress import Progress
from blip2tools.errors import BusyError, InvalidInputError
from blip2tools.schemas.shown import printable

if TYPE_CHECKING:
    from blip2tools.schemas import IndexResult, SearchResult
    from blip2tools.vision import Vision

TOLD_S = 5.0  # between two lines of progress, where no bar can be shown
EVERY_S = 10.0  # between two scans of watched folders, at least
SHARE = 20  # a watched folder rests this many times as long as its scan took
SHOWN = 200  # characters of a file's name

_INDEX_TEXT = """\
Look at the pictures in each folder, and in all folders below it, and keep what is needed to find them by what they show.

Only new or changed files are looked at; deleted ones leave the index. It can be stopped at any moment, and continues from
there the next time. The index is in the cache folder (--cache-dir) and depends on the matcher: another one needs --rebuild."""
_SEARCH_TEXT = """\
Find pictures by what they show, best first, or say that none fits; or, with --image, find the duplicates of one.

Without FOLDER the current folder is searched, or those of --allow-dir. An indexed folder is searched
completely; in others the newest pictures are looked at, as far as the time for a call allows."""


def add_collection_commands(command: AddCommand) -> None:
    """Add `index` and `search`."""
    index = command("index", _index, "make folders of pictures searchable", _INDEX_TEXT)
    index.add_argument("folder", nargs="+", metavar="FOLDER", help="a folder with pictures")
    index.add_argument("--rebuild", action="store_true", help="start over, as another matcher needs")
    index.add_argument(
        "--watch", action="store_true", help="keep running and index new and changed pictures, until Ctrl-C"
    )
    index.add_argument(
        "--every", type=float, default=EVERY_S, metavar="S", help="seconds between two scans of --watch (default 10)"
    )
    index.add_argument("--json", action="store_true", help="JSON Lines, one for each folder")
    setting_options(index, only=_INDEXING)

    search = command("search", _search, "find pictures by what they show", _SEARCH_TEXT)
    search.add_argument(
        "words", nargs="*", metavar="TEXT [FOLDER]", help="what the picture shows, as a caption; then where to search"
    )
    search.add_argument(
        "--image",
        metavar="PICTURE",
        help="find the duplicates of this one, or of that on standard input (-); then every word is a folder",
    )
    search.add_argument("-n", "--limit", type=int, default=10, metavar="N", help="hits at most, 1 to 50 (default 10)")
    search.add_argument("--json", action="store_true", help="the result as one line of JSON")
    setting_options(search, only=_SEARCHING)


_INDEXING = (
    *("model", "matcher", "revision", "matcher_revision", "allow_pickle", "device", "dtype", "quantize", "max_memory"),
    *("offload_dir", "threads", "offline", "self_test", "max_batch", "cache_mb"),
    *(
        "allowed_dirs",
        "formats",
        "max_image_bytes",
        "max_pixels",
        "max_side",
        "max_damage_mb",
        "cache_dir",
        "deadline_s",
    ),
)
_SEARCHING = (*_INDEXING, "allow_urls", "url_hosts")


def _index(arguments: argparse.Namespace) -> int:
    from blip2tools.vision import Vision

    if arguments.every <= 0:
        raise InvalidInputError("The value of --every must be above 0 seconds.")
    # Where nothing is new no model is needed, and it is loaded when the first new picture is met.
    with Vision.load(preload=False, download=names_a_model(arguments), **given_settings(arguments)) as vision:
        status = OK
        try:
            for folder in arguments.folder:
                result = _indexed(vision, folder, arguments)
                status = SOME_FAILED if result.unreadable else status
                _tell(result, as_json=arguments.json)
            while arguments.watch:
                _watch(vision, arguments)
        except KeyboardInterrupt:
            if vision.loading is not None:
                vision.abandon()  # closing would wait for an import
            raise
    return status


def _watch(vision: Vision, arguments: argparse.Namespace) -> None:
    """One look at every watched folder, after a rest."""
    time.sleep(arguments.every)
    for folder in arguments.folder:
        try:
            result = _indexed(vision, folder, arguments, rebuild=False)
        except BusyError:
            continue  # another process is at it
        if result.added or result.known or result.removed:
            _tell(result, as_json=arguments.json)
        if not result.added:
            time.sleep(max(0.0, SHARE * result.seconds - arguments.every))


def _indexed(vision: Vision, folder: str, arguments: argparse.Namespace, *, rebuild: bool | None = None) -> IndexResult:
    with _Heard(quiet=arguments.watch and rebuild is not None) as progress, heard_by(progress.hear):
        return vision.index(folder, rebuild=arguments.rebuild if rebuild is None else rebuild)


def _tell(result: IndexResult, *, as_json: bool) -> None:
    if as_json:
        tell(result.model_dump_json())
        return
    first, *more = result.text_block().splitlines()
    tell(printable(first, 2 * SHOWN))
    for line in more:
        say(printable(line, 4 * SHOWN))


class _Heard:
    """Progress of an index: its first picture begins it, for loading the model says nothing about the time that pictures take."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._shown: Progress | None = None

    def __enter__(self) -> _Heard:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.__exit__()

    async def hear(self, what: str, done: float, total: float | None) -> None:
        """Show a report of the job."""
        if self._quiet or not total or what != "pictures":
            return
        if self._shown is None:
            self._shown = Progress(int(total), int(done), every_s=TOLD_S)
        else:
            self._shown.step()


def _search(arguments: argparse.Namespace) -> int:
    from blip2tools.vision import Vision

    words = list(arguments.words)
    query = None if arguments.image else words.pop(0) if words else None
    if query is None and not arguments.image:
        raise InvalidInputError("There is nothing to search for; give a TEXT, or a picture with --image.")
    settings = given_settings(arguments)
    folders: list[str | None] = [*words] or [None if settings.get("allowed_dirs") else "."]
    with Vision.load(download=names_a_model(arguments), **settings) as vision:
        image = _picture(arguments.image, vision.settings.max_image_bytes)
        found = [vision.search(query, folder, arguments.limit, image=image) for folder in folders]
        result = found[0] if len(found) == 1 else _together(found, arguments.limit)
    if arguments.json:
        tell(result.model_dump_json())
        return OK
    for line in result.text_block().splitlines():
        (say if line.startswith("warning: ") else tell)(printable(line, 4 * SHOWN))
    return OK


def _picture(image: str | None, most_bytes: int) -> Any:
    if image == STANDARD_INPUT:
        return standard_input(most_bytes)
    return Path(image) if image is not None and Path(image).is_file() else image


def _together(found: list[SearchResult], limit: int) -> SearchResult:
    """The results of several folders as one."""
    hits = {hit.path: hit for result in found for hit in result.hits}
    best = sorted(hits.values(), key=lambda hit: (hit.fits, hit.probability or 0.0, hit.cosine), reverse=True)[:limit]
    return found[0].model_copy(
        update={
            "hits": best,
            "none_fits": all(result.none_fits for result in found),
            "indexed": sum(result.indexed for result in found),
            "searched": sum(result.searched for result in found),
            "warnings": list(dict.fromkeys(warning for result in found for warning in result.warnings)),
        }
    )
