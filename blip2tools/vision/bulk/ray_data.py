"""The same on many machines, with Ray Data: a class for one's own pipelines, and what `blip2tools run --ray` does with it."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blip2tools.errors import ModelUnavailableError, VisionError
from blip2tools.vision.bulk import parts
from blip2tools.vision.bulk.inputs import is_address
from blip2tools.vision.bulk.running import check_model, looked_at
from blip2tools.vision.bulk.tasks import AT_ONCE, Row, Task, bulk_settings

if TYPE_CHECKING:
    from blip2tools.vision import Vision

MOST_BLOCKS: Final = 4096  # of a data set: Ray keeps a list of them


class Looker:
    """A callable class for `Dataset.map_batches`: batches of pictures in, tables of rows out.

    ```python
    pictures.map_batches(
        Looker,
        fn_constructor_kwargs={"verb": "caption", "settings": {"model": "opt-2.7b"}},
        batch_size=64,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=8),
        num_gpus=1,
    )
    ```

    The columns are those of `blip2tools.vision.bulk.tables.COLUMNS`. A picture that cannot be read is a line with its error.
    An actor that dies is replaced by Ray, and its batch is looked at again.

    Args:
        verb: `caption`, `ask`, `match` or `features`.
        options: of the verb, as for `Vision`; of `ask`, a list of `questions`.
        settings: as for `Vision.load`; the checkpoint must be on every node.
        source: the column with paths or addresses, which every node must reach.
        image: the column with the encoded pictures, if they are in the data set: then nothing is read, and `source` only names
            them.
        keep: further columns, which are repeated beside the picture's lines.
    """

    def __init__(
        self,
        verb: str,
        options: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        source: str = "source",
        image: str | None = None,
        keep: Sequence[str] = (),
    ) -> None:
        self._task = Task.of(verb, options)
        self._source = source
        self._image = image
        self._keep = tuple(keep)
        self._vision = _opened(self._task, settings or {})

    def __call__(self, batch: Any) -> Any:
        """The table of a batch, which is one too."""
        sources = batch.column(self._source).to_pylist()
        images = batch.column(self._image).to_pylist() if self._image else None
        found = self._vision.run(looked_at(self._vision, self._task, sources, images))
        table = parts.tables_of(self._task, found)
        if not self._keep:
            return table
        each = [place for place in range(len(sources)) for _ in range(table.num_rows // max(1, len(sources)))]
        for name in self._keep:
            table = table.append_column(name, batch.column(name).take(each))
        return table


class _RowLooker:
    """For `rows_on_ray`: the rows themselves, as JSON."""

    def __init__(self, task: Task, settings: Mapping[str, Any], folder: str) -> None:
        self._task = task
        self._folder = folder  # an actor's own working directory is another one
        self._vision = _opened(task, settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        named = [bytes(one).decode("utf-8", "surrogateescape") for one in batch["source"]]
        images = [one if is_address(one) else Path(self._folder, one) for one in named]
        found = self._vision.run(looked_at(self._vision, self._task, named, images))
        return {"rows": [json.dumps(rows) for rows in found]}


def rows_on_ray(task: Task, sources: Sequence[str], settings: Mapping[str, Any], actors: int) -> Iterator[list[Row]]:
    """The rows of each picture, in the order of the sources; Ray must be connected.

    Args:
        task: what is asked.
        sources: paths and addresses that every node reaches.
        settings: as for `Vision.load`.
        actors: how many processes look, with a GPU each where the cluster has any and the settings do not ask for the CPU.
    """
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it has a level of its own, set when it is imported
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    items: Iterable[dict[str, bytes]] = ({"source": one.encode("utf-8", "surrogateescape")} for one in sources)
    blocks = max(1, min(MOST_BLOCKS, -(-len(sources) // AT_ONCE)))
    gpus = 1 if settings.get("device", "auto") not in ("cpu", "mps") and ray.cluster_resources().get("GPU") else 0
    found = ray.data.from_items(list(items), override_num_blocks=blocks).map_batches(
        _RowLooker,
        fn_constructor_args=(task, dict(settings), str(Path.cwd())),
        batch_size=AT_ONCE,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
        num_gpus=gpus,
    )
    try:
        for batch in found.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
            for rows in batch["rows"]:
                yield json.loads(rows)
    except ray.exceptions.RayError as error:
        raise _told(error) from error
    finally:
        # A job that has failed keeps its actors, and what they hold, until the objects that know them are collected.
        del found
        gc.collect()


def _told(error: BaseException) -> VisionError:
    """What a failed job says: our own sentence, if it was one of ours."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, VisionError):
            return cause
        inner = getattr(cause, "cause", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    return ModelUnavailableError(
        f"Ray has ended the work ({type(error).__name__}); -v shows its log. The rows so far stay: the same command goes on."
    )


def _opened(task: Task, settings: Mapping[str, Any]) -> Vision:
    from blip2tools.vision import Vision

    vision = Vision.load(**bulk_settings(settings))
    check_model(vision, task)
    return vision
