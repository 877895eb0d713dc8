"""`Vision`: the verbs. Validate, load the picture, submit, build the result: the one path for all interfaces."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from blip2tools import checkpoints
from blip2tools.__version__ import __version__
from blip2tools.engine.local import LocalEngine
from blip2tools.engine.protocol import Engine
from blip2tools.engine.requests import WarmRequest
from blip2tools.pictures import decoder
from blip2tools.pictures.pools import Pools
from blip2tools.pictures.reading.reader import Reader
from blip2tools.pictures.records import Facts
from blip2tools.pictures.sources import Sources
from blip2tools.pictures.store import Remembered, Store
from blip2tools.pictures.thumbnails import Thumbnails
from blip2tools.schemas import (
    AnswerResult,
    AnswersResult,
    CaptionResult,
    CompareResult,
    ImageInfo,
    Limits,
    ListArguments,
    ListResult,
    MatchResult,
    ReadResult,
    StatusResult,
    SurveyResult,
    notebook,
    parse,
)
from blip2tools.settings import Settings, told_strays
from blip2tools.vision import results, status
from blip2tools.vision.collections import FolderVerbs, Shelves
from blip2tools.vision.keywords import (
    AskOptions,
    CaptionOptions,
    GenerationKeywords,
    ImageInput,
    ImageList,
    LookOptions,
    MatchOptions,
    SurveyOptions,
    spelled_out,
)
from blip2tools.vision.lending import LendingVerbs
from blip2tools.vision.loop import LoopThread
from blip2tools.vision.search import FeatureVerbs
from blip2tools.vision.verbs import Verbs

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Vision(FeatureVerbs, FolderVerbs, LendingVerbs):
    """Eyes: captions, answers and image-text match from one BLIP-2 model.

    An image is a reference (a path, a `data:` URI, a handle of an earlier result, ...), `bytes`, a `PIL.Image`, or a numpy
    array: (H, W), or (H, W, C) with 1, 3 or 4 channels (RGB), of uint8, or of floats from 0 to 1. A list
    of images gives a list of results in the same order; with `return_errors=True` the failed ones hold their error,
    otherwise the first error is raised after all have finished. Every verb has an `a...` twin to await. One `Vision` may
    be used from many threads and event loops; a fork of the process, which has none of its threads, must load its own.

    Use `Vision.load(...)`, and close it or use it in a `with` block.
    """

    def __init__(self, settings: Settings, engine: Engine, *, trusted: bool, store: Store | None = None) -> None:
        """Eyes over any engine; `load` makes those over this process's own.

        Args:
            settings: every one.
            engine: answers, and is closed with these eyes.
            trusted: the caller's own paths may be read anywhere.
            store: keeps the pictures behind the handles; one of this process by default.
        """
        super().__init__()
        self.settings = settings
        self._engine = engine
        self._store = Store(settings.store_mb * 2**20) if store is None else store
        self._owner: Self | None = None
        self._reveal_handles = True
        self._decoder = decoder.Decoder(settings)
        self._reader = Reader(settings)
        self._remembered = Remembered(settings.cache_folder)
        sources = Sources(
            settings, self._store, size_of=self._decoder.size_of, trusted=trusted, remembered=self._remembered
        )
        self._thumbnails = Thumbnails(sources, self._decoder)
        notebook.register(self._thumbnails)
        self._pools = Pools()
        self._shelves = Shelves()
        # A daemon thread inside torch can crash the process while the interpreter shuts down: end it before.
        self._finalizer = weakref.finalize(
            self, _shut, engine, self._pools, self._decoder, self._reader, self._shelves, self._loop
        )
        finalizer = self._finalizer
        self._verbs = Verbs(
            settings,
            engine,
            sources,
            self._store,
            self._pools,
            self._decoder,
            self._remembered,
            self._reader,
            closed=lambda: not finalizer.alive,
        )

    @classmethod
    def load(cls, *, preload: bool = True, download: bool = False, **settings: Any) -> Self:
        """A `Vision` with settings from the arguments, `BLIP2TOOLS_*` variables and the defaults.

        Args:
            preload: load the model now; otherwise the first call does.
            download: a named model that is missing may be downloaded, with progress on standard error.
            **settings: any setting by its name: `model=`, `matcher=`, `device=`, `allowed_dirs=`, ...

        Raises:
            InvalidInputError: a setting is unknown or out of bounds.
            ModelUnavailableError: with `preload`, the checkpoint is missing or cannot be loaded.
        """
        chosen = Settings.load(**settings)
        for sentence in told_strays():
            logger.warning("%s", sentence)
        checkpoints.locate(chosen)  # a name that can never work is refused before anything starts
        engine = LocalEngine.of(chosen, download=download)
        vision = cls(chosen, engine, trusted=chosen.allowed_dirs is None)
        if preload:
            try:
                vision._decoder.warm()
                engine.submit(WarmRequest(), deadline=None).future.result()
            except KeyboardInterrupt:
                vision._end_children()  # closing would wait for an import; the engine ends with this object
                raise
            except BaseException:
                vision.close()
                raise
        return vision

    @property
    def allowed_folders(self) -> tuple[Path, ...]:
        """Folders that tools may read pictures from."""
        return self._verbs.sources.folders

    def for_tools(self, *, reveal_folders: bool = True, reveal_handles: bool = True) -> Self:
        """The same `Vision` for arguments that come from a model: it reads only the allowed folders.

        The result shares the engine, its queue and the pictures seen; closing either closes both.

        Args:
            reveal_folders: whether a refusal names the allowed folders in full, or (over a network) by their last part.
            reveal_handles: whether `status` lists the pictures seen; not where several clients share it.
        """
        eyes = copy(self)
        eyes._owner = self  # alive as long as its copies: at its end the engine closes
        eyes._verbs = self._verbs.reading(
            Sources(
                self.settings,
                self._store,
                size_of=self._decoder.size_of,
                reveal_folders=reveal_folders,
                remembered=self._remembered,
            )
        )
        eyes._reveal_handles = reveal_handles
        return eyes

    def preload(self) -> None:
        """Begin to load the model without waiting for it, and start a decoder."""
        self._decoder.warm()
        self._engine.submit(WarmRequest(), deadline=None)

    async def aready(self) -> None:
        """Wait until the model is loaded, however long that takes; load it if that has not begun yet.

        Raises:
            ModelUnavailableError: the checkpoint is missing or cannot be loaded.
        """
        await asyncio.wrap_future(self._engine.submit(WarmRequest(), deadline=None).future)

    @property
    def loading(self) -> str | None:
        """The progress of loading the model; None when it is not being loaded."""
        status = self._engine.status()
        return status.state if status.loading else None

    @property
    def loaded(self) -> bool:
        """Whether the model is loaded."""
        return self._engine.status().loaded

    def close(self) -> None:
        """Cancel running calls, free the model's memory and end the threads. May be called twice."""
        self._finalizer()

    def abandon(self) -> None:
        """End the child processes before this process exits: no call is answered any more, and nothing is freed, nor by a later
        `close`."""
        self._finalizer.detach()
        self._end_children()

    def _end_children(self) -> None:
        self._decoder.close()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @overload
    async def acaption(self, image: ImageInput, **options: Unpack[CaptionOptions]) -> CaptionResult: ...
    @overload
    async def acaption(self, image: ImageList, **options: Unpack[CaptionOptions]) -> list[CaptionResult]: ...
    @spelled_out
    async def acaption(
        self, image: ImageInput | ImageList, **options: Unpack[CaptionOptions]
    ) -> CaptionResult | list[CaptionResult]:
        """See `caption`."""
        return await self._verbs.each(self._verbs.caption, image, dict(options))

    @overload
    def caption(self, image: ImageInput, **options: Unpack[CaptionOptions]) -> CaptionResult: ...
    @overload
    def caption(self, image: ImageList, **options: Unpack[CaptionOptions]) -> list[CaptionResult]: ...
    @spelled_out
    def caption(
        self, image: ImageInput | ImageList, **options: Unpack[CaptionOptions]
    ) -> CaptionResult | list[CaptionResult]:
        """Say in one sentence what is in the picture.

        Args:
            image: one image or a list of them.
            prompt: the caption's beginning, which the model continues and the result does not repeat. Without one it is that
                of the checkpoint's training ("a photo of" for the -coco captioners, none for the others); "" is none at all.
            region: `[left, top, right, bottom]` as fractions; cropped at full resolution before the model looks.
            num_captions: 1 to 5; further ones are in `alternatives`.
            style: a prompt with the options that belong to it, "plain" by default; see `blip2tools.vision.styles.STYLES`.
            best_of: candidates, 1 to 16, where the matcher doubts the caption (probability below 0.5): the caption and
                samples, of which the one that fits best is returned. The reference has no such option.
            abstain_below: with less confidence the result is `abstained`.
            return_errors: with a list, put a failed image's error in its place instead of raising.
            **options: generation options, see `CaptionOptions`.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`.
        """
        return self.run(self._verbs.each(self._verbs.caption, image, dict(options)))

    @overload
    async def aask(self, image: ImageInput, question: str, **options: Unpack[AskOptions]) -> AnswerResult: ...
    @overload
    async def aask(self, image: ImageList, question: str, **options: Unpack[AskOptions]) -> list[AnswerResult]: ...
    @spelled_out
    async def aask(
        self, image: ImageInput | ImageList, question: str, **options: Unpack[AskOptions]
    ) -> AnswerResult | list[AnswerResult]:
        """See `ask`."""
        return await self._verbs.each(self._verbs.ask, image, {"question": question, **options})

    @overload
    def ask(self, image: ImageInput, question: str, **options: Unpack[AskOptions]) -> AnswerResult: ...
    @overload
    def ask(self, image: ImageList, question: str, **options: Unpack[AskOptions]) -> list[AnswerResult]: ...
    @spelled_out
    def ask(
        self, image: ImageInput | ImageList, question: str, **options: Unpack[AskOptions]
    ) -> AnswerResult | list[AnswerResult]:
        """Answer a question about the picture in a few words.

        Args:
            image: one image or a list of them.
            question: in English; the template that the model was trained with is put around it.
            choices: 2 to 20 answers to score instead of speaking freely. Each gets the probability that the model gives
                to exactly these words among the choices: softmax over the summed token log-probabilities, end included.
            history: earlier (question, answer) pairs, oldest first; the oldest are left out where they are too many.
            vqa_template: the prompt, with `{question}` in it; the checkpoint's own by default.
            abstain_below: as in `caption`.
            region, return_errors, **options: as in `caption`; see `AskOptions`.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`.
        """
        return self.run(self._verbs.each(self._verbs.ask, image, {"question": question, **options}))

    @spelled_out
    async def aask_each(self, images: ImageList, question: str, **options: Unpack[AskOptions]) -> AnswersResult:
        """See `ask_each`."""
        return await self._verbs.ask_each(images, question, dict(options))

    @spelled_out
    def ask_each(self, images: ImageList, question: str, **options: Unpack[AskOptions]) -> AnswersResult:
        """Ask one question about 2 to 16 pictures; a picture that cannot be read has its error in its place.

        `ask` with a list gives the same answers in full, as a list of results.

        Args:
            images: the pictures.
            question, **options: as in `ask`.

        Raises:
            VisionError: the question or an option is refused, or so are all pictures, for the same reason.
        """
        return self.run(self.aask_each(images, question, **options))

    @overload
    async def amatch(self, image: ImageInput, texts: Sequence[str], **options: Unpack[MatchOptions]) -> MatchResult: ...
    @overload
    async def amatch(
        self, image: ImageList, texts: Sequence[str], **options: Unpack[MatchOptions]
    ) -> list[MatchResult]: ...
    @spelled_out
    async def amatch(
        self, image: ImageInput | ImageList, texts: Sequence[str], **options: Unpack[MatchOptions]
    ) -> MatchResult | list[MatchResult]:
        """See `match`."""
        return await self._verbs.each(self._verbs.match, image, {"texts": texts, **options})

    @overload
    def match(self, image: ImageInput, texts: Sequence[str], **options: Unpack[MatchOptions]) -> MatchResult: ...
    @overload
    def match(self, image: ImageList, texts: Sequence[str], **options: Unpack[MatchOptions]) -> list[MatchResult]: ...
    @spelled_out
    def match(
        self, image: ImageInput | ImageList, texts: Sequence[str], **options: Unpack[MatchOptions]
    ) -> MatchResult | list[MatchResult]:
        """Score how well each text fits the picture, best first.

        Args:
            image: one image or a list of them.
            texts: 1 to 64 statements.
            score: what decides the order: "itm" (the default), "itc", or "both" as the reference ranks what it retrieves.
            region, return_errors: as in `caption`.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`; `model_unavailable` without a matcher.
        """
        return self.run(self._verbs.each(self._verbs.match, image, {"texts": texts, **options}))

    @overload
    async def asurvey(self, image: ImageInput, **options: Unpack[SurveyOptions]) -> SurveyResult: ...
    @overload
    async def asurvey(self, image: ImageList, **options: Unpack[SurveyOptions]) -> list[SurveyResult]: ...
    @spelled_out
    async def asurvey(
        self, image: ImageInput | ImageList, **options: Unpack[SurveyOptions]
    ) -> SurveyResult | list[SurveyResult]:
        """See `survey`."""
        return await self._verbs.each(self._verbs.survey, image, dict(options))

    @overload
    def survey(self, image: ImageInput, **options: Unpack[SurveyOptions]) -> SurveyResult: ...
    @overload
    def survey(self, image: ImageList, **options: Unpack[SurveyOptions]) -> list[SurveyResult]: ...
    @spelled_out
    def survey(
        self, image: ImageInput | ImageList, **options: Unpack[SurveyOptions]
    ) -> SurveyResult | list[SurveyResult]:
        """A map in words: one caption for the whole picture and one for each tile of a grid.

        Args:
            image: one image or a list of them.
            rows, columns: the grid, 1 to 4 each; 2 by default.
            return_errors, **options: as in `caption`; see `SurveyOptions`.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`.
        """
        return self.run(self._verbs.each(self._verbs.survey, image, dict(options)))

    @overload
    async def aread(self, image: ImageInput, **options: Unpack[LookOptions]) -> ReadResult: ...
    @overload
    async def aread(self, image: ImageList, **options: Unpack[LookOptions]) -> list[ReadResult]: ...
    @spelled_out
    async def aread(
        self, image: ImageInput | ImageList, **options: Unpack[LookOptions]
    ) -> ReadResult | list[ReadResult]:
        """See `read`."""
        return await self._verbs.each(self._verbs.read, image, dict(options))

    @overload
    def read(self, image: ImageInput, **options: Unpack[LookOptions]) -> ReadResult: ...
    @overload
    def read(self, image: ImageList, **options: Unpack[LookOptions]) -> list[ReadResult]: ...
    @spelled_out
    def read(self, image: ImageInput | ImageList, **options: Unpack[LookOptions]) -> ReadResult | list[ReadResult]:
        """Read what is written in the picture: its lines in reading order, whichever way up the page lies.

        The model is not needed for that, and not waited for; the extra `[read]` is.

        Args:
            image: one image or a list of them.
            region, return_errors: as in `caption`.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`; `model_unavailable` without the extra.
        """
        return self.run(self._verbs.each(self._verbs.read, image, dict(options)))

    @spelled_out
    async def acompare(self, images: ImageList, **options: Unpack[GenerationKeywords]) -> CompareResult:
        """See `compare`."""
        return await self._verbs.admitted(self._verbs.compare, images, dict(options))

    @spelled_out
    def compare(self, images: ImageList, **options: Unpack[GenerationKeywords]) -> CompareResult:
        """Look at 2 to 4 pictures side by side: their captions, how alike they are, and which caption fits which.

        Args:
            images: the pictures.
            **options: generation options.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`; the first that any of the pictures causes.
        """
        return self.run(self.acompare(images, **options))

    async def alist_images(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        limit: int = 20,
        offset: int = 0,
        name: str | None = None,
    ) -> ListResult:
        """See `list_images`."""
        asked = {"limit": limit, "offset": offset, "name": name}
        arguments = parse(ListArguments, {"folder": None if folder is None else os.fspath(folder), **asked})
        found = await self._verbs.in_pool(
            self._pools.folders,
            lambda: self._verbs.sources.list_images(
                arguments.folder, arguments.limit, arguments.offset, arguments.name
            ),
        )
        return results.listing(found, arguments.offset, arguments.name)

    def list_images(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        limit: int = 20,
        offset: int = 0,
        name: str | None = None,
    ) -> ListResult:
        """Pictures in `folder` (default: every allowed one) and its direct subfolders, newest first.

        Files that look like pictures and cannot be read are in `unreadable`, with the reason.

        Args:
            folder: where to look.
            limit: how many files at most, 1 to 100.
            offset: how many of the newest to skip.
            name: only files whose name holds this, or fits it where it has `*` or `?`, in any case.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`.
        """
        return self.run(self.alist_images(folder, limit=limit, offset=offset, name=name))

    async def akeep(self, image: ImageInput) -> ImageInfo:
        """See `keep`."""
        return await self._verbs.admitted(self._verbs.keep, image, {})

    def keep(self, image: ImageInput) -> ImageInfo:
        """Check a picture and keep it for later calls under its handle, without a model looking at it.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`.
        """
        return self.run(self.akeep(image))

    async def athumbnail(self, image: ImageInput, side: int = 320) -> bytes:
        """See `thumbnail`."""
        return await self._verbs.admitted(self._verbs.thumbnail, image, {"side": side})

    def thumbnail(self, image: ImageInput, side: int = 320) -> bytes:
        """A small JPEG of a picture, for a person to look at: upright, in sRGB, without metadata. No model is needed.

        Args:
            image: one image of any kind.
            side: of the longer side, pixels, 16 to 1024; a smaller picture keeps its size.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`.
        """
        return self.run(self.athumbnail(image, side))

    def keeps(self, handle: str) -> bool:
        """Whether a picture's bytes are in memory, which makes it the newest. Costs nothing."""
        return self._store.digest(handle) is not None

    def handles(self, limit: int = 100) -> list[str]:
        """Handles of pictures seen lately, newest first; none where several clients share this `Vision`."""
        return self._store.known(limit) if self._reveal_handles else []

    async def aabout(self, handle: str) -> Facts:
        """Format and size of a picture that is kept, from its header.

        Raises:
            NotFoundError: it is no longer kept.
        """
        return await self._verbs.in_pool(self._pools.folders, lambda: self._verbs.sources.about(handle))

    async def asuggest(self, begun: str, limit: int = 100) -> list[str]:
        """References to pictures in the allowed folders that start with `begun`, newest first."""
        return await self._verbs.in_pool(self._pools.folders, lambda: self._verbs.sources.suggest(begun, limit))

    def status(self) -> StatusResult:
        """A snapshot: what is loaded, what is allowed, how busy it is. Never waits for the model."""
        engine = self._engine.status()
        plan = checkpoints.locate(self.settings)
        # Of a loaded model the engine knows them; a plan that is made beside it would find less memory free.
        told = () if engine.loaded else plan.warnings
        if (size := engine.quantize if engine.loaded else plan.quantize) not in (None, self.settings.quantize):
            told = (*told, f"runs in {size}, as full precision does not fit in memory (`quantize`)")
        return StatusResult(
            version=__version__,
            model=engine.model or plan.captioner.name,
            matcher=engine.matcher if engine.loaded else plan.matcher.name if plan.matcher else None,
            device=engine.device,
            dtype=engine.dtype,
            loaded=engine.loaded,
            state=engine.state,
            self_test=engine.self_test,
            compiled=engine.compiled,
            cuda_graphs=engine.recorded,
            revision=engine.revision if engine.loaded else plan.captioner.revision,
            matcher_revision=engine.matcher_revision
            if engine.loaded
            else plan.matcher.revision
            if plan.matcher
            else None,
            quantize=(engine.quantize if engine.loaded else None) or plan.quantize,
            prompt=(plan.captioner.prompt if engine.prompt is None else engine.prompt) or None,
            limits=Limits(
                allowed_folders=self._verbs.sources.described_folders(),
                urls=self.settings.allow_urls,
                formats=list(self.settings.formats),
                max_image_bytes=self.settings.max_image_bytes,
                max_data_bytes=min(self.settings.max_data_bytes, self.settings.max_image_bytes),
                max_pixels=self.settings.max_pixels,
                max_side=self.settings.max_side,
                deadline_s=self.settings.deadline_s,
            ),
            queue=status.queue(engine),
            cache=status.cache(engine),
            handles=self._store.known(10) if self._reveal_handles else [],
            cannot=status.cannot(),
            warnings=list(
                dict.fromkeys((*told, *self._verbs.sources.warnings, *engine.notes, *filter(None, [engine.uncompiled])))
            ),
        )


def _shut(
    engine: Engine, pools: Pools, decoding: decoder.Decoder, reader: Reader, shelves: Shelves, loop: LoopThread
) -> None:
    engine.close()
    pools.close()
    decoding.close()
    reader.close()
    shelves.close()
    loop.close()
