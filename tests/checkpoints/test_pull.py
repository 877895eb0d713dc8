"""Downloads from a hub on the loopback: what is fetched, what is refused, and how an interrupted download resumes."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blip2tools import checkpoints
from blip2tools.checkpoints import family
from blip2tools.errors import ModelUnavailableError
from tests.support import forked
from tests.support.hub_server import Hub, running

PULL = """
import json, sys
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 65536
from blip2tools import checkpoints
from blip2tools.errors import ModelUnavailableError
from blip2tools.settings import Settings
name, anyway, given = sys.argv[1], sys.argv[2] == "anyway", json.loads(sys.argv[3])
settings = Settings.load({}, **{"model": name, "device": "cpu"} | given)
told = []
try:
    checkpoints.fetch(name, settings, lambda what, share: told.append((what, share)), anyway=anyway)
    outcome = {}
except ModelUnavailableError as error:
    outcome = {"error": error.message}
try:
    found = checkpoints.locate(settings).captioner
    folder = found.folder
    outcome |= {"here": found.here, "revision": found.revision, "name": found.name}
    if folder is not None:
        outcome |= {"files": sorted(file.name for file in folder.iterdir()), "folder": str(folder)}
except ModelUnavailableError as error:
    outcome |= {"here": False}
print(json.dumps(outcome | {"told": told}))
"""
LIMITED = {"device": "spread", "max_memory": ["cpu=6GiB"]}
NAME, REPOSITORY = "opt-2.7b", "Salesforce/blip2-opt-2.7b"


@pytest.fixture
def server():
    files = {file.name: file.read_bytes() for file in family.demo_folder("captioner").iterdir()}
    files |= {"pytorch_model.bin": b"pickle", "README.md": b"hello", "modeling_evil.py": b"1", "sub/x.json": b"{}"}
    with running(Hub(repositories={REPOSITORY: files})) as served:
        yield served


@pytest.fixture
def pull(server, tmp_path):
    def run(name=NAME, given=None, anyway=True, **environment):
        done = forked.run(
            [sys.executable, "-W", "error", "-c", PULL, name, "anyway" if anyway else "", json.dumps(given or {})],
            text=True,
            cwd=Path(checkpoints.__file__).parents[2],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))},
                "HF_ENDPOINT": server.url,
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_DISABLE_TELEMETRY": "1",
                **environment,
            },
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


class TestPull:
    """Against a hub on the loopback, each in a process of its own, as the hub's client reads its environment once."""

    def test_fetches_what_is_safe_and_nothing_else(self, pull, server):
        outcome = pull()
        assert outcome["here"]
        assert outcome["files"] == sorted(file.name for file in family.demo_folder("captioner").iterdir())
        assert not {"pytorch_model.bin", "modeling_evil.py", "x.json"} & set(server.downloads())
        shares = [share for what, share in outcome["told"] if what == "downloading opt-2.7b"]
        assert shares == sorted(shares)
        assert shares[-1] == 1
        assert len(shares) > 10
        server.requests.clear()
        assert pull()["here"]
        assert server.downloads() == []

    def test_takes_up_a_broken_line(self, pull, server):
        server.break_after["model.safetensors"] = [500_000, 700_000]
        outcome = pull()
        assert outcome["here"]
        ranges = [wanted for method, path, wanted in server.requests if method == "GET" and "safetensors" in path]
        assert [wanted is None for wanted in ranges] == [True, False, False]
        stored = Path(outcome["folder"], "model.safetensors").read_bytes()
        assert stored == server.repositories[REPOSITORY]["model.safetensors"]

    def test_an_older_copy_stays_in_use_until_the_new_one_is_complete(self, pull, server):
        first = pull()
        server.repositories[REPOSITORY]["config.json"] += b"\n"
        spare = server.repositories[REPOSITORY].pop("tokenizer.json")
        failed = pull()
        assert "lacks the tokenizer" in failed["error"]
        assert failed["here"]
        server.repositories[REPOSITORY]["tokenizer.json"] = spare
        again = pull()
        assert again["folder"] != first["folder"]
        assert again["here"]

    def test_a_repository_without_weights_is_refused(self, pull, server):
        del server.repositories[REPOSITORY]["model.safetensors"]
        del server.repositories[REPOSITORY]["pytorch_model.bin"]
        outcome = pull()
        assert outcome["error"] == "The repository of opt-2.7b has no weights that can be loaded."
        assert server.downloads() == []
        assert not outcome["here"]

    def test_what_is_not_blip2_is_refused_before_its_weights_are_fetched(self, pull, server):
        server.repositories["some/llama"] = server.repositories[REPOSITORY] | {
            "config.json": b'{"model_type": "llama"}'
        }
        assert pull("some/llama")["error"] == "some/llama is not a BLIP-2 model."
        assert server.downloads() == ["config.json"]

    def test_a_full_disk_is_known_before(self, pull, server):
        server.claimed_sizes["model.safetensors"] = 10**15
        outcome = pull()
        assert "opt-2.7b needs 1000000.0 GB of disk" in outcome["error"]
        assert server.downloads() == []

    def test_unknown_gated_and_unreachable(self, pull, server):
        assert "no public model named some/thing" in pull("some/thing")["error"]
        server.gated.add("some/gated")
        assert "terms" in pull("some/gated")["error"]
        assert "(HF_HUB_OFFLINE); unset" in pull(HF_HUB_OFFLINE="1")["error"]
        assert "(TRANSFORMERS_OFFLINE); unset" in pull(TRANSFORMERS_OFFLINE="1")["error"]
        unreachable = pull(HF_ENDPOINT="http://127.0.0.1:9")["error"]
        assert unreachable == (
            "The download of opt-2.7b failed; check the network and run `blip2tools pull opt-2.7b` again, "
            "finished files are kept."
        )

    @pytest.mark.parametrize("name", ["auto", "none", "demo", "rubbish", "a/b/c", "../x", "/etc/passwd", ""])
    def test_names_without_a_download(self, name):
        with pytest.raises(ModelUnavailableError, match=r"flan-t5-xl, .*itm-vit-g"):
            checkpoints.pull(name)


def pickled(**replaced):
    """The demo's captioner as torch pickles it."""
    weights = load_file(family.demo_folder("captioner") / "model.safetensors")
    stream = io.BytesIO()
    torch.save(weights | replaced, stream)
    return stream.getvalue()


class TestRevisions:
    """The same hub, with pull requests and tags."""

    def test_a_pinned_revision_is_fetched_named_and_used_alone(self, pull, server):
        main = server.repositories[REPOSITORY]
        tagged = main | {"config.json": main["config.json"] + b"\n"}
        server.branches[REPOSITORY, "v1"] = tagged
        pinned = pull(given={"revision": "v1"})
        assert pinned["revision"] == server.revision(tagged) != server.revision(main)
        assert Path(pinned["folder"], "config.json").read_bytes() == tagged["config.json"]
        server.requests.clear()
        # The pin holds without the network, by tag and by commit; nothing else counts as here.
        for revision in ("v1", pinned["revision"]):
            assert pull(given={"revision": revision, "offline": True})["revision"] == pinned["revision"]
        assert not pull(given={"offline": True})["here"]
        assert server.requests == []

    def test_a_full_commit_is_a_revision_too(self, pull, server):
        commit = server.revision(server.repositories[REPOSITORY])
        assert pull(given={"revision": commit})["revision"] == commit

    def test_a_revision_that_is_not_there(self, pull):
        assert "no such revision; check `--revision`" in pull(given={"revision": "refs/pr/9"})["error"]

    def test_pickles_are_refused_with_the_pull_request_that_has_safetensors(self, pull, server):
        files = server.repositories[REPOSITORY]
        converted = dict(files)
        weights = files.pop("model.safetensors")
        assert weights
        server.branches[REPOSITORY, "refs/pr/2"] = dict(files)
        server.branches[REPOSITORY, "refs/pr/5"] = converted
        server.branches[REPOSITORY, "refs/pr/11"] = dict(files)
        error = pull()["error"]
        assert error.startswith("The repository of opt-2.7b has pickled weights only, which can run code")
        assert "`--revision refs/pr/5`, a pull request that holds safetensors" in error
        assert "`--allow-pickle`" in error
        assert server.downloads() == []
        outcome = pull(given={"revision": "refs/pr/5"})
        assert outcome["here"]
        assert "pytorch_model.bin" not in outcome["files"]

    def test_pickles_are_fetched_where_they_are_allowed(self, pull, server):
        files = server.repositories[REPOSITORY]
        del files["model.safetensors"]
        files["pytorch_model.bin"] = pickled()
        assert "add `--revision` with one that holds safetensors, or `--allow-pickle`" in pull()["error"]
        outcome = pull(given={"allow_pickle": True})
        assert outcome["here"]
        assert "pytorch_model.bin" in outcome["files"]
        assert not pull(given={"offline": True})["here"]

    def test_safetensors_are_preferred_to_allowed_pickles(self, pull, server):
        assert "pytorch_model.bin" not in pull(given={"allow_pickle": True})["files"]
        assert "pytorch_model.bin" not in server.downloads()

    def test_offline_is_refused_before_anything_is_asked(self, pull, server):
        assert "switched off (`offline`)" in pull(given={"offline": True})["error"]
        assert server.requests == []


class TestAdapters:
    def test_an_adapter_comes_with_the_model_that_it_changes(self, pull, server):
        server.branches[REPOSITORY, "v1"] = dict(server.repositories[REPOSITORY])
        config = {"base_model_name_or_path": REPOSITORY, "revision": "v1", "peft_type": "LORA"}
        server.repositories["some/lora"] = {
            "adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": b"x", "README.md": b"x",
            "adapter_model.bin": b"x", "code.py": b"x",
        }  # fmt: skip
        outcome = pull("some/lora")
        assert (outcome["here"], outcome["name"]) == (True, "some/lora on opt-2.7b")
        assert outcome["revision"] == server.revision(server.branches[REPOSITORY, "v1"])
        assert sorted(server.downloads())[:2] == ["adapter_config.json", "adapter_model.safetensors"]
        assert not {"adapter_model.bin", "code.py", "pytorch_model.bin"} & set(server.downloads())

    def test_pickled_adapters_are_refused_too(self, pull, server):
        config = {"base_model_name_or_path": REPOSITORY, "peft_type": "LORA"}
        server.repositories["some/lora"] = {
            "adapter_config.json": json.dumps(config).encode(), "adapter_model.bin": b"x",
        }  # fmt: skip
        assert "pickled weights only" in pull("some/lora")["error"]


class TestCommandLine:
    def test_a_pinned_pull(self, server, tmp_path):
        server.branches[REPOSITORY, "v1"] = dict(server.repositories[REPOSITORY])
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-m", "blip2tools", "pull", NAME, "--revision", "v1", "--anyway"]
        done = forked.run(command, text=True, env=environment)
        assert (done.returncode, done.stdout) == (0, "")
        assert "opt-2.7b is ready." in done.stderr
        [reference] = (tmp_path / "home").rglob("refs/v1")
        assert reference.read_text() == server.revision(server.branches[REPOSITORY, "v1"])


class TestAdmission:
    """Models that are too large for this machine are refused before they are fetched."""

    def test_a_family_member_before_the_hub_is_asked(self, pull, server):
        limited = pull(given=LIMITED, anyway=False)
        assert limited["error"].startswith(
            "opt-2.7b needs 15.0 GB of memory on all devices together, only 6.4 GB is free: no model of the family fits there"
        )
        assert server.requests == []

    def test_another_model_before_its_weights_are_fetched(self, pull, server):
        server.repositories["some/blip2"] = dict(server.repositories[REPOSITORY])
        server.claimed_sizes["model.safetensors"] = 5 * 10**9  # in float16, as the demo is stored
        outcome = pull("some/blip2", given=LIMITED, anyway=False)
        assert "some/blip2 needs 10.0 GB of memory" in outcome["error"]
        assert "`--dtype bfloat16` (5.0 GB)" in outcome["error"]
        assert "model.safetensors" not in server.downloads()
        assert "config.json" in server.downloads()
