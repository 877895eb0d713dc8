"""Places for rows of numbers that documents are found by: one or several rows for each, of which the best counts (MaxSim).

One small interface, three ways: in memory, in LanceDB's files, and on a Qdrant server. LanceDB is searched without an index of
its own, row by row: its IVF indexes of several vectors miss most of the nearest, and give other distances.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from blip2tools.errors import InvalidInputError, ModelUnavailableError
from blip2tools.index.nearest import best
from blip2tools.index.rows import Singles

RowsOf = Sequence[Sequence[float]]
"""The vectors of one document."""

_NAMES: Final = uuid.UUID("8c5b34a1-6a0e-4c4a-9f0e-0a3f6f1f7b55")  # under which Qdrant's point ids are made


@dataclass(frozen=True, slots=True)
class Stored:
    """A document that was found, and the cosine of its best row with what was looked for."""

    name: str
    content: dict[str, Any]
    score: float = 0.0


class RowStore(Protocol):
    """Keeps documents with their rows."""

    def put(self, names: Sequence[str], rows: Sequence[RowsOf], contents: Sequence[dict[str, Any]]) -> None:
        """Add documents, or replace those of the same name. Contents are what JSON can hold."""
        ...

    def get(self, names: Sequence[str]) -> list[Stored]:
        """Those documents that are there, in the order of the names."""
        ...

    def delete(self, names: Sequence[str] | None) -> None:
        """Drop documents, or all of them. Unknown names are ignored."""
        ...

    def nearest(self, vector: Sequence[float], count: int) -> list[Stored]:
        """The documents with the rows nearest to a vector, nearest first."""
        ...


class MemoryStore:
    """A store in this process; exact."""

    def __init__(self) -> None:
        self._documents: dict[str, tuple[Singles, dict[str, Any]]] = {}
        self._all: tuple[Singles, list[int]] | None = None

    def put(self, names: Sequence[str], rows: Sequence[RowsOf], contents: Sequence[dict[str, Any]]) -> None:
        """See `RowStore`."""
        for name, own, content in zip(names, rows, contents, strict=True):
            self._documents[name] = _unit(own), content
        self._all = None

    def get(self, names: Sequence[str]) -> list[Stored]:
        """See `RowStore`."""
        return [Stored(name, self._documents[name][1]) for name in names if name in self._documents]

    def delete(self, names: Sequence[str] | None) -> None:
        """See `RowStore`."""
        for name in list(self._documents) if names is None else names:
            self._documents.pop(name, None)
        self._all = None

    def nearest(self, vector: Sequence[float], count: int) -> list[Stored]:
        """See `RowStore`."""
        if not self._documents:
            return []
        if self._all is None:
            every = [rows for rows, _ in self._documents.values()]
            starts = np.cumsum([0, *(len(rows) for rows in every[:-1])])
            self._all = np.concatenate(every), starts.tolist()
        rows, first = self._all
        scores = np.maximum.reduceat(rows @ _unit([vector])[0], first)
        names = list(self._documents)
        return [
            Stored(names[place], self._documents[names[place]][1], float(scores[place]))
            for place in best(scores, count)
        ]


class LanceStore:
    """A store in the files of a LanceDB (the extra `search`); exact.

    Args:
        uri: a folder, or another address that LanceDB takes.
        name: of the two tables.

    Raises:
        ModelUnavailableError: the extra is not installed.
    """

    def __init__(self, uri: str, name: str = "blip2tools") -> None:
        self._lance = _module("lancedb")
        self._base = self._lance.connect(uri)
        self._rows, self._documents = f"{name}_rows", f"{name}_documents"

    def put(self, names: Sequence[str], rows: Sequence[RowsOf], contents: Sequence[dict[str, Any]]) -> None:
        """See `RowStore`."""
        if not names:
            return
        documents = dict(zip(names, zip(rows, contents, strict=True), strict=True))  # the last of a name counts
        self.delete(list(documents))
        self._add(
            self._rows,
            [{"name": name, "vector": row.tolist()} for name, (own, _) in documents.items() for row in _unit(own)],
        )
        self._add(
            self._documents,
            [
                {"name": name, "content": json.dumps(content), "rows": len(own)}
                for name, (own, content) in documents.items()
            ],
        )

    def get(self, names: Sequence[str]) -> list[Stored]:
        """See `RowStore`."""
        table = self._table(self._documents)
        if table is None or not names:
            return []
        found = {
            one["name"]: json.loads(one["content"])
            for one in table.search().where(_among(names)).limit(len(names)).to_list()
        }
        return [Stored(name, found[name]) for name in names if name in found]

    def delete(self, names: Sequence[str] | None) -> None:
        """See `RowStore`."""
        for kept in (self._rows, self._documents):
            table = self._table(kept)
            if table is not None and names is None:
                self._base.drop_table(kept)
            elif table is not None and names:
                table.delete(_among(names))

    def nearest(self, vector: Sequence[float], count: int) -> list[Stored]:
        """See `RowStore`."""
        rows, documents = self._table(self._rows), self._table(self._documents)
        if rows is None or documents is None:
            return []
        total = rows.count_rows()
        most = max((one["rows"] for one in documents.search().select(["rows"]).limit(total).to_list()), default=1)
        wanted = min(total, count * most)  # one document's rows may fill the list
        found = (
            rows.search(_unit([vector])[0].tolist()).distance_type("cosine").select(["name", "_distance"]).limit(wanted)
        )
        scores: dict[str, float] = {}
        for one in found.to_list():
            scores.setdefault(one["name"], 1.0 - one["_distance"])
        near = sorted(scores, key=lambda name: -scores[name])[:count]
        return [Stored(one.name, one.content, scores[one.name]) for one in self.get(near)]

    def _add(self, name: str, items: list[dict[str, Any]]) -> None:
        table = self._table(name)
        if table is None:
            self._base.create_table(name, data=items)
        else:
            table.add(items)

    def _table(self, name: str) -> Any:
        try:
            return self._base.open_table(name)
        except (ValueError, FileNotFoundError):  # there is none; a list of names comes in pages
            return None


class QdrantStore:
    """A store on a Qdrant server (the extra `search`), which searches several vectors a document itself.

    Args:
        client: a `qdrant_client.QdrantClient`, or the server's address.
        name: of the collection.

    Raises:
        ModelUnavailableError: the extra is not installed.
    """

    def __init__(self, client: Any, name: str = "blip2tools") -> None:
        self._qdrant = _module("qdrant_client")
        self._client = self._qdrant.QdrantClient(url=client) if isinstance(client, str) else client
        self._name = name

    def put(self, names: Sequence[str], rows: Sequence[RowsOf], contents: Sequence[dict[str, Any]]) -> None:
        """See `RowStore`."""
        models = self._qdrant.models
        points = [
            models.PointStruct(id=_point(name), vector=_unit(own).tolist(), payload={"name": name, "content": content})
            for name, own, content in zip(names, rows, contents, strict=True)
        ]
        if not points:
            return
        if not self._is_there():
            several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
            size = len(points[0].vector[0])
            how = models.VectorParams(size=size, distance=models.Distance.COSINE, multivector_config=several)
            self._client.create_collection(self._name, vectors_config=how)
        self._client.upsert(self._name, points=points, wait=True)

    def get(self, names: Sequence[str]) -> list[Stored]:
        """See `RowStore`."""
        if not self._is_there():
            return []
        found = self._client.retrieve(self._name, ids=[_point(name) for name in names], with_payload=True)
        contents = {one.payload["name"]: one.payload["content"] for one in found}
        return [Stored(name, contents[name]) for name in names if name in contents]

    def delete(self, names: Sequence[str] | None) -> None:
        """See `RowStore`."""
        if not self._is_there():
            return
        if names is None:
            self._client.delete_collection(self._name)
        elif names:
            chosen = self._qdrant.models.PointIdsList(points=[_point(name) for name in names])
            self._client.delete(self._name, points_selector=chosen, wait=True)

    def nearest(self, vector: Sequence[float], count: int) -> list[Stored]:
        """See `RowStore`."""
        if not self._is_there():
            return []
        query = [_unit([vector])[0].tolist()]
        found = self._client.query_points(self._name, query=query, limit=count, with_payload=True).points
        return [Stored(one.payload["name"], one.payload["content"], float(one.score)) for one in found]

    def _is_there(self) -> bool:
        return bool(self._client.collection_exists(self._name))


def _unit(rows: RowsOf) -> Singles:
    """Rows at length 1, as ITC's are anyway."""
    values = np.asarray(rows, np.float32)
    if values.ndim != 2 or not values.size:
        raise InvalidInputError("A document needs at least one vector, and all of one length.")
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths == 0, 1, lengths), np.float32)


def _point(name: str) -> str:
    return str(uuid.uuid5(_NAMES, name))


def _among(names: Sequence[str]) -> str:
    """A condition of SQL; quotes in names are doubled."""
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    return f"name IN ({quoted})"


def _module(name: str) -> Any:
    try:
        if name == "lancedb":
            import lancedb

            return lancedb
        import qdrant_client
    except ImportError as error:
        raise ModelUnavailableError("This store needs an extra: pip install 'blip2tools[search]'") from error
    return qdrant_client
