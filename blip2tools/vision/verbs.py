"""The work of each verb: validate, look, ask the engine, build the result. One image, one deadline.

Everything here is asynchronous and private to `Vision`, which is its public interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, get_args

from blip2tools import call
from blip2tools.call import CALLER, CLOSED
from blip2tools.checkpoints.confidence import UNFAMILIAR, familiarity
from blip2tools.engine.line import Admission, Job
from blip2tools.engine.protocol import Engine
from blip2tools.engine.requests import (
    AnswerRequest,
    CaptionRequest,
    Extract,
    ExtractRequest,
    FeatureRequest,
    MatchRequest,
    Question,
    Request,
    Sight,
    TextFeatureRequest,
    TextScore,
    Utterance,
    WarmRequest,
)
from blip2tools.errors import (
    CancelledError,
    DeadlineError,
    InvalidInputError,
    ModelUnavailableError,
    TooLargeError,
    VisionError,
    forget_pictures,
)
from blip2tools.model.options import Generation
from blip2tools.pictures.decoder import Decoder
from blip2tools.pictures.pools import Pool, Pools
from blip2tools.pictures.reading.reader import Reader, check_installed
from blip2tools.pictures.sources import Sources
from blip2tools.pictures.store import Remembered, Store
from blip2tools.schemas import (
    AnswerResult,
    AnswersResult,
    AskArguments,
    CaptionArguments,
    CaptionResult,
    CompareArguments,
    CompareResult,
    FeatureArguments,
    ImageEmbeddings,
    ImageFeatures,
    ImageInfo,
    ImageResult,
    MatchArguments,
    MatchResult,
    MultimodalEmbeddings,
    ReadArguments,
    ReadResult,
    SurveyArguments,
    SurveyResult,
    TextEmbeddings,
    ThumbnailArguments,
    parse,
)
from blip2tools.settings import Settings
from blip2tools.vision import reading, results, surveying, together
from blip2tools.vision.asking import Asking, Query
from blip2tools.vision.keywords import ImageInput
from blip2tools.vision.looking import Looking, Part, Seen
from blip2tools.vision.loop import FORKED
from blip2tools.vision.styles import STYLES, CaptionStyle, Score

if TYPE_CHECKING:
    from blip2tools.index.library import Library
    from blip2tools.vision.indexing import Means
    from blip2tools.vision.relations import Relations

T = TypeVar("T")
OneResult = TypeVar("OneResult", bound=ImageResult)

LOAD_PATIENCE_S = 20.0  # how long a call waits for a model that is being loaded: clients give up after 30 to 60 s

LIST_AT_ONCE = 64  # pictures of one list in progress: enough to fill batches, few enough to leave the queue to others
# Of one call's requests to the engine: a survey or a search must not find the queue full of its own.
_GATE: ContextVar[asyncio.Semaphore | None] = ContextVar("blip2tools_gate", default=None)


class Verbs:
    """The verbs over one engine.

    Args:
        settings: limits, deadline and generation defaults.
        engine: answers requests.
        sources: what references may lead to.
        store: keeps the encoded bytes behind the handles.
        pools: threads that wait for files, addresses and decoders.
        decoder: decodes pictures in processes that can be killed.
        remembered: records which files the handles stand for.
        reader: reads text in a process that can be killed.
        closed: whether the owner has been closed.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        sources: Sources,
        store: Store,
        pools: Pools,
        decoder: Decoder,
        remembered: Remembered,
        reader: Reader,
        *,
        closed: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self._engine = engine
        self.sources = sources
        self._store = store
        self._pools = pools
        self._closed = closed
        self._owner = os.getpid()
        self._looking = Looking(settings, engine, store, decoder, pools, remembered)
        self._admission = Admission(settings.max_queue)
        self._reader = reader
        self._pools = pools
        self._asking = Asking(engine, self._ask_engine, self._doubting)

    def reading(self, sources: Sources) -> Self:
        """The same verbs, with the same queue, over other sources."""
        other = copy(self)
        other.sources = sources
        return other

    def apart(self, store: Store) -> Self:
        """The same verbs, with the same queue, over another store: what is seen through it is not known to this one."""
        other = copy(self)
        other._store, other._looking = store, self._looking.apart(store)
        return other

    async def looked_at_elsewhere(
        self, image: ImageInput, look: Callable[[bytes | memoryview], Awaitable[OneResult]]
    ) -> OneResult:
        """See `LendingVerbs`."""
        deadline = time.monotonic() + self.settings.deadline_s
        read = await self._within(deadline, self._looking.read(self.sources, image))
        with self._looking.judging(read):
            result = await look(read.data)
        self._looking.note(read)
        return result.model_copy(update={"image": result.image.model_copy(update={"source": read.label})})

    def means(self, library: Library) -> Means:
        """What indexing and searching need."""
        from blip2tools.vision.indexing import Means

        return Means(
            self.settings,
            self._looking,
            self._pools,
            self._ask_engine,
            self._ready,
            lambda: self._engine.status().loaded,
            library,
        )

    def relations(self) -> Relations:
        """What judges how things lie."""
        from blip2tools.vision.relations import Relations

        return Relations(lambda: self._engine.status().premises, self._ask_engine)

    async def _ready(self) -> None:
        """Wait for the model, however long it takes to load."""
        loading = asyncio.wrap_future(self._engine.submit(WarmRequest(), deadline=None, caller=CALLER.get()).future)
        while not loading.done():
            await call.wait(loading, lambda: self._engine.status().state, LOAD_PATIENCE_S)
        loading.result()

    def warnings(self) -> tuple[str, ...]:
        """What is to be said of the model with every result."""
        return self._engine.status().notes

    async def text_features(self, texts: Sequence[str], *, retrieval: bool = False) -> list[list[float]]:
        """See `Vision.text_features`; `retrieval` as in `MatchRequest`."""
        listed = texts if isinstance(texts, str) else list(texts)  # a string, a sequence of its letters, is refused
        arguments = parse(MatchArguments, {"image": "-", "texts": listed})

        async def verb(_: object, options: object, deadline: float) -> list[list[float]]:
            request = TextFeatureRequest(tuple(arguments.texts), retrieval)
            return self._matched(await self._ask_engine(request, deadline))

        return await self.admitted(verb, None, {})

    async def in_pool(self, pool: Pool, work: Callable[[], T]) -> T:
        """Run something that reads files, within one deadline."""

        async def verb(_: object, options: object, deadline: float) -> T:
            return await self._within(deadline, pool.run(work))

        return await self.admitted(verb, None, {})

    async def each(
        self, verb: Callable[[Any, dict[str, Any], float], Awaitable[T]], image: Any, options: dict[str, Any]
    ) -> T | list[T]:
        """Run a verb on one image, or on each of a list, within one deadline each.

        With `return_errors` among the options the list holds errors too.
        """
        return_errors = options.pop("return_errors", False)
        if not isinstance(image, list | tuple):
            return await self.admitted(verb, image, options)
        turn = CALLER.set(secrets.token_hex(8))  # a long list takes turns with single calls

        # Only our own errors may take a result's place; a fault in the code or a cancellation must be raised at once.
        async def outcome(one: Any) -> T | VisionError:
            try:
                return await self.admitted(verb, one, dict(options))
            except VisionError as error:
                return error

        try:
            at_once = max(1, min(LIST_AT_ONCE, self.settings.max_queue // 2))
            outcomes = await together.each(outcome, image, at_once=at_once)
        finally:
            CALLER.reset(turn)
        if not return_errors and (failed := [one for one in outcomes if isinstance(one, VisionError)]):
            raise failed[0]
        return cast("list[T]", outcomes)

    async def admitted(
        self, verb: Callable[[Any, dict[str, Any], float], Awaitable[T]], image: Any, options: dict[str, Any]
    ) -> T:
        if self._closed():
            raise CancelledError(CLOSED)
        if os.getpid() != self._owner:
            raise ModelUnavailableError(FORKED)
        with self._admission.one(), self.paced():
            try:
                return await verb(image, options, time.monotonic() + self.settings.deadline_s)
            except BaseException as error:
                forget_pictures(error)
                raise

    @contextlib.contextmanager
    def paced(self) -> Iterator[None]:
        """Inside, at most half of the queue is filled by what one call asks of the engine."""
        turn = _GATE.set(asyncio.Semaphore(max(1, self.settings.max_queue // 2)))
        try:
            yield
        finally:
            _GATE.reset(turn)

    async def caption(self, image: ImageInput, options: dict[str, Any], deadline: float) -> CaptionResult:
        style = _styled(options)
        settings = self._settings(options, "best_of", "abstain_below")
        named = options.get("prompt") is not None  # an empty prompt means none, not the style's or the checkpoint's
        arguments = parse(CaptionArguments, _plain_options(options))
        prompt = arguments.prompt or "" if named else style.prompt
        seen = await self._look(image, arguments.region, deadline)
        request = CaptionRequest(seen.sight, Generation.of(settings), prompt, arguments.num_captions)
        told = await self._captions(request, deadline)
        if settings.best_of > 1 and results.doubted(told):
            sampled = request.generation.model_copy(update={"do_sample": True})
            more = replace(request, generation=sampled, count=request.count * (settings.best_of - 1))
            told = results.best_first(told, await self._captions(more, deadline))[: request.count]
        plain = request.prompt is None and not settings.do_sample
        context = await self._doubting(seen, told[0] if plain else None, deadline)
        return results.caption(context, told, abstain_below=settings.abstain_below)

    async def _captions(self, request: CaptionRequest, deadline: float) -> list[results.Described]:
        spoken: list[Utterance] = await self._ask_engine(request, deadline)
        texts = tuple(dict.fromkeys(text for one in spoken if (text := results.clean(one.text))))
        # The matcher scores the captioner's own words, a check that the reference's maintainers advise (BLIP issue 61).
        found: list[TextScore] | None = None
        if texts:
            found = await self._ask_engine(MatchRequest(request.sight, texts), deadline)
        scores = dict(zip(texts, found or [], strict=found is not None))
        return [results.Described(one, scores.get(results.clean(one.text))) for one in spoken]

    async def utterance(self, image: ImageInput, options: dict[str, Any], deadline: float) -> Utterance:
        question = options.pop("question", None)
        settings = self._settings(options, "vqa_template")
        seen = await self._look(image, None, deadline)
        if question is None:
            told: list[Utterance] = await self._ask_engine(
                CaptionRequest(seen.sight, Generation.of(settings)), deadline
            )
            return told[0]
        arguments = parse(AskArguments, {"image": "-", "question": question})
        asked = Question(arguments.question, (), settings.vqa_template)
        answer: Utterance = await self._ask_engine(AnswerRequest(seen.sight, asked, Generation.of(settings)), deadline)
        return answer

    async def ask(self, image: ImageInput, options: dict[str, Any], deadline: float) -> AnswerResult:
        settings = self._settings(options, "abstain_below", "vqa_template")
        arguments = parse(AskArguments, _plain_options(options))
        seen = await self._look(image, arguments.region, deadline)
        question = Question(
            text=arguments.question,
            history=tuple((turn.question, turn.answer) for turn in arguments.history or ()),
            template=settings.vqa_template,
        )
        choices = tuple(dict.fromkeys(arguments.choices or ()))  # a duplicate would split its probability
        if len(choices) == 1:
            raise InvalidInputError("The argument 'choices' must have at least 2 different items.")
        query = Query(question, choices, Generation.of(settings), settings.abstain_below)
        return await self._asking.answer(seen, query, deadline)

    async def ask_each(self, images: Sequence[ImageInput], question: str, options: dict[str, Any]) -> AnswersResult:
        """See `Vision.ask_each`."""
        listed = images if isinstance(images, str) else list(images)  # a string, a sequence of its letters, is refused
        given = ["-" for _ in listed] if isinstance(listed, list) else listed
        parse(
            AskArguments, {**_plain_options(_of_tools(options)), "question": question, "image": None, "images": given}
        )
        outcomes = await self.each(self.ask, listed, {"question": question, **options, "return_errors": True})
        return results.answers(
            listed, cast("list[AnswerResult | VisionError]", outcomes), self._engine.status().model or ""
        )

    async def match(self, image: ImageInput, options: dict[str, Any], deadline: float) -> MatchResult:
        by: Score = options.pop("score", "itm")
        if by not in get_args(Score):
            raise InvalidInputError(f"The argument 'score' must be one of {', '.join(get_args(Score))}.")
        seen, texts, scores = await self._scored(image, options, deadline)
        return results.match(self._context(seen, matcher=True), texts, scores, by)

    async def score(self, image: ImageInput, options: dict[str, Any], deadline: float) -> list[TextScore]:
        """The scores of each text, in the order of the texts; `retrieval` as in `MatchRequest`."""
        return (await self._scored(image, options, deadline, retrieval=options.pop("retrieval", False)))[2]

    async def _scored(
        self, image: ImageInput, options: dict[str, Any], deadline: float, *, retrieval: bool = False
    ) -> tuple[Seen, list[str], list[TextScore]]:
        arguments = parse(MatchArguments, _plain_options(options))
        seen = await self._look(image, arguments.region, deadline)
        found = await self._ask_engine(MatchRequest(seen.sight, tuple(arguments.texts), retrieval), deadline)
        return seen, arguments.texts, self._matched(found)

    async def keep(self, image: ImageInput, options: dict[str, Any], deadline: float) -> ImageInfo:
        info = await self._within(deadline, self._looking.keep(self.sources, image))
        if self._store.get(info.handle) is None:
            raise TooLargeError(f"The picture is larger than the memory for pictures, {self.settings.store_mb} MiB.")
        return info

    async def thumbnail(self, image: ImageInput, options: dict[str, Any], deadline: float) -> bytes:
        arguments = parse(ThumbnailArguments, _plain_options(options))
        return await self._within(deadline, self._looking.thumbnail(self.sources, image, arguments.side))

    async def features(self, image: ImageInput, options: dict[str, Any], deadline: float) -> ImageFeatures:
        arguments = parse(FeatureArguments, _plain_options(options))
        seen = await self._look(image, arguments.region, deadline)
        vectors = self._matched(await self._ask_engine(FeatureRequest(seen.sight), deadline))
        return ImageFeatures(image=seen.info, region=seen.region, vectors=vectors)

    async def extract(
        self, image: ImageInput | None, options: dict[str, Any], deadline: float
    ) -> ImageEmbeddings | TextEmbeddings | MultimodalEmbeddings:
        text = options.pop("text", None)
        seen = None
        if text is not None:
            parse(MatchArguments, {"image": "-", "texts": [text]})
        if image is not None:
            arguments = parse(FeatureArguments, _plain_options(options))
            seen = await self._look(image, arguments.region, deadline)
        request = ExtractRequest(None if seen is None else seen.sight, text)
        found: Extract = self._matched(await self._ask_engine(request, deadline))
        return results.embeddings(None if seen is None else self._context(seen, matcher=True), found)

    async def survey(self, image: ImageInput, options: dict[str, Any], deadline: float) -> SurveyResult:
        generation = Generation.of(self._settings(options))
        arguments = parse(SurveyArguments, _plain_options(options))
        boxes = together.grid(arguments.rows, arguments.columns)
        seen = await self._look_at_parts(image, [None, *boxes], deadline)
        overall, *parts = await together.each(
            lambda one: self._describe(one.sight, generation, deadline), seen, what="captions:"
        )
        context = await self._doubting(seen[0], None if generation.do_sample else overall, deadline)
        rule, sights = self._engine.status().premises, [one.sight for one in seen]
        told = (overall, *parts)
        strange = [self._is_strange(one) for one in told]
        found = await surveying.checked(self._ask_engine, rule, sights, [one.text for one in told], strange, deadline)
        return results.survey(context, overall, boxes, parts, found)

    async def read(self, image: ImageInput, options: dict[str, Any], deadline: float) -> ReadResult:
        arguments = parse(ReadArguments, _plain_options(options))
        check_installed()  # before a picture is fetched or decoded
        region = arguments.region

        def read(part: Part) -> ReadResult:
            return reading.result(part, region, self._reader.read(part.pixels))

        work = self._looking.with_pixels(self.sources, image, region, read, self._pools.words)
        return await self._within(deadline, work)

    async def compare(self, images: Any, options: dict[str, Any], deadline: float) -> CompareResult:
        generation = Generation.of(self._settings(options))
        given = ["-" for _ in images] if isinstance(images, list | tuple) else images
        parse(CompareArguments, {"images": given, **options})
        seen = await together.each(lambda one: self._look(one, None, deadline), images)
        captions = await together.each(
            lambda one: self._describe(one.sight, generation, deadline), seen, what="captions:"
        )
        own = [None if generation.do_sample else caption for caption in captions]
        contexts = await together.each(lambda pair: self._doubting(*pair, deadline), zip(seen, own, strict=True))
        found = await together.each(lambda one: self._ask_engine(FeatureRequest(one.sight), deadline), seen)
        if any(vectors is None for vectors in found):
            return results.compare(contexts, captions, None, None)
        alike = [[together.similarity(one, other) for other in found] for one in found]
        # A caption without words cannot be matched.
        texts = tuple(dict.fromkeys(caption.text for caption in captions if caption.text))
        cross: list[list[TextScore | None]] = [[None] * len(seen) for _ in seen]
        if texts:
            fits = await together.each(lambda one: self._ask_engine(MatchRequest(one.sight, texts), deadline), seen)
            by_text = [dict(zip(texts, scores, strict=True)) for scores in fits]
            cross = [[scores.get(caption.text) for caption in captions] for scores in by_text]
        return results.compare(contexts, captions, alike, cross)

    async def _describe(self, sight: Sight, generation: Generation, deadline: float) -> results.Described:
        """One caption and its own match."""
        return (await self._captions(CaptionRequest(sight, generation), deadline))[0]

    def _matched(self, found: T | None) -> T:
        """The matcher's result; an error where there is no matcher."""
        if found is None:
            raise ModelUnavailableError(
                "There is no image-text matcher for this model. Use ask_image with choices ['yes', 'no'], "
                "or have the operator name a matcher in the settings."
            )
        return found

    def _context(self, seen: Seen, *, matcher: bool = False) -> results.Context:
        status = self._engine.status()
        model = status.matcher if matcher else status.model
        return results.Context(seen.info, seen.region, model or "", (*status.notes, *seen.warnings))

    async def _doubting(self, seen: Seen, own: results.Described | None, deadline: float) -> results.Context:
        """The context of a result, with a warning if the model does not know such pictures.

        Args:
            seen: what was looked at.
            own: the model's plain caption of it, if there is one; otherwise one is requested.
            deadline: of the call.
        """
        context = self._context(seen)
        if self._engine.status().familiar is None:
            return context
        own = own or await self._describe(seen.sight, Generation(num_beams=1), deadline)
        if not self._is_strange(own):
            return context
        drop = self._engine.status().premises.unfamiliar * -own.spoken.logprob
        return replace(context, warnings=(*context.warnings, UNFAMILIAR), drop=drop)

    def _is_strange(self, own: results.Described) -> bool:
        """Whether a picture with this plain caption does not look like the world of a small model; never of a large one."""
        threshold = self._engine.status().familiar
        if threshold is None or own.score is None:
            return False
        return familiarity(own.spoken.logprob, own.score.probability) < threshold

    def _settings(self, options: dict[str, Any], *more: str) -> Settings:
        """Remove from `options` what overrides settings (generation options and `more`); return the settings with it."""
        given = {name: options.pop(name) for name in (*Generation.model_fields, *more) if name in options}
        return Settings.check({**self.settings.model_dump(), **given}) if given else self.settings

    async def _look(self, image: ImageInput, region: Sequence[float] | None, deadline: float) -> Seen:
        """Bytes, picture and region of an image."""
        return (await self._look_at_parts(image, [region], deadline))[0]

    async def _look_at_parts(
        self, image: ImageInput, regions: Sequence[Sequence[float] | None], deadline: float
    ) -> list[Seen]:
        """Several regions of an image, which is read and decoded once."""

        async def ready() -> None:
            await self._ask_engine(WarmRequest(), deadline)

        self._engine.expect(1)
        try:
            return await self._within(deadline, self._looking.see(self.sources, image, regions, ready))
        finally:
            self._engine.expect(-1)

    async def _ask_engine(self, request: Request, deadline: float) -> Any:
        async with _GATE.get() or contextlib.nullcontext():
            return await self._asked(request, deadline)

    async def _asked(self, request: Request, deadline: float) -> Any:
        job = self._engine.submit(request, deadline=deadline, caller=CALLER.get())
        try:
            return await self._answer(job, deadline)
        except BaseException:
            job.cancel()  # cancelled or out of time: the row ends at its next token
            raise

    async def _answer(self, job: Job, deadline: float) -> Any:
        answer = asyncio.wrap_future(job.future)
        # A cancelled caller does not fetch the failure, and asyncio would report that on standard error.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        if not self._engine.targets() and not self._engine.status().loaded:  # a status takes longer
            patience = min(LOAD_PATIENCE_S, deadline - time.monotonic())
            await call.wait(answer, lambda: self._engine.status().state, patience)
            status = self._engine.status()
            if not answer.done() and status.loading:
                answer.cancel()
                raise ModelUnavailableError(f"The model is not ready yet: {status.state}. Call again in a minute.")
        return await self._within(deadline, answer)

    async def _within(self, deadline: float, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await work
        except TimeoutError as error:
            raise DeadlineError(f"The call took longer than {self.settings.deadline_s:g} s and was stopped.") from error


def _styled(options: dict[str, Any]) -> CaptionStyle:
    """Take the style out of `options` and put its generation options where the caller gave none."""
    name = options.pop("style", "plain")
    if name not in STYLES:
        raise InvalidInputError(f"The argument 'style' must be one of {', '.join(STYLES)}.")
    style = STYLES[name]
    for option, value in style.options.items():
        options.setdefault(option, value)
    return style


def _plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of a Python caller in the form of the tools' schemas: arrays for sequences, objects for turns."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    if isinstance(plain.get("history"), list):
        plain["history"] = [
            {"question": turn[0], "answer": turn[1]} if isinstance(turn, tuple | list) and len(turn) == 2 else turn
            for turn in plain["history"]
        ]
    return {"image": "-", **plain}


def _of_tools(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a question that a tool also takes."""
    return {name: options[name] for name in ("choices", "history", "region") if name in options}
