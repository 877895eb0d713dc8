"""Search measured: `python -m benchmarks.search NAME`.

index     indexing drawn pictures, against a loop over stock `Blip2ForImageTextRetrieval`
rescan    a second run over many unchanged files
query     a query on many pictures, against faiss's exact flat scan in 16 bits
scenes    queries about exactly one of 300 scenes, about none of them, and about wrong relations
kills     an index that was killed again and again, against one that was not

Time is CPU time of this process and of its children, in which other load on the machine does not count.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from blip2tools.demo.statements import Statement
    from blip2tools.demo.world import Scene
    from blip2tools.vision import Vision

SEED = 2026
OWN_SEED = 77


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(prog="benchmarks.search", description=__doc__)
    parser.add_argument("name", choices=["index", "rescan", "query", "scenes", "kills"])
    parser.add_argument("--pictures", type=int, metavar="N", help="how many (2,000, 100,000, 100,000, 300, 300)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="timed rounds (default 3); of kills 20")
    parser.add_argument("--queries", type=int, default=200, metavar="N", help="of each kind (default 200)")
    parser.add_argument("--own", action="store_true", help="query: the demo matcher's rows instead of made ones")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="query: where the rows are made, and left")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    {"index": _index, "rescan": _rescan, "query": _query, "scenes": _scenes, "kills": _kills}[arguments.name](arguments)


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _run(command: Sequence[str], environment: dict[str, str], *, quiet: bool = False) -> None:
    output = subprocess.DEVNULL if quiet else None
    done = subprocess.run(command, env=environment, stdout=output, check=False)  # noqa: S603  a command of ours
    if done.returncode:
        raise SystemExit(f"the command ended with {done.returncode}")


def spent() -> float:
    """CPU seconds of this process and its living and ended children."""
    own = psutil.Process()
    times = [own.cpu_times(), *(child.cpu_times() for child in own.children(recursive=True))]
    return sum(one.user + one.system for one in times) + times[0].children_user + times[0].children_system


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder, which is the cache folder, too."""
    with tempfile.TemporaryDirectory(prefix="blip2tools-search-") as name:
        yield Path(name)


def draw_scenes(folder: Path, number: int, *, side: int = 160, distinct: bool = False) -> list[Scene]:
    """Draw scenes as `0.png`, `1.png`, ...; with different captions if they are to be distinct."""
    from blip2tools.demo.draw import draw
    from blip2tools.demo.words import caption
    from blip2tools.demo.world import sample_scene

    chance = random.Random(SEED)
    scenes: list[Scene] = []
    said: set[str] = set()
    folder.mkdir(parents=True, exist_ok=True)
    while len(scenes) < number:
        scene = sample_scene(chance)
        if distinct and caption(scene) in said:
            continue
        said.add(caption(scene))
        draw(scene, side, smoothing=1).save(folder / f"{len(scenes)}.png")
        scenes.append(scene)
    return scenes


def eyes(cache: Path) -> Vision:
    """The demo, with an empty cache folder."""
    from blip2tools import Vision

    return Vision.load(model="demo", cache_dir=cache, self_test=False, keep_answers=0)


# ---- index ----


def _index(arguments: argparse.Namespace) -> None:
    with scratch() as place:
        draw_scenes(place / "pictures", arguments.pictures or 2000)
        stock = _stock(place / "pictures")
        ratios = []
        for number in range(arguments.rounds):
            theirs = _timed(stock)
            with eyes(place / f"cache-{number}") as vision:
                ours = _timed(lambda vision=vision: vision.index(place / "pictures"))  # type: ignore[misc]
            ratios.append(theirs / ours)
            _tell(f"stock {theirs:.2f} s, index {ours:.2f} s: {ratios[-1]:.2f}")
        _tell(f"median {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


def _stock(folder: Path) -> Callable[[], None]:
    """The loop that anybody would write first."""
    import torch
    from PIL import Image
    from transformers import Blip2ForImageTextRetrieval, Blip2Processor

    import blip2tools.demo

    weights = Path(blip2tools.demo.__file__).parent / "matcher"
    model: Any = Blip2ForImageTextRetrieval.from_pretrained(weights, dtype=torch.float32)
    model.eval()
    processor = Blip2Processor.from_pretrained(weights)

    def run() -> None:
        with torch.inference_mode():
            for path in sorted(folder.iterdir()):
                inputs = processor(images=Image.open(path).convert("RGB"), text="a star", return_tensors="pt")
                model(**inputs, use_image_text_matching_head=False).image_embeds.half().numpy()

    return run


def _timed(work: Callable[[], Any]) -> float:
    before = spent()
    work()
    return spent() - before


# ---- rescan ----


def _rescan(arguments: argparse.Namespace) -> None:
    number = arguments.pictures or 100_000
    with scratch() as place:
        draw_scenes(place / "drawn", 50, side=64)
        drawn = [path.read_bytes() for path in sorted((place / "drawn").iterdir())]
        for place_ in range(number):  # copies: their features are computed once
            folder = place / "pictures" / f"{place_ // 500:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{place_}.png").write_bytes(drawn[place_ % len(drawn)])
        command = [sys.executable, "-m", "blip2tools", "index", str(place / "pictures"), "--model", "demo"]
        environment = {**os.environ, "BLIP2TOOLS_CACHE_DIR": str(place / "cache")}
        first = _timed(lambda: _run(command, environment))
        (place / "empty").mkdir()
        nothing = [*command[:4], str(place / "empty"), *command[5:]]
        _run(nothing, environment, quiet=True)
        for _ in range(arguments.rounds):
            again = _timed(lambda: _run(command, environment))
            start = _timed(lambda: _run(nothing, environment, quiet=True))
            _tell(f"first {first:.1f} s; again {again:.2f} s, of which to start {start:.2f} s: {again - start:.2f} s")


# ---- query ----


def _query(arguments: argparse.Namespace) -> None:
    import numpy as np

    from blip2tools.index import nearest, passes
    from blip2tools.index.rows import Rows
    from blip2tools.index.shelf import SPARE
    from blip2tools.vision.finding import SHORTLIST

    number = arguments.pictures or 100_000
    place = arguments.keep or Path(tempfile.mkdtemp(prefix="blip2tools-query-"))
    place.mkdir(parents=True, exist_ok=True)
    shape = (8, 64) if arguments.own else (32, 256)
    file = place / f"rows-{'own' if arguments.own else 'made'}.f16"
    if not file.exists():
        (_own_rows if arguments.own else _made_rows)(file, number)
    rows = Rows(file, shape)
    vectors = np.load(file.with_suffix(".npy"))[: arguments.queries]
    truth = _truth(rows, number, vectors)
    before = _resident()
    took = time.process_time()
    fact = passes.build(place, rows, number, 1, lambda done: None)
    _tell(f"built in {time.process_time() - took:.1f} s of CPU time")
    quick = passes.Passes(place, shape[1]).at(fact)
    if quick is None:
        raise SystemExit("the pass that was just built cannot be opened")
    _tell(f"with faiss: {quick.has_groups}; memory beyond the maps: {_resident() - before:.0f} MB")
    flat = _flat(rows, number)

    def ours(vector: Any) -> Any:
        slots = np.sort(quick.of_text(vector, SPARE * SHORTLIST))
        return slots[nearest.best(nearest.text_scores(rows, slots, vector), 10)]

    def theirs(vector: Any) -> Any:
        found = flat.search(vector[None], 10 * shape[0])[1][0] // shape[0]
        return list(dict.fromkeys(found.tolist()))[:10]

    ways = {"ours": ours, "flat": theirs} if flat is not None else {"ours": ours}
    times: dict[str, list[float]] = {name: [] for name in ways}
    hits = dict.fromkeys(ways, 0)
    for place_, vector in enumerate(vectors):
        for name, way in ways.items():
            if name == "flat" and place_ >= 30:
                continue  # it is exact, and takes its time
            took = time.process_time()
            found = way(vector)
            times[name].append(time.process_time() - took)
            hits[name] += len(set(map(int, found)) & truth[place_])
    for name, taken in times.items():
        recall = hits[name] / (10 * len(taken))
        _tell(f"{name}: {1e3 * statistics.median(taken):.2f} ms, recall@10 {recall:.4f}")
    if flat is not None:
        _tell(f"{statistics.median(times['flat']) / statistics.median(times['ours']):.1f} times as fast")
    passes.clean(place, None)
    if arguments.keep is None:
        shutil.rmtree(place)


def _resident() -> float:
    """Memory of this process that no file stands behind, MB (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("Anonymous:"))) * 1024 / 1e6


def _flat(rows: Any, number: int) -> Any:
    import numpy as np

    from blip2tools.index import passes

    faiss = passes.scanner()
    if faiss is None:
        return None
    faiss.omp_set_num_threads(1)
    flat = faiss.IndexScalarQuantizer(rows.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for first in range(0, number, 2000):
        flat.add(rows.exact(np.arange(first, min(number, first + 2000))).reshape(-1, rows.shape[1]))
    return flat


def _truth(rows: Any, number: int, vectors: Any) -> list[set[int]]:
    import numpy as np

    best = np.empty((len(vectors), number), np.float32)
    for first in range(0, number, 500):
        seen = rows.exact(np.arange(first, min(number, first + 500)))
        scores = vectors @ seen.reshape(-1, rows.shape[1]).T
        best[:, first : first + 500] = scores.reshape(len(vectors), len(seen), -1).max(axis=2)
    return [set(np.argsort(-row, kind="stable")[:10].tolist()) for row in best]


def _made_rows(file: Path, number: int) -> None:
    """Pictures around 2,000 topics, their rows around the pictures; queries are rows with noise."""
    import numpy as np

    def unit(vectors: Any) -> Any:
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    chance = np.random.default_rng(SEED)
    topics = unit(chance.standard_normal((2000, 256), np.float32))
    sampled = []
    with file.open("wb") as out:
        for _ in range(0, number, 1000):
            own = topics[chance.integers(0, 2000, 1000)]
            centres = unit(own + chance.standard_normal((1000, 256), np.float32) / 16)
            spread = chance.uniform(0.33, 1, (1000, 1, 1)).astype(np.float32)
            noise = chance.standard_normal((1000, 32, 256), np.float32) / 16
            rows = unit(centres[:, None] + spread * noise).astype(np.float16)
            out.write(rows.tobytes())
            sampled += [rows[place, place % 32].astype(np.float32) for place in chance.integers(0, 1000, 4)]
    vectors = np.stack(sampled) + chance.standard_normal((len(sampled), 256), np.float32) / 16
    np.save(file.with_suffix(".npy"), unit(vectors).astype(np.float32))


def _own_rows(file: Path, number: int) -> None:
    """What the demo's matcher makes of drawn scenes, and of each mirrored, turned over, and both; queries are captions."""
    import numpy as np
    import torch

    from blip2tools.checkpoints import selftest
    from blip2tools.demo.draw import draw
    from blip2tools.demo.statements import true_statement
    from blip2tools.demo.words import caption
    from blip2tools.demo.world import sample_scene
    from blip2tools.settings import Settings

    loaded = selftest.load(Settings.load(model="demo"), lambda *_: None, download=False)
    matcher: Any = loaded.matcher
    pixels: Any = loaded.matcher_pixels
    words: Any = loaded.matcher_words
    chance, texts = random.Random(OWN_SEED), []
    with file.open("wb") as out, torch.inference_mode():
        for first in range(0, number, 32):
            scenes = [sample_scene(chance) for _ in range(8)]
            if first % 320 == 0:
                texts += [caption(scenes[0]), true_statement(scenes[1], chance).text]
            seen = torch.cat([pixels(draw(scene, 80, smoothing=1)) for scene in scenes])
            for one in (seen, seen.flip(3), seen.flip(2), seen.flip((2, 3))):
                out.write(matcher.image_features(matcher.trunk.see(one)).half().numpy().tobytes())
        np.save(file.with_suffix(".npy"), matcher.text_features([words(text).ids for text in texts[:300]]).numpy())


# ---- scenes ----


def _scenes(arguments: argparse.Namespace) -> None:
    from blip2tools.demo import statements

    with scratch() as place, eyes(place / "cache") as vision:
        scenes = draw_scenes(place / "pictures", arguments.pictures or 300, distinct=True)
        vision.index(place / "pictures")
        chance = random.Random(SEED)
        about_one, near, flipped = _statements(scenes, arguments.queries, chance, statements)
        first = refused = 0
        for number, said in about_one:
            found = vision.search(said.text, place / "pictures", 3)
            right = bool(found.hits) and Path(found.hits[0].path).name == f"{number}.png" and found.hits[0].fits
            first += right
            if not right:
                _tell(f"  missed: {said.text!r} is {number}: {found.text_block()}")
        _tell(f"about exactly one: recall@1 {first / len(about_one):.3f} of {len(about_one)}")
        for said in near:
            found = vision.search(said.text, place / "pictures", 1)
            refused += found.none_fits
            if not found.none_fits:
                _tell(f"  not refused: {said.text!r}: {found.hits[0].path}")
        _tell(f"about none: refused {refused / len(near):.3f} of {len(near)}")
        told = sum(vision.search(said.text, place / "pictures", 1).none_fits for said in flipped)
        _tell(f"wrong relations: refused {told / len(flipped):.3f} of {len(flipped)}")


def _statements(
    scenes: Sequence[Scene], number: int, chance: random.Random, statements: Any
) -> tuple[list[tuple[int, Statement]], list[Statement], list[Statement]]:
    """Statements that are true of exactly one scene, and of none: by one colour or shape, and by how things lie."""
    about_one: list[tuple[int, Statement]] = []
    near: list[Statement] = []
    flipped: list[Statement] = []
    kinds = ("caption", "two", "relation", "one")
    while min(len(about_one), len(near), 2 * len(flipped)) < number:
        place = chance.randrange(len(scenes))
        kind = chance.choice(kinds)
        if kind in ("two", "relation") and len(scenes[place].things) < 2:
            continue
        said = statements.true_statement(scenes[place], chance, kind)
        if [scene for scene in scenes if said.truth(scene) is not False] == [scenes[place]]:
            about_one.append((place, said))
        edits = [(near, chance.choice(("color", "shape")))] + ([(flipped, "relation")] if kind == "relation" else [])
        for kept, edit in edits:
            false = statements.falsify(said, scenes[place], chance, edit)
            if false is not None and all(false[0].truth(scene) is False for scene in scenes):
                kept.append(false[0])
    return about_one[:number], near[:number], flipped[: number // 2]


# ---- kills ----


def _kills(arguments: argparse.Namespace) -> None:
    rounds = max(20, arguments.rounds)
    with scratch() as place:
        draw_scenes(place / "pictures", arguments.pictures or 300, side=64)
        command = [sys.executable, "-m", "blip2tools", "index", str(place / "pictures"), "--model", "demo"]

        def environment(name: str) -> dict[str, str]:
            return {**os.environ, "BLIP2TOOLS_CACHE_DIR": str(place / name), "OMP_NUM_THREADS": "1"}

        began = time.monotonic()
        _run(command, environment("calm"))
        whole = time.monotonic() - began
        chance = random.Random(SEED)
        for number in range(rounds):
            process = subprocess.Popen(command, env=environment("killed"), stdout=subprocess.DEVNULL)  # noqa: S603
            time.sleep(chance.uniform(0.6, 1.0) * whole if number % 2 else chance.uniform(0.0, 1.0) * whole)
            process.send_signal(signal.SIGKILL)
            process.wait()
            _tell(f"killed {number + 1} times: {_state(place / 'killed')[0]} pictures")
        _run(command, environment("killed"))
        calm, killed = _contents(place / "calm"), _contents(place / "killed")
        _tell(f"files equal: {calm.keys() == killed.keys()}; slots doubled: {_state(place / 'killed')[1]}")
        _tell(f"largest difference of a feature: {max(abs(calm[name] - killed[name]).max() for name in calm):.4f}")


def _state(cache: Path) -> tuple[int, int]:
    found = list(cache.glob("index/*/catalogue.sqlite"))
    if not found:
        return 0, 0
    base = sqlite3.connect(found[0])
    try:
        (files,) = base.execute("SELECT count(*) FROM files WHERE slot IS NOT NULL").fetchone()
        (contents, distinct) = base.execute("SELECT count(slot), count(DISTINCT digest) FROM contents").fetchone()
    except sqlite3.OperationalError:
        return 0, 0
    finally:
        base.close()
    return files, contents - distinct


def _contents(cache: Path) -> dict[bytes, Any]:
    import numpy as np

    (base,) = cache.glob("index/*/catalogue.sqlite")
    rows = np.fromfile(next(base.parent.glob("rows-*.f16")), np.float16).reshape(-1, 8, 64).astype(np.float32)
    connection = sqlite3.connect(base)
    found = {name: rows[slot] for name, slot in connection.execute("SELECT name, slot FROM files")}
    connection.close()
    return found


if __name__ == "__main__":
    main()
