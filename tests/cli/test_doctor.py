"""`blip2tools doctor`: every fault is planted, and found, with a remedy and the right exit status."""

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import blip2tools
from blip2tools.checkpoints.family import demo_folder
from blip2tools.cli import main
from blip2tools.cli.doctor import files, machine
from blip2tools.cli.doctor.report import Report, Voice
from tests.conftest import run_cli
from tests.support.hub_server import Hub, running

DEMO = ("--model", "demo", "--threads", "1")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """A hub cache of the test's own and memory for any model, independent of this computer."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    roomy = shutil.disk_usage(tmp_path)._replace(free=10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: roomy)
    return tmp_path / "hub-cache"


@pytest.fixture
def copy(tmp_path):
    """A private copy of the demo's captioner, to be damaged."""
    return Path(shutil.copytree(demo_folder("captioner"), tmp_path / "mine"))


@pytest.fixture
def doctor(capsys):
    """The command in this process; its exit status and its findings by name, the later ones of a name winning."""

    def run(*words, status=None):
        code = main(["doctor", "--json", "--no-network", "--matcher", "none", *words])
        report = Report.model_validate_json(capsys.readouterr().out)
        assert code == report.exit_status
        assert status in (None, code)
        found = {finding.name: finding for section in report.sections for finding in section.findings}
        assert all(finding.remedy for finding in found.values() if finding.status == "failed")
        return found

    return run


@pytest.fixture
def online(monkeypatch):
    """Lets the hub's client use a hub at an address."""
    from huggingface_hub import constants

    def at(url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    return at


def failed(found):
    return {name for name, finding in found.items() if finding.status == "failed"}


class TestHealthy:
    def test_for_a_person(self, capsys):
        assert main(["doctor", "--no-network", *DEMO]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line and not line.startswith(" ")] == [
            "installation",
            "machine",
            "model",
            "files of demo (captioner)",
            "files of demo (matcher)",
            "self-test",
            lines[-1],
        ]
        assert any(line.split()[1:3] == ["match", "every"] for line in lines)
        assert lines[-1].endswith(" well")
        assert "failed" not in lines[-1]

    def test_for_a_program(self, doctor, tmp_path):
        found = doctor("--model", "demo", "--allow-dir", str(tmp_path), status=0)
        assert not failed(found)
        assert found["load"].sentence.startswith("cpu, float32")
        assert found["pictures"].sentence == "3 pictures, 3 captions"
        assert found["hub"].status == "skipped"

    def test_in_a_process_of_its_own(self, tmp_path):
        done = run_cli("doctor", *DEMO, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii", "HF_HOME": str(tmp_path)})
        assert (done.returncode, done.stderr) == (0, "")
        assert "\n  ok   torch" in done.stdout
        assert "\n  warn note" in done.stdout
        assert str(Path.home()) not in done.stdout.replace(str(Path(blip2tools.__file__).parent), "")

    def test_the_verdict_is_remembered(self, doctor, tmp_path):
        doctor("--model", "demo", "--cache-dir", str(tmp_path / "own"))
        (kept,) = (tmp_path / "own" / "self-test").iterdir()
        assert json.loads(kept.read_text())["model"] == "demo"


class TestPlanted:
    """Every fault that the command is meant to find."""

    @pytest.mark.skipif(os.name != "posix", reason="a shell script stands for the driver's program")
    @pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
    def test_a_missing_extra_a_wrong_version_a_wrong_torch_build_and_no_space(self, tmp_path):
        planted = tmp_path / "planted"
        info = planted / "blip2tools-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            "Metadata-Version: 2.4\nName: blip2tools\nVersion: 0.1.0\nProvides-Extra: dreams\nProvides-Extra: mcp\n"
            "Requires-Dist: torch>=2.8\nRequires-Dist: pydantic>=99\nRequires-Dist: no-such-package-at-all>=1\n"
            "Requires-Dist: no-such-dreams>=2; extra == 'dreams'\nRequires-Dist: mcp<2; extra == 'mcp'\n"
        )
        (planted / "sitecustomize.py").write_text(
            "import collections, shutil\n"
            "Usage = collections.namedtuple('Usage', 'total used free')\n"
            "shutil.disk_usage = lambda path: Usage(10**9, 10**9 - 10**8, 10**8)\n"
        )
        driver = planted / "nvidia-smi"
        driver.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 550.54.15, 81559'\n")
        driver.chmod(0o755)
        done = run_cli(
            *("doctor", "--json", "--model", "opt-2.7b"),  # which is not here: that no model is loaded saves seconds
            env={
                "PYTHONPATH": str(planted),
                "PATH": f"{planted}{os.pathsep}{os.environ['PATH']}",
                "HF_HOME": str(tmp_path),
                "BLIP2TOOLS_MODLE": "opt-2.7b",
            },
        )
        assert done.returncode == 1, done.stderr
        found = {
            finding.name: finding
            for section in Report.model_validate_json(done.stdout).sections[:2]
            for finding in section.findings
        }
        assert failed(found) == {"pydantic", "no-such-package-at-all", "mcp", "device", "model cache"}
        assert found["[dreams]"].status == "warning"
        assert found["[dreams]"].remedy == "pip install 'blip2tools[dreams]'"
        assert found["pydantic"].sentence.endswith("is installed, but >=99 is needed")
        assert found["no-such-package-at-all"].remedy == "pip install 'no-such-package-at-all>=1'"
        assert "NVIDIA H100 80GB HBM3" in found["device"].sentence
        assert "built without CUDA" in found["device"].sentence
        assert "100.0 MB of disk free" in found["model cache"].sentence
        assert found["variable"].sentence.startswith("BLIP2TOOLS_MODLE is set")
        assert found["variable"].remedy == "did you mean BLIP2TOOLS_MODEL?"

    def test_a_broken_torch(self, tmp_path):
        (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')\n")
        done = run_cli("doctor", "--offline", env={"PYTHONPATH": str(tmp_path)})
        assert done.returncode == 1
        assert "torch" in done.stdout
        assert "cannot be imported (OSError)" in done.stdout
        assert "libcudart" not in done.stdout
        assert "Traceback" not in done.stderr

    def test_a_cut_shard(self, doctor, copy):
        weights = copy / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        found = doctor("--model", str(copy), status=1)
        assert failed(found) == {"model.safetensors"}
        assert found["model.safetensors"].sentence.startswith("damaged or incomplete (3.2 MB")
        assert "load" not in found

    def test_a_shard_that_lacks_a_tensor(self, doctor, copy):
        split(copy)
        assert not failed(doctor("--model", str(copy), status=0))
        second = copy / "model-00002-of-00002.safetensors"
        tensors = load_file(second)
        tensors.popitem()
        save_file(tensors, second, metadata={"format": "pt"})
        found = doctor("--model", str(copy), status=1)
        assert failed(found) == {second.name}
        assert found[second.name].sentence.startswith("1 of its ")

    def test_a_flipped_bit_is_told_by_the_digest(self, doctor, empty_cache):
        """A file that is complete and readable, but not what was published."""
        snapshot = published(empty_cache, "Salesforce/blip2-opt-2.7b", demo_folder("captioner"))
        found = doctor("--model", "opt-2.7b")
        assert found["model.safetensors"].sentence.endswith("as published (digest)")
        weights = snapshot / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.resolve().write_bytes(content)
        found = doctor("--model", "opt-2.7b", status=1)
        assert failed(found) == {"model.safetensors"}
        assert "the digest differs" in found["model.safetensors"].sentence
        assert found["model.safetensors"].remedy == "run `blip2tools pull opt-2.7b` again"

    def test_a_pointer_instead_of_weights(self, doctor, copy):
        (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        assert "git lfs pull" in doctor("--model", str(copy), status=1)["model.safetensors"].remedy

    def test_only_pickles_in_a_folder(self, doctor, copy):
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
        found = doctor("--model", str(copy))
        assert failed(found) == {"model"}
        assert "pickles" in found["model"].sentence

    def test_only_pickles_on_the_hub(self, doctor, online):
        """Asked, not downloaded."""
        hub = Hub({"Salesforce/blip2-opt-2.7b": {"config.json": b"{}", "pytorch_model.bin": b"code"}})
        with running(hub):
            online(hub.url)
            found = doctor("--model", "opt-2.7b", "--network", status=3)
        assert found["hub"].sentence == f"{hub.url} answers"
        assert "pickles" in found["captioner"].sentence
        assert hub.downloads() == []

    def test_another_picture_size(self, doctor, copy):
        (file,) = copy.glob("*processor_config.json")
        file.write_text(file.read_text().replace(": 80", ": 224"))
        found = doctor("--model", str(copy), status=1)
        assert failed(found) == {"picture size"}
        assert found["picture size"].sentence == "the vision tower wants 80 px, the image processor makes 224 px"

    @pytest.mark.parametrize("content", ["", "{", '{"model": 3}'])
    def test_a_broken_tokenizer(self, doctor, copy, content):
        (copy / "tokenizer.json").write_text(content)
        assert failed(doctor("--model", str(copy), status=1)) == {"tokenizer"}

    def test_a_tokenizer_of_another_model(self, doctor, copy, tmp_path):
        matcher = shutil.copytree(demo_folder("matcher"), tmp_path / "matcher")
        shutil.copy(copy / "tokenizer.json", matcher)
        found = doctor("--model", "demo", "--matcher", str(matcher), status=1)
        assert found["tokenizer"].sentence.endswith("it belongs to another model")

    @pytest.mark.skipif(os.name != "posix", reason="a file with holes")
    def test_too_little_memory(self, doctor, copy, monkeypatch):
        """A model of 200 GB, with only its header on the disk."""
        monkeypatch.setattr("blip2tools.checkpoints.devices.free_memory", lambda: 16 * 10**9)
        monkeypatch.setattr("blip2tools.checkpoints.budget.free_memory", lambda: 16 * 10**9)
        header = json.dumps({"huge": {"dtype": "F32", "shape": [50, 10**9], "data_offsets": [0, 200 * 10**9]}}).encode()
        with (copy / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 200 * 10**9)
        found = doctor("--model", str(copy), "--device", "cpu", status=1)
        assert failed(found) == {"memory"}
        assert found["memory"].sentence.startswith("too little: 200.0 GB for the weights")
        assert "load" not in found

    def test_a_model_that_fails_its_self_test(self, doctor, copy):
        tensors = load_file(copy / "model.safetensors")
        tensors["language_projection.weight"].zero_()
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        found = doctor("--model", str(copy), status=1)
        assert failed(found) == {"pictures"}

    def test_weights_that_do_not_fit(self, doctor, copy):
        tensors = load_file(copy / "model.safetensors")
        del tensors["query_tokens"]
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        found = doctor("--model", str(copy), status=1)
        assert failed(found) == {"load"}
        assert "weights do not fit" in found["load"].sentence

    def test_a_damaged_configuration(self, doctor, copy):
        (copy / "config.json").write_text('{"model_type": "bert"}')
        found = doctor("--model", str(copy), status=1)
        assert "config.json" in failed(found)
        assert "load" not in found

    def test_no_such_model(self, doctor):
        assert doctor("--model", "nothing of the kind", status=3)["model"].status == "failed"
        assert doctor("--model", "opt-2.7b", status=3)["captioner"].remedy == "blip2tools pull opt-2.7b"

    def test_no_such_device(self, doctor):
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        assert failed(doctor("--model", "demo", "--device", "cuda", status=1)) == {"device", "load"}

    def test_folders(self, doctor, tmp_path):
        found = doctor("--model", "demo", "--allow-dir", str(tmp_path / "nowhere"), status=1)
        assert "does not exist" in found["folder"].sentence

    def test_a_cache_that_cannot_be_written_to(self, doctor, tmp_path):
        (tmp_path / "file").touch()
        found = doctor("--model", "demo", "--cache-dir", str(tmp_path / "file"), status=0)
        assert found["own cache"].status == "warning"

    def test_a_hub_that_does_not_answer(self, doctor, online):
        online("http://127.0.0.1:9")
        found = doctor("--model", "demo", "--network", status=0)
        assert found["hub"].status == "warning"
        assert found["hub"].sentence.startswith("http://127.0.0.1:9 does not answer (")


def split(folder):
    """The weights in two files with an index, as the hub has large models."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, keys in halves.items():
        save_file({key: tensors[key] for key in keys}, folder / file, metadata={"format": "pt"})
    places = {key: file for file, keys in halves.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors").unlink()


def published(cache, repository, source):
    """A copy in the hub's cache as its client leaves it: links to blobs that are named by their digests."""
    root = cache / ("models--" + repository.replace("/", "--"))
    snapshot = root / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    for file in source.iterdir():
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if file.suffix != ".safetensors":
            digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        (root / "blobs" / digest).write_bytes(content)
        (snapshot / file.name).symlink_to(Path("../../blobs") / digest)
    return snapshot


class TestDigests:
    def test_of_a_folder_that_the_client_filled(self, copy):
        weights = copy / "model.safetensors"
        assert files.published_digest(weights) is None
        note = copy / ".cache" / "huggingface" / "download" / "model.safetensors.metadata"
        note.parent.mkdir(parents=True)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        note.write_text(f"{'a' * 40}\n{digest}\n1763900000.0\n")
        assert files.published_digest(weights) == digest
        note.write_text("nonsense")
        assert files.published_digest(weights) is None


class TestCards:
    @pytest.mark.parametrize(
        ("built", "card", "serves"),
        [
            ("sm_90", (9, 0), True),
            ("sm_80", (8, 6), True),
            ("sm_86", (8, 0), False),
            ("sm_90a", (9, 0), True),
            ("sm_80", (9, 0), False),
            ("sm_120", (12, 0), True),
            ("compute_90", (12, 0), True),
            ("gfx942", (9, 4), False),
        ],
    )
    def test_which_kernels_run(self, built, card, serves):
        assert machine._serves(built, *card) is serves

    @pytest.mark.parametrize("said", ["exit 9", "echo 'No devices were found'", "sleep 60"])
    @pytest.mark.skipif(os.name != "posix", reason="a shell script stands for the driver's program")
    def test_a_driver_that_says_nothing_useful(self, said, tmp_path, monkeypatch):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{said}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(machine, "_DRIVER_PATIENCE_S", 0.3)
        assert machine.cards() == []


def test_colours_only_on_a_terminal(monkeypatch):
    class Terminal:
        encoding = "utf-8"

        def isatty(self):
            return True

    from blip2tools.checkpoints.selftest import Finding
    from blip2tools.cli.doctor.report import Section

    section = Section(title="things", findings=(Finding(name="a", status="failed", sentence="bad", remedy="mend it"),))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;31m✗" in "\n".join(Voice(Terminal()).section(section))
    monkeypatch.setenv("NO_COLOR", "1")
    assert list(Voice(Terminal()).section(section)) == ["things", "  ✗ a  bad", "       → mend it", ""]
