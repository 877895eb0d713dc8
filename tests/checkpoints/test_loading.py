"""Names to files to a loaded model; and downloads from a hub on the loopback."""

from __future__ import annotations

import gc
import json
import shutil
import socket
import subprocess
import sys
import weakref
from dataclasses import replace
from itertools import chain

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from blip2tools import Vision, checkpoints
from blip2tools.checkpoints import budget, devices, family, hub, loading, memory, sizes
from blip2tools.errors import InvalidInputError, ModelUnavailableError
from blip2tools.model import Captioner, GenerationOptions, Matcher, Trunk, cosine
from blip2tools.settings import Settings
from tests.support import random_models as rm

GREEDY = GenerationOptions(num_beams=1)
MIB, GIB = 2**20, 2**30


def settings(**values):
    return Settings.load({}, **values)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """A hub cache of the test's own, independent of this computer's."""
    from huggingface_hub import constants

    folder = tmp_path / "hub-cache"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("the network was reached for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Checkpoint folders of random models, made once."""
    root = tmp_path_factory.mktemp("checkpoints")
    rm.save(rm.make_opt(), root / "opt")
    rm.save(rm.make_t5(), root / "t5")
    rm.save(rm.make_matcher(), root / "matcher")
    twin = rm.make_matcher()
    with torch.no_grad():
        for (_, mine), (_, its) in zip(
            Trunk(twin.vision_model).named_tensors(), Trunk(rm.opt().vision_model).named_tensors(), strict=True
        ):
            mine.copy_(its)
    rm.save(twin, root / "twin")
    return root


@pytest.fixture
def folder_of(saved, tmp_path):
    """A private copy of a checkpoint folder, with changes to its config.json."""

    def copy(name, **changes):
        target = tmp_path / f"my-{name}"
        shutil.copytree(saved / name, target)
        edit(target, **changes)
        return target

    return copy


def edit(folder, **changes):
    """Change config.json; `text_config__eos_token_id=None` removes a key of a part."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for key, value in changes.items():
        part, _, inner = key.partition("__")
        holder, name = (config[part], inner) if inner else (config, part)
        if value is None:
            holder.pop(name, None)
        else:
            holder[name] = value
    file.write_text(json.dumps(config))


def put_in_cache(cache, repository, source):
    """A complete copy in the layout of the hub's cache."""
    revision = "a" * 40
    root = cache / ("models--" + repository.replace("/", "--"))
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(revision)
    shutil.copytree(source, root / "snapshots" / revision)
    return root / "snapshots" / revision


def claim_size(folder, name):
    """Make the weights of a folder as large as the published ones by their header, the only part that is read for choosing."""
    parts = family.find(name).weights
    shapes = {
        "vision_model.x": [parts.trunk],
        "qformer.x": [parts.bridge],
        "language_projection.x": [parts.projection],
        "language_model.model.decoder.layers.0.x": [parts.linear, 1],
        "language_model.x": [parts.rest],
    }
    header = json.dumps(
        {key: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for key, shape in shapes.items()}
    )
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())


def load(**values):
    return checkpoints.load(settings(device="cpu", **values))


class TestFamily:
    def test_short_names(self):
        assert [member.name for member in family.CAPTIONERS + family.MATCHERS] == [
            "flan-t5-xxl",
            "flan-t5-xl",
            "opt-6.7b",
            "opt-2.7b",
            "flan-t5-xl-coco",
            "opt-6.7b-coco",
            "opt-2.7b-coco",
            "itm-vit-g",
            "itm-vit-g-coco",
        ]
        assert len({member.hub for member in family.FAMILY}) == 10

    @pytest.mark.parametrize("name", ["opt-2.7b", "OPT-2.7B", " opt-2.7b ", "Salesforce/blip2-opt-2.7b"])
    def test_find(self, name):
        found = family.find(name)
        assert found is not None
        assert found.name == "opt-2.7b"

    def test_find_by_kind(self):
        assert family.find("demo", "matcher") is family.DEMO_MATCHER
        assert family.find("demo", "captioner") is family.DEMO_CAPTIONER
        assert family.find("itm-vit-g", "captioner") is None
        assert family.find("nothing") is None

    def test_partners(self):
        for member in (*family.CAPTIONERS, family.DEMO_CAPTIONER):
            other = family.partner(member)
            assert (other.kind, other.image_size) == ("matcher", member.image_size)

    def test_sizes_are_plausible(self):
        assert family.DEMO_CAPTIONER.download_bytes == family.DEMO_MATCHER.download_bytes == 0
        assert family.DEMO_CAPTIONER.parameters == sum(
            tensor.numel() for tensor in load_file(family.demo_folder("captioner") / "model.safetensors").values()
        )
        assert family.DEMO_MATCHER.parameters == sum(
            tensor.numel() for tensor in load_file(family.demo_folder("matcher") / "model.safetensors").values()
        )


class TestLocate:
    def test_nothing_cached_is_the_demo_and_says_so(self):
        found = checkpoints.locate(settings())
        assert (found.captioner.name, found.matcher.name) == ("demo", "demo")
        assert found.warnings == (checkpoints.DEMO_WARNING,)
        assert "blip2tools pull opt-2.7b" in checkpoints.DEMO_WARNING

    def test_loads_no_torch(self):
        code = (
            "import sys\nfrom blip2tools import checkpoints\nfrom blip2tools.settings import Settings\n"
            "checkpoints.locate(Settings.load({}))\nassert not {'torch', 'transformers', 'PIL'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=200)

    def test_auto_takes_the_most_capable_that_is_here(self, saved, empty_cache):
        put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", saved / "opt")
        assert checkpoints.locate(settings()).captioner.name == "opt-2.7b"
        put_in_cache(empty_cache, "Salesforce/blip2-flan-t5-xl-coco", saved / "t5")
        assert checkpoints.locate(settings()).captioner.name == "opt-2.7b"
        put_in_cache(empty_cache, "Salesforce/blip2-flan-t5-xl", saved / "t5")
        found = checkpoints.locate(settings(), budget.Budget(100 * GIB, 4))
        assert found.captioner.name == "flan-t5-xl"
        assert found.captioner.member is family.find("flan-t5-xl")

    def test_auto_takes_what_fits(self, saved, empty_cache):
        for name, source in (("flan-t5-xxl", "t5"), ("opt-2.7b", "opt")):
            claim_size(put_in_cache(empty_cache, f"Salesforce/blip2-{name}", saved / source), name)
        for memory_gib, bytes_each, name in (
            (80, 2, "flan-t5-xxl"),
            (20, 2, "opt-2.7b"),
            (40, 4, "opt-2.7b"),
            (10, 4, "demo"),
        ):
            assert checkpoints.locate(settings(), budget.Budget(memory_gib * GIB, bytes_each)).captioner.name == name
        assert checkpoints.locate(settings(), budget.Budget(None, 4)).captioner.name == "flan-t5-xxl"

    @pytest.mark.parametrize("lost", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"])
    def test_an_incomplete_copy_does_not_count(self, saved, empty_cache, lost):
        folder = put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", saved / "opt")
        assert checkpoints.is_cached("opt-2.7b")
        (folder / lost).unlink()
        assert not checkpoints.is_cached("opt-2.7b")
        assert checkpoints.locate(settings()).captioner.name == "demo"

    def test_shards_count_as_one(self, saved, empty_cache):
        folder = put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", saved / "opt")
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        where = {key: names[number % 2] for number, key in enumerate(weights)}
        for name in names:
            save_file({k: v for k, v in weights.items() if where[k] == name}, folder / name, metadata={"format": "pt"})
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
        assert checkpoints.is_cached("opt-2.7b")
        assert load(model="opt-2.7b").model == "opt-2.7b"
        (folder / names[1]).unlink()
        assert not checkpoints.is_cached("opt-2.7b")

    @pytest.mark.parametrize(
        "index",
        ["", "[]", "{}", '{"weight_map": {"a": "../../x.safetensors"}}', '{"weight_map": {"a": "/etc/passwd"}}'],
    )
    def test_a_strange_index_is_no_checkpoint(self, saved, empty_cache, index):
        folder = put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", saved / "opt")
        (folder / "model.safetensors.index.json").write_text(index)
        assert not checkpoints.is_cached("opt-2.7b")

    def test_pickled_weights_are_no_weights(self, saved, empty_cache):
        folder = put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", saved / "opt")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        assert not checkpoints.is_cached("opt-2.7b")

    def test_the_matcher_that_shares_the_trunk(self, saved, empty_cache):
        put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", saved / "opt")
        put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b-coco", saved / "opt")
        put_in_cache(empty_cache, "Salesforce/blip2-itm-vit-g", saved / "matcher")
        found = checkpoints.locate(settings(model="opt-2.7b"))
        assert (found.matcher.name, found.warnings) == ("itm-vit-g", ())
        coco = checkpoints.locate(settings(model="opt-2.7b-coco"))
        assert coco.matcher is None
        assert "blip2tools pull itm-vit-g-coco" in coco.warnings[0]

    def test_a_matcher_that_does_not_fit_is_left_out(self, saved, empty_cache):
        for name, source in (("opt-2.7b", "opt"), ("itm-vit-g", "matcher")):
            claim_size(put_in_cache(empty_cache, f"Salesforce/blip2-{name}", saved / source), name)
        tight = checkpoints.locate(settings(), budget.Budget(18 * GIB, 4))
        assert tight.captioner.name == "opt-2.7b"
        assert tight.matcher is None
        assert "does not fit" in tight.warnings[0]
        assert checkpoints.locate(settings(), budget.Budget(24 * GIB, 4)).matcher is not None

    def test_no_matcher_on_request_is_no_warning(self, saved, empty_cache):
        put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", saved / "opt")
        found = checkpoints.locate(settings(matcher="none"))
        assert (found.matcher, found.warnings) == (None, ())

    def test_a_named_model_that_is_not_here_is_a_plan_with_a_remedy(self):
        found = checkpoints.locate(settings(model="flan-t5-xl", matcher="itm-vit-g"))
        assert not found.captioner.here
        assert not found.matcher.here
        assert "blip2tools pull flan-t5-xl" in found.warnings[0]
        assert "blip2tools pull itm-vit-g" in found.warnings[1]

    def test_folders_and_hub_ids(self, saved, empty_cache):
        found = checkpoints.locate(settings(model=str(saved / "opt")))
        assert (found.captioner.name, found.captioner.folder) == ("opt", saved / "opt")
        assert "none is known" in found.warnings[0]
        put_in_cache(empty_cache, "somebody/blip2-own", saved / "opt")
        assert checkpoints.locate(settings(model="somebody/blip2-own")).captioner.here
        assert not checkpoints.locate(settings(model="somebody/other")).captioner.here

    def test_a_family_name_is_never_a_folder_of_the_working_directory(self, saved, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for planted in ("opt-2.7b", "Salesforce/blip2-opt-2.7b"):
            shutil.copytree(saved / "opt", tmp_path / planted)
            assert not checkpoints.locate(settings(model=planted)).captioner.here

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"model": "opt-3b"}, "no captioner named 'opt-3b'"),
            ({"model": "itm-vit-g"}, "itm-vit-g is a matcher, not a captioner"),
            ({"matcher": "opt-2.7b"}, "opt-2.7b is a captioner, not a matcher"),
            ({"model": "/no/such/secret-folder"}, "no captioner named 'secret-folder'"),
            ({"model": "../../up"}, "no captioner named 'up'"),
            ({"model": "a/b/c"}, "no captioner named 'c'"),
            ({"model": "http://example.com/x"}, "no captioner named 'x'"),
        ],
    )
    def test_names_that_can_never_work(self, values, says):
        with pytest.raises(ModelUnavailableError, match=says) as raised:
            checkpoints.locate(settings(**values))
        assert "/no/such" not in raised.value.message
        assert "demo" in raised.value.message

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(ModelUnavailableError, match=r"lacks config\.json"):
            checkpoints.locate(settings(model=str(tmp_path)))
        assert not checkpoints.is_cached(str(tmp_path))

    def test_is_cached(self, saved):
        assert checkpoints.is_cached("demo")
        assert checkpoints.is_cached(str(saved / "opt"))
        assert not checkpoints.is_cached("opt-2.7b")
        assert not checkpoints.is_cached("rubbish")


class TestSizes:
    @pytest.mark.parametrize("name", ["opt", "t5", "matcher"])
    def test_a_folder_is_measured_by_its_headers(self, saved, name):
        model = {"opt": rm.opt, "t5": rm.t5, "matcher": rm.matcher}[name]()
        parts = sizes.weights_of(saved / name)
        assert parts.total == sum(parameter.numel() for parameter in model.parameters())
        assert parts.trunk == sum(parameter.numel() for parameter in model.vision_model.parameters())
        if name != "matcher":
            layers = [m for n, m in model.language_model.named_modules() if not n.endswith(("wo", "lm_head"))]
            assert parts.linear == sum(m.weight.numel() for m in layers if isinstance(m, torch.nn.Linear))
            assert parts.encoder_decoder == (name == "t5")

    def test_the_demo_is_as_large_as_its_entry_says(self):
        for member in (family.DEMO_CAPTIONER, family.DEMO_MATCHER):
            assert sizes.weights_of(family.demo_folder(member.kind)) == member.weights

    def test_an_output_layer_stored_once_more_counts_once(self, folder_of):
        folder = folder_of("opt")
        before = sizes.weights_of(folder)
        head = rm.opt().language_model.lm_head.weight.detach().clone()
        spoil_weights(lambda w: w.update({"language_model.lm_head.weight": head}))(folder)
        assert sizes.weights_of(folder) == before

    @pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 64, (9).to_bytes(8, "little") + b"[1, 2, 3]"])
    def test_rubbish_is_no_checkpoint_but_no_fault_either(self, folder_of, content):
        folder = folder_of("opt")
        (folder / "model.safetensors").write_bytes(content)
        assert checkpoints.locate(settings(model=str(folder))).captioner.here
        with pytest.raises((ValueError, TypeError, AttributeError)):
            sizes.weights_of(folder)


class TestMemory:
    def test_the_system_says_something(self):
        free = memory.free_memory()
        assert free is not None
        assert 16 * MIB < free < 2**50

    def test_a_container_limit_counts(self, tmp_path, monkeypatch):
        for name, text in (("max", "3000000"), ("current", "1000000"), ("stat", "anon 5\ninactive_file 200000\n")):
            (tmp_path / f"memory.{name}").write_text(text)
        files = ((str(tmp_path / "memory.max"), str(tmp_path / "memory.current")),)
        monkeypatch.setattr(memory, "_CGROUP_FILES", files)
        assert memory.free_memory() == 2_200_000
        (tmp_path / "memory.max").write_text("max")
        assert memory.free_memory() > 16 * MIB

    def test_the_guess_without_torch(self):
        guess = budget.likely_budget
        assert guess(settings(device="cpu")).bytes_each == 4
        assert guess(settings(device="cpu", dtype="bfloat16")).bytes_each == 2
        assert guess(settings(device="cpu")).memory > 16 * MIB
        assert guess(settings(device="cuda")) == budget.Budget(None, 2)
        assert guess(settings(device="cuda:1", dtype="float32")) == budget.Budget(None, 4)


def draw(shape, color, box, background="white"):
    picture = Image.new("RGB", (224, 224), background)
    getattr(ImageDraw.Draw(picture), shape)(box, fill=color)
    return picture


@pytest.fixture(scope="module")
def demo():
    return checkpoints.load(settings(device="cpu", model="demo"))


class TestDemo:
    def caption(self, demo, picture, beams=1):
        tokens = demo.captioner.query(demo.captioner.trunk.see(demo.pixels(picture)))
        options = GenerationOptions(num_beams=beams)
        [[spoken]] = demo.captioner.speak(tokens, [demo.words.caption().ids], options, max_new_tokens=[30])
        return demo.words.decode(spoken.ids), spoken

    def test_is_what_auto_loads(self, demo):
        assert load().model == load().matcher_name == "demo"
        assert (demo.model, demo.matcher_name, demo.device, demo.dtype) == ("demo", "demo", "cpu", "float32")
        assert demo.notes == (checkpoints.DEMO_WARNING,)

    def test_one_trunk_serves_both_and_each_keeps_its_layernorm(self, demo):
        assert demo.shared_trunk
        assert demo.matcher_pixels is demo.pixels
        mine, its = demo.captioner._post_layernorm, demo.matcher._post_layernorm
        assert not torch.equal(mine.weight, its.weight)

    @pytest.mark.parametrize("beams", [1, 5])
    @pytest.mark.parametrize(
        ("picture", "expected"),
        [
            (
                draw("ellipse", (222, 40, 40), (70, 70, 150, 150)),
                "a large red circle in the center of a white background",
            ),
            (
                draw("rectangle", (45, 80, 215), (20, 20, 66, 66)),
                "a small blue square at the top left of a white background",
            ),
            (
                draw("ellipse", (250, 225, 60), (150, 80, 200, 130), (18, 18, 18)),
                "a small yellow circle at the right of a black background",
            ),
        ],
    )
    def test_captions(self, demo, picture, expected, beams):
        text, spoken = self.caption(demo, picture, beams)
        assert text == expected
        assert spoken.finish == "eos"
        assert torch.tensor(spoken.logprob).exp() > 0.95

    @pytest.mark.parametrize(
        ("question", "answer"),
        [
            ("what color is the circle?", "red"),
            ("how many objects are there?", "one"),
            ("what is the background like?", "white"),
            ("is there a blue star?", "no"),
        ],
    )
    def test_answers(self, demo, question, answer):
        picture = draw("ellipse", (222, 40, 40), (70, 70, 150, 150))
        tokens = demo.captioner.query(demo.captioner.trunk.see(demo.pixels(picture)))
        prompt = demo.words.question(question)
        [[spoken]] = demo.captioner.speak(tokens, [prompt.ids], GREEDY, max_new_tokens=[10])
        assert demo.words.decode(spoken.ids) == answer
        choices = [answer, "green", "three", "yes"]
        scores = demo.captioner.rank(tokens, prompt.ids, [demo.words.candidate(choice) for choice in choices])
        assert max(scores)[0] == scores[0][0]

    def test_matches(self, demo):
        picture = draw("ellipse", (222, 40, 40), (70, 70, 150, 150))
        states = demo.captioner.trunk.see(demo.pixels(picture))
        rows = [demo.matcher_words(text).ids for text in ("a large red circle", "a large blue circle", "a red square")]
        probabilities = demo.matcher.match(states, rows).softmax(-1)[:, 1]
        assert probabilities[0] > 0.9 > 0.2 > probabilities[1:].max()
        sentence = "a large red circle in the center of a white background"
        pair = [demo.matcher_words(text).ids for text in (sentence, sentence.replace("red", "blue"))]
        similar = cosine(demo.matcher.image_features(states), demo.matcher.text_features(pair))[0]
        assert similar[0] > similar[1]

    def test_prompts_fit_in_its_few_positions(self, demo):
        assert demo.captioner.positions == 256
        prompt = demo.words.question("what color is the circle? " * 80)
        assert prompt.truncated
        tokens = demo.captioner.query(demo.captioner.trunk.see(demo.pixels(draw("ellipse", "red", (9, 9, 90, 90)))))
        demo.captioner.speak(tokens, [prompt.ids], GREEDY, max_new_tokens=[32])
        demo.captioner.rank(tokens, prompt.ids, [demo.words.candidate("zebra " * 40)])

    def test_without_a_matcher(self):
        loaded = load(matcher="none")
        assert loaded.matcher is loaded.matcher_words is loaded.matcher_pixels is loaded.matcher_name is None
        assert not loaded.shared_trunk

    def test_progress(self):
        told = []
        checkpoints.load(settings(device="cpu"), lambda what, share: told.append((what, share)))
        assert told == [("loading demo", None), ("loading demo", None), ("ready", 1.0)]

    def test_says_nothing_on_stdout_or_stderr(self, capfd):
        load()
        assert capfd.readouterr() == ("", "")

    def test_threads(self):
        before = torch.get_num_threads()
        try:
            load(threads=2, matcher="none")
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)


def assert_alike(spoken, expected):
    """The same tokens; their probabilities depend, in the last digits, on the place of the weights in memory."""
    for one, two in zip(chain(*spoken), chain(*expected), strict=True):
        assert replace(one, logprob=0.0) == replace(two, logprob=0.0)
        assert one.logprob == pytest.approx(two.logprob, abs=1e-5)


class TestLoad:
    @pytest.mark.parametrize("name", ["opt", "t5"])
    def test_a_folder_loads_to_the_same_model(self, saved, name):
        loaded = load(model=str(saved / name), matcher="none")
        reference = Captioner(rm.opt() if name == "opt" else rm.t5())
        pixels = rm.pixels(1)
        tokens = loaded.captioner.query(loaded.captioner.trunk.see(pixels))
        assert torch.equal(tokens, reference.query(reference.trunk.see(pixels)))
        row = loaded.words.question("what is red?").ids
        given = {"max_new_tokens": [6]}
        assert_alike(
            loaded.captioner.speak(tokens, [row], GREEDY, **given), reference.speak(tokens, [row], GREEDY, **given)
        )
        assert loaded.captioner.fingerprint == reference.fingerprint
        assert (loaded.model, loaded.words.family) == (name, name)

    def test_different_trunks_are_kept_apart(self, saved):
        loaded = load(model=str(saved / "opt"), matcher=str(saved / "matcher"))
        assert not loaded.shared_trunk
        reference = Matcher(rm.matcher())
        pixels, row = rm.pixels(1), loaded.matcher_words("a red dog").ids
        states = loaded.matcher.trunk.see(pixels)
        assert torch.equal(states, reference.trunk.see(pixels))
        assert torch.equal(loaded.matcher.match(states, [row]), reference.match(states, [row]))

    def test_equal_trunks_are_shared(self, saved):
        loaded = load(model=str(saved / "opt"), matcher=str(saved / "twin"))
        assert loaded.shared_trunk

    def test_precision_of_the_files_does_not_keep_them_apart(self, saved, folder_of, tmp_path):
        half = folder_of("twin")
        weights = {key: value.half() for key, value in load_file(half / "model.safetensors").items()}
        save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
        assert load(model=str(saved / "opt"), matcher=str(half)).shared_trunk

    def test_another_pixel_recipe_keeps_them_apart(self, saved, folder_of):
        other = folder_of("twin")
        file = other / "preprocessor_config.json"
        recipe = json.loads(file.read_text())
        recipe["image_mean"] = [0.5, 0.5, 0.5]
        file.write_text(json.dumps(recipe))
        loaded = load(model=str(saved / "opt"), matcher=str(other))
        assert not loaded.shared_trunk
        assert loaded.matcher_pixels.key != loaded.pixels.key

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_the_q_former_keeps_every_digit_of_the_file(self, saved, dtype):
        loaded = load(model=str(saved / "opt"), matcher=str(saved / "matcher"), dtype=dtype)
        model, matcher_model = rm.opt(), rm.matcher()
        for mine, its in zip(loaded.captioner._qformer.parameters(), model.qformer.parameters(), strict=True):
            assert torch.equal(mine, its)
        assert torch.equal(loaded.captioner._query_tokens, model.query_tokens.data)
        for part in ("qformer", "embeddings", "itm_head", "vision_projection", "text_projection"):
            mine, its = getattr(loaded.matcher, f"_{part}"), getattr(matcher_model, part)
            assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), its.parameters(), strict=True)), part
        assert str(loaded.captioner.trunk.dtype) == str(loaded.matcher.trunk.dtype) == f"torch.{dtype}"
        assert loaded.dtype == dtype
        tokens = loaded.captioner.query(loaded.captioner.trunk.see(rm.pixels(1)))
        [[spoken]] = loaded.captioner.speak(tokens, [loaded.words.caption("a").ids], GREEDY, max_new_tokens=[3])
        assert spoken.logprob < 0
        states = loaded.matcher.trunk.see(rm.pixels(1))
        assert torch.isfinite(loaded.matcher.match(states, [loaded.matcher_words("a red dog").ids])).all()

    def test_t5_in_bfloat16(self, saved):
        loaded = load(model=str(saved / "t5"), matcher="none", dtype="bfloat16")
        assert loaded.captioner.dtype == torch.bfloat16
        tokens = loaded.captioner.query(loaded.captioner.trunk.see(rm.pixels(1)))
        assert len(loaded.captioner.speak(tokens, [loaded.words.caption("a").ids], GREEDY, max_new_tokens=[3])[0]) == 1

    def test_t5_is_refused_in_float16(self, saved):
        with pytest.raises(ModelUnavailableError, match="t5 overflows in float16"):
            load(model=str(saved / "t5"), dtype="float16")

    def test_an_old_matcher_file_without_its_text_flag(self, folder_of):
        old = folder_of("matcher", qformer_config__use_qformer_text_input=None, qformer_config__qformer_text_input=True)
        loaded = load(model="demo", matcher=str(old))
        row = loaded.matcher_words("a red dog").ids
        states = loaded.matcher.trunk.see(rm.pixels(1))
        reference = Matcher(rm.matcher())
        assert torch.equal(
            loaded.matcher.match(states, [row]), reference.match(reference.trunk.see(rm.pixels(1)), [row])
        )

    def test_a_tokenizer_without_tokenizer_json(self, folder_of):
        folder = folder_of("opt")
        vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "GPT2Tokenizer"}))
        ids = load(model=str(folder), matcher="none").words.caption("a red dog").ids
        assert ids == (rm.OPT_BOS, *rm.opt_tokenizer().encode("a red dog", add_special_tokens=False).ids)

    def test_of_the_cache_by_name(self, saved, empty_cache):
        put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", saved / "opt")
        put_in_cache(empty_cache, "Salesforce/blip2-itm-vit-g", saved / "twin")
        loaded = load()
        assert (loaded.model, loaded.matcher_name, loaded.shared_trunk) == ("opt-2.7b", "itm-vit-g", True)
        assert loaded.notes == ()

    def test_its_revision_is_told(self, saved, empty_cache):
        put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", saved / "opt")
        put_in_cache(empty_cache, "Salesforce/blip2-itm-vit-g", saved / "twin")
        with Vision.load(model="opt-2.7b", device="cpu") as vision:
            told = vision.status()
            assert (told.revision, told.matcher_revision, told.quantize) == ("a" * 40, "a" * 40, "none")
            assert f"revisions: opt-2.7b {'a' * 40}, itm-vit-g {'a' * 40}" in told.text_block()
        pinned = checkpoints.locate(settings(model="opt-2.7b", revision="a" * 40))
        assert pinned.captioner.here
        assert not checkpoints.locate(settings(model="opt-2.7b", revision="b" * 40)).captioner.here

    @pytest.mark.parametrize(
        "values",
        [
            {"revision": "v1"},
            {"model": "demo", "revision": "v1"},
            {"matcher_revision": "v1"},
            {"model": "opt-2.7b", "matcher": "none", "matcher_revision": "v1"},
        ],
    )
    def test_a_revision_of_nothing_on_the_hub(self, values):
        with pytest.raises(ModelUnavailableError, match="pins a m"):
            checkpoints.locate(settings(**values))

    def test_a_named_model_too_large_for_this_machine(self, saved, empty_cache, monkeypatch):
        folder = put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", saved / "opt")
        claim_size(folder, "opt-2.7b")
        monkeypatch.setattr(devices, "free_memory", lambda: 12 * 10**9)
        for download in (False, True):
            with pytest.raises(
                ModelUnavailableError, match=r"opt-2\.7b needs 15\.0 GB of memory on this computer, only 12\.0 GB"
            ):
                checkpoints.load(settings(model="opt-2.7b", device="cpu"), download=download)
        monkeypatch.setattr(hub, "pull", lambda *_, **__: pytest.fail("downloaded"))
        with pytest.raises(ModelUnavailableError, match=r"flan-t5-xl needs 15\.8 GB"):
            checkpoints.load(settings(model="flan-t5-xl", device="cpu"), download=True)

    def test_an_early_file_of_the_family_has_its_epsilon_corrected(self, folder_of, empty_cache):
        early = folder_of("opt", vision_config__layer_norm_eps=1e-5)
        put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", early)
        loaded = load(model="opt-2.7b")
        assert {module.eps for module in loaded.captioner.trunk.encoder.modules() if hasattr(module, "eps")} == {1e-6}
        assert loaded.captioner._post_layernorm.eps == 1e-6

    def test_a_t5_starts_decoding_at_its_padding(self, folder_of, saved):
        silent = load(model=str(folder_of("t5", text_config__decoder_start_token_id=None)), matcher="none")
        tokens = silent.captioner.query(silent.captioner.trunk.see(rm.pixels(1)))
        row, reference = silent.words.caption("a").ids, Captioner(rm.t5())
        given = {"max_new_tokens": [5]}
        assert_alike(
            silent.captioner.speak(tokens, [row], GREEDY, **given), reference.speak(tokens, [row], GREEDY, **given)
        )

    def test_a_damaged_matcher_only_counts_when_it_was_named(self, saved, empty_cache):
        put_in_cache(empty_cache, "Salesforce/blip2-opt-2.7b", saved / "opt")
        folder = put_in_cache(empty_cache, "Salesforce/blip2-itm-vit-g", saved / "matcher")
        (folder / "model.safetensors").write_bytes(b"rubbish")
        loaded = load()
        assert loaded.matcher is None
        assert loaded.notes == ("there is no image-text matcher: itm-vit-g could not be loaded",)
        with pytest.raises(ModelUnavailableError, match="blip2tools pull itm-vit-g"):
            load(matcher="itm-vit-g")

    @pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
    def test_a_device_that_is_not_there(self, device):
        if device.startswith("cuda") and torch.cuda.is_available() and device == "cuda":
            device = "cuda:63"
        if device == "mps" and torch.backends.mps.is_available():
            pytest.skip("this machine has one")
        with pytest.raises(ModelUnavailableError, match="There is no device"):
            checkpoints.load(settings(device=device))

    def test_a_model_that_is_not_here(self, monkeypatch):
        monkeypatch.setattr(devices, "free_memory", lambda: 64 * GIB)
        for download, offline in ((False, False), (True, True)):
            with pytest.raises(ModelUnavailableError, match=r"not on this computer; run `blip2tools pull opt-2\.7b`"):
                checkpoints.load(settings(model="opt-2.7b", offline=offline), download=download)

    def test_a_named_model_may_be_downloaded(self, saved, empty_cache, monkeypatch):
        monkeypatch.setattr(devices, "free_memory", lambda: 64 * GIB)
        pulled = []

        def pull(repository, name, progress, **_):
            pulled.append((repository, name))
            progress("downloading", 0.5)
            return put_in_cache(empty_cache, repository, saved / "opt")

        monkeypatch.setattr(hub, "pull", pull)
        told = []
        loaded = checkpoints.load(
            settings(model="opt-2.7b", device="cpu"), lambda *what: told.append(what), download=True
        )
        assert pulled == [("Salesforce/blip2-opt-2.7b", "opt-2.7b")]
        assert loaded.model == "opt-2.7b"
        assert ("downloading", 0.5) in told

    def test_auto_never_downloads(self, monkeypatch):
        monkeypatch.setattr(hub, "pull", lambda *_: pytest.fail("downloaded"))
        assert checkpoints.load(settings(device="cpu"), download=True).model == "demo"


def spoil_weights(change):
    def spoil(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def change_preprocessor(folder):
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"height": 56, "width": 56}}))


class TestRefusals:
    """Each is one sentence of ours, and leaves nothing behind."""

    @pytest.mark.parametrize(
        ("name", "changes", "says"),
        [
            ("opt", {"vision_config__layer_norm_eps": 1e-5}, "layer_norm_eps is not 1e-06"),
            ("opt", {"vision_config__image_size": 56}, "differ in size"),
            ("opt", {"architectures": ["Blip2Model"]}, "not a BLIP-2 captioner"),
            ("opt", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantized"),
            ("opt", {"num_query_tokens": 9}, "my-opt"),
            ("opt", {"text_config__num_hidden_layers": 3}, "weights do not fit"),
            ("opt", {"text_config__num_hidden_layers": 1}, "weights do not fit"),
            ("opt", {"text_config__eos_token_id": [2, 9]}, "special token"),
            ("opt", {"model_type": "llava"}, "my-opt"),
            ("t5", {"text_config__scale_decoder_outputs": True}, "FLAN-T5"),
            ("t5", {"text_config__tie_word_embeddings": None, "text_config__scale_decoder_outputs": None}, "FLAN-T5"),
            ("t5", {"text_config__dense_act_fn": "relu", "text_config__feed_forward_proj": "gated-relu"}, "FLAN-T5"),
        ],
    )
    def test_configurations(self, folder_of, name, changes, says):
        folder = folder_of(name, **changes)
        self.refused(says, model=str(folder), matcher="none")

    @pytest.mark.parametrize(
        ("spoil", "says"),
        [
            (spoil_weights(lambda w: w.pop("query_tokens")), "weights do not fit"),
            (spoil_weights(lambda w: w.update(extra=torch.zeros(3))), "weights do not fit"),
            (spoil_weights(lambda w: w.update(query_tokens=torch.zeros(1, 3, 3))), "my-opt"),
            (write("model.safetensors", b"rubbish"), "damaged"),
            (write("config.json", b"{"), "damaged"),
            (write("config.json", b"[]"), "damaged"),
            (write("tokenizer.json", b"{}"), "damaged"),
            (write("preprocessor_config.json", b"nonsense"), "damaged"),
            (change_preprocessor, "differ in size"),
        ],
    )
    def test_files(self, folder_of, spoil, says):
        folder = folder_of("opt")
        spoil(folder)
        self.refused(says, model=str(folder), matcher="none")

    def test_a_t5_with_tied_output_is_not_flan(self, folder_of):
        folder = folder_of("t5")
        spoil_weights(lambda w: w.pop("language_model.lm_head.weight"))(folder)
        self.refused("tied to the embeddings", model=str(folder), matcher="none")

    def test_a_captioner_is_no_matcher(self, saved):
        self.refused("not a BLIP-2 matcher", model="demo", matcher=str(saved / "opt"))
        self.refused("not a BLIP-2 captioner", model=str(saved / "matcher"), matcher="none")

    def test_a_matcher_with_another_tokenizer(self, saved, folder_of):
        folder = folder_of("matcher")
        shutil.copy(saved / "opt" / "tokenizer.json", folder / "tokenizer.json")
        self.refused("not BERT's", model="demo", matcher=str(folder))

    def test_pickled_weights_are_never_opened(self, folder_of):
        folder = folder_of("opt")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        self.refused("lacks safetensors weights", model=str(folder), matcher="none")

    def test_code_of_a_checkpoint_is_never_run(self, folder_of, tmp_path):
        folder = folder_of("opt", auto_map={"AutoConfig": "evil.C", "AutoModelForImageTextToText": "evil.C"})
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        file = folder / "tokenizer_config.json"
        config = json.loads(file.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}}
        file.write_text(json.dumps(config))
        load(model=str(folder), matcher="none")
        assert not (tmp_path / "ran").exists()

    def test_a_harmless_buffer_of_old_files_is_no_reason(self, folder_of):
        folder = folder_of("opt")
        spoil_weights(lambda w: w.update({"vision_model.embeddings.position_ids": torch.arange(17)[None]}))(folder)
        assert load(model=str(folder), matcher="none").model == "my-opt"

    def refused(self, says, **values):
        with pytest.raises(ModelUnavailableError, match=says) as raised:
            load(**values)
        message = raised.value.message
        assert "/" not in message.replace("`blip2tools", "")
        assert message.endswith(".")
        assert "\n" not in message
        assert len(message) < 250


class TestFailures:
    def test_nothing_half_loaded_remains_and_it_may_be_tried_again(self, saved, folder_of, monkeypatch):
        folder = folder_of("matcher")
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(b"rubbish")
        built = []
        original = loading.Captioner

        def recorded(*given):
            captioner = original(*given)
            built.append(weakref.ref(captioner))
            return captioner

        monkeypatch.setattr(loading, "Captioner", recorded)
        chosen = settings(model=str(saved / "opt"), matcher=str(folder), device="cpu")
        kept = None
        try:
            checkpoints.load(chosen)
        except ModelUnavailableError as error:
            kept = error  # whoever keeps the error must not keep the model
        assert kept is not None
        gc.collect()
        assert len(built) == 1
        assert built[0]() is None
        (folder / "model.safetensors").write_bytes(weights)
        assert checkpoints.load(chosen).matcher is not None

    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (MemoryError(), "not enough memory for demo"),
            (torch.OutOfMemoryError("CUDA out of memory at 0x1234"), "not enough memory for demo"),
            (OSError("/home/somebody/.cache/secret is gone"), "damaged"),
            (RuntimeError("https://example.com/secret"), "damaged"),
        ],
    )
    def test_foreign_text_stays_in_the_log(self, error, says, monkeypatch, caplog):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(loading.weights, "read", fail)
        with pytest.raises(ModelUnavailableError, match=says) as raised:
            load()
        assert "secret" not in raised.value.message
        assert "0x1234" not in raised.value.message

    def test_a_fault_of_ours_is_one_sentence_too(self, monkeypatch):
        monkeypatch.setattr(loading, "choose_device", lambda name: 1 // 0)
        with pytest.raises(ModelUnavailableError, match="says why"):
            checkpoints.load(settings())


def test_settings_refuse_an_empty_name():
    with pytest.raises(InvalidInputError):
        settings(model="")
