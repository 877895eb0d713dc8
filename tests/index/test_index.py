"""An index on disk, without a model: what is walked, written, killed, read meanwhile, and found."""

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from blip2tools.errors import BusyError, InvalidInputError
from blip2tools.index import nearest, passes
from blip2tools.index.library import Library
from blip2tools.index.rows import Rows, singles
from blip2tools.index.walk import Walk
from blip2tools.index.writing import Looked

SHAPE = (4, 8)
PNG = b"\x89PNG\r\n\x1a\n"


def features(number):
    rows = np.random.default_rng(number).standard_normal(SHAPE).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def walk(folder, **options):
    return Walk(folder, lambda real: True, lambda real: real.is_relative_to(folder.parent), **options)


def looked_at(entry, content):
    return Looked(entry, content.to_bytes(32, "big"), features(content))


@pytest.fixture
def library(tmp_path):
    opened = Library(tmp_path / "cache")
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path):
    place = (tmp_path / "pictures").resolve()
    (place / "below").mkdir(parents=True)
    for number in range(6):
        (place / ("below" if number % 2 else ".") / f"{number}.png").write_bytes(PNG + bytes([number]))
    return place


def run(library, folder, *, matcher="m", fingerprint="f" * 16):
    """One whole run; the names of what was looked at, and how many can be found."""
    seen = []
    with library.writer(folder, "rules") as writer:
        changes = writer.changes(walk(folder))
        if changes.new:
            writer.begin(matcher, fingerprint, SHAPE)
        for entry in changes.new:
            content = (folder / os.fsdecode(entry.name)).read_bytes()[-1]
            known = writer.is_known(content.to_bytes(32, "big"))
            seen += [] if known else [os.fsdecode(entry.name)]
            writer.put([Looked(entry, content.to_bytes(32, "big")) if known else looked_at(entry, content)])
        return seen, writer.finish(changes.gone, lambda done, total: None)


def found(library, folder, number, count=1):
    part = library.about(folder)
    near = part.shelf.nearest(features(number)[1], count, part.below)
    names = part.shelf.names_of([one.slot for one in near], part.below)
    return [os.fsdecode(names[one.slot][0]) for one in near if one.slot in names], near[0].score


def test_numbers_of_16_bits_are_read_exactly():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert np.array_equal(singles(finite), finite.astype(np.float32))


def test_what_is_new_is_looked_at_once(library, folder):
    assert run(library, folder) == ([f"{n}.png" if n % 2 == 0 else f"below/{n}.png" for n in (0, 2, 4, 1, 3, 5)], 6)
    assert run(library, folder) == ([], 6)
    assert found(library, folder, 3) == (["below/3.png"], pytest.approx(1, abs=2e-3))
    (folder / "4.png").write_bytes(PNG + b"later" + bytes([9]))
    assert run(library, folder) == (["4.png"], 6)
    assert found(library, folder, 9)[0] == ["4.png"]
    assert found(library, folder, 4)[1] < 0.99


def test_a_new_name_costs_no_look_and_what_has_gone_leaves(library, folder):
    run(library, folder)
    (folder / "below").rename(folder / "elsewhere")
    (folder / "0.png").rename(folder / "zero.png")
    (folder / "2.png").unlink()
    assert run(library, folder) == ([], 5)
    assert found(library, folder, 3)[0] == ["elsewhere/3.png"]
    assert found(library, folder, 0)[0] == ["zero.png"]
    assert found(library, folder, 2)[1] < 0.99
    (folder / "6.png").write_bytes(PNG + bytes([6]))
    run(library, folder)  # in the slot that was freed
    rows = next(library.place_of(folder).glob("rows-*.f16"))
    assert rows.stat().st_size == 6 * SHAPE[0] * SHAPE[1] * 2
    assert found(library, folder, 6)[0] == ["6.png"]


def test_copies_share_their_features(library, folder):
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    seen, number = run(library, folder)
    assert (len(seen), number) == (6, 7)
    base = sqlite3.connect(library.place_of(folder) / "catalogue.sqlite")
    assert base.execute("SELECT count(*), count(DISTINCT digest) FROM contents").fetchone() == (6, 6)
    base.close()


def test_a_folder_in_an_indexed_one_is_searched_alone(library, folder):
    run(library, folder)
    part = library.about(folder / "below")
    assert (part.below, part.shelf.count(part.below), part.shelf.count()) == (b"below/", 3, 6)
    names, _ = found(library, folder / "below", 0, 6)
    assert sorted(names) == ["below/1.png", "below/3.png", "below/5.png"]
    assert library.about(folder.parent) is None
    assert [shelf.made.folder for shelf in library.inside(folder.parent)] == [folder]


def test_one_writes_and_others_read(library, folder):
    run(library, folder)
    (folder / "new.png").write_bytes(PNG + bytes([7]))
    with library.writer(folder, "rules") as writer:
        with pytest.raises(BusyError):
            library.writer(folder, "rules")
        changes = writer.changes(walk(folder))
        writer.begin("m", "f" * 16, SHAPE)
        assert found(library, folder, 3)[0] == ["below/3.png"]
        writer.put([looked_at(changes.new[0], 7)])
        assert found(library, folder, 7)[0] == ["new.png"]  # as soon as it is written
    with library.writer(folder, "rules"):
        pass


def test_another_matcher_is_refused(library, folder):
    run(library, folder)
    with library.writer(folder, "rules") as writer:
        with pytest.raises(InvalidInputError, match=r"made by another matcher \(m, weights f{16}"):
            writer.begin("other", "0" * 16, (2, 2))
        writer.clear()
        writer.begin("other", "0" * 16, (2, 2))
    assert library.about(folder).shelf.made.matcher == "other"
    assert len(list(library.place_of(folder).glob("rows-*.f16"))) == 0  # of the first; the second has none yet


def test_what_failed_is_tried_again_when_that_may_help(library, folder):
    def failing(rules, **options):
        with library.writer(folder, rules) as writer:
            changes = writer.changes(walk(folder))
            writer.begin("m", "f" * 16, SHAPE)
            writer.put([Looked(entry, code="corrupt_image", message="no", **options) for entry in changes.new])
            writer.finish(changes.gone, lambda done, total: None)
            return len(changes.new), len(writer.failed())

    assert failing("rules") == (6, 6)
    assert failing("rules") == (0, 6)
    assert failing("other formats", passing=True) == (6, 6)
    assert failing("other formats") == (6, 6)  # was only for the time being


def test_a_kill_between_rows_and_names_costs_a_slot_that_is_filled_again(library, folder, monkeypatch):
    from blip2tools.index.catalogue import Catalogue

    class KilledError(BaseException):
        pass

    def killed(self, contents):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "add", killed)
        with pytest.raises(KilledError):
            run(library, folder)
    assert run(library, folder)[1] == 6
    assert [found(library, folder, n)[0] for n in range(6)] == [[f"{'below/' * (n % 2)}{n}.png"] for n in range(6)]


@pytest.mark.parametrize("lost", ["catalogue.sqlite", "rows-*.f16"])
def test_a_damaged_index_is_made_anew(library, folder, tmp_path, lost):
    run(library, folder)
    library.close()
    (path,) = library.place_of(folder).glob(lost)
    path.write_bytes(b"not what it was" * 9)
    for left in library.place_of(folder).glob("catalogue.sqlite-*"):
        left.unlink()
    again = Library(tmp_path / "cache")
    assert again.about(folder) is None
    assert len(run(again, folder)[0]) == 6
    assert found(again, folder, 3)[0] == ["below/3.png"]
    again.close()


def test_what_is_walked(tmp_path, folder):
    outside = tmp_path / "secret.png"
    outside.write_bytes(PNG)
    os.mkfifo(folder / "pipe.png")
    (folder / ".hidden.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(outside)
    (folder / "inside.png").symlink_to(folder / "0.png")
    (folder / "round").symlink_to(folder)
    (folder / "broken.png").symlink_to(folder / "nowhere")
    (folder / os.fsdecode(b"no-utf8-\xff.png")).write_bytes(PNG)
    (folder / "locked").mkdir()
    (folder / "locked" / "in.png").write_bytes(PNG)
    inside = Walk(folder, lambda real: real.is_relative_to(folder), lambda real: real.is_relative_to(folder))
    names = {entry.name for entry in inside.entries()}
    assert names - {b"locked/in.png"} == {
        *(f"{n}.png".encode() for n in (0, 2, 4)), *(f"below/{n}.png".encode() for n in (1, 3, 5)),
        b"inside.png", b"no-utf8-\xff.png",
    }  # fmt: skip
    assert {entry.name for entry in walk(folder, nested=False).entries()} & {b"below/1.png"} == set()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_listed_keeps_its_pictures(library, folder):
    run(library, folder)
    (folder / "below").chmod(0)
    try:
        assert run(library, folder) == ([], 6)
    finally:
        (folder / "below").chmod(0o700)


@pytest.mark.parametrize("with_faiss", [True, False])
def test_the_quick_pass_finds_what_the_exact_one_does(tmp_path, monkeypatch, with_faiss):
    if with_faiss:
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(passes, "scanner", lambda: None)
    chance = np.random.default_rng(3)
    number, shape = 3000, (4, 16)
    centres = chance.standard_normal((60, 1, 16)) + 0.4 * chance.standard_normal((50, 60, 1, 16))
    made = (centres.reshape(number, 1, 16) + 0.4 * chance.standard_normal((number, *shape))).astype(np.float32)
    made /= np.linalg.norm(made, axis=2, keepdims=True)
    rows = Rows(tmp_path / "rows", shape)
    rows.write(range(number), made)
    quick = passes.Passes(tmp_path, 16).at(passes.build(tmp_path, rows, number, 1, lambda done: None))
    assert quick.has_groups == with_faiss
    everything = np.arange(number)
    right = 0
    for place in chance.integers(0, number, 40):
        vector = made[place, 0]
        exact = everything[nearest.best(nearest.text_scores(rows, everything, vector), 10)]
        slots = np.sort(quick.of_text(vector, 300))
        right += len(set(exact) & set(slots[nearest.best(nearest.text_scores(rows, slots, vector), 10)]))
        mask = np.zeros(number, bool)
        mask[place] = True
        assert quick.of_text(vector, 300, mask).tolist() == [place]
        assert quick.of_picture(made[place], 3)[0] == place
    assert right >= 0.99 * 400
    passes.clean(tmp_path, None)
    assert [path.name for path in Path(tmp_path).iterdir()] == ["rows"]


def test_many_pictures_are_found_by_way_of_a_pass(library, tmp_path, monkeypatch):
    from blip2tools.index import shelf, writing

    for module in (shelf, writing):
        monkeypatch.setattr(module, "SCANNED", 20)
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.png").write_bytes(PNG + bytes([number]))
    run(library, folder)
    assert found(library, folder, 33)[0] == ["33.png"]
    part = library.about(folder)
    assert part.shelf.alike(features(12), 1)[0].score == pytest.approx(1, abs=2e-3)
    assert len(list(part.shelf.place.glob("pass-*"))) >= 1
    (folder / "later.png").write_bytes(PNG + bytes([200]))
    run(library, folder)  # the pass stays as it was, and does not know it
    assert found(library, folder, 200)[0] == ["later.png"]
    assert found(library, folder, 33)[0] == ["33.png"]
