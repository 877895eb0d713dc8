"""Replicas on Ray: no call is lost when one dies, nothing listens beyond this machine, and nothing is left behind."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import httpx2
import pytest

from blip2tools.engine.replicas import cluster
from blip2tools.errors import InvalidInputError
from blip2tools.settings import environment_without_settings
from tests.conftest import REPOSITORY, run_cli


def needs_ray(test):
    """Processes that each import torch, on a machine with much else to do."""
    return pytest.mark.ray(pytest.mark.slow(pytest.mark.timeout(900)(test)))


@pytest.fixture
def environment(tmp_path):
    """A home of its own, in which Ray may write what it likes."""
    pytest.importorskip("ray")
    clean = environment_without_settings(keep=["cache_dir", "use_server"])
    return {**clean, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}


def left_over():
    """Folders of Ray's that this package has made."""
    return set(Path("/tmp").glob("blip2tools-ray-*"))


@needs_ray
def test_a_replica_that_dies_costs_no_call(environment, folder, pictures, tmp_path):
    before = left_over()
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.ray_gateways", folder, "1200"],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["first"] == pictures[0].caption
    assert facts["by handle"] == pictures[1].caption, "uploaded to one gateway, asked about at the other"
    assert facts["status"] == ["demo", "cpu", True]
    assert set(facts["listening"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert facts["gone"][0] == 0
    assert facts["gone"][1] >= 1
    assert set(facts["crowded"]) == {"CaptionResult", "busy"}
    assert facts["ends"] == {"answered": 1200}
    assert facts["replaced"] == 1
    assert "other settings (matcher)" in facts["another model"]
    assert left_over() == before
    assert not (tmp_path / ".ray").exists()


@needs_ray
def test_serving_with_replicas(environment, folder, pictures):
    before = left_over()
    words = ("serve", "--http", "--port", "0", "--ray", "--replicas", "1", "--model", "demo", "--threads", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "blip2tools", *words, "--allow-dir", folder],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True,
    )  # fmt: skip
    try:
        said = iter(process.stderr.readline, "")
        token = re.search(r"the token of this run: (\S+)", next(line for line in said if "token of this run" in line))[
            1
        ]
        url = re.search(r"http://127\.0\.0\.1:\d+", next(line for line in said if "serving MCP" in line))[0]
        rest = threading.Thread(target=lambda: [None for _ in said], daemon=True)
        rest.start()
        with httpx2.Client(base_url=url, timeout=200) as client:
            assert client.get("/readyz").status_code == 401
            client.headers["authorization"] = f"Bearer {token}"
            answer = client.post("/api/caption", json={"image": pictures[0].path.name}).json()
            while answer.get("code") == "model_unavailable":
                answer = client.post("/api/caption", json={"image": pictures[0].path.name}).json()
            assert answer["text"] == pictures[0].caption
            assert client.get("/readyz").json()["ready"] is True
        process.send_signal(signal.SIGTERM)
        process.wait(100)
        rest.join(10)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert left_over() == before


@needs_ray
def test_a_run_of_many_processes(environment, folder, pictures, tmp_path):
    (tmp_path / "in").mkdir()
    for drawn in pictures:
        (tmp_path / "in" / drawn.path.name).write_bytes(drawn.path.read_bytes())
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    words = ("run", "caption", "in", "--output", "out.jsonl", "--model", "demo", "--threads", "1")
    command = [sys.executable, "-m", "blip2tools", *words, "--ray", "--replicas", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 1, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == ["in/broken.png", *(f"in/{drawn.path.name}" for drawn in pictures)]
    assert [row.get("text") for row in rows] == [None, *(drawn.caption for drawn in pictures)]
    assert rows[1]["image"]["source"] == rows[1]["source"]
    assert done.stderr.splitlines()[-1].startswith("7 of 7 pictures, 1 failed, ")
    # The same rows as without Ray, so either goes on where the other stopped.
    (tmp_path / "in" / "new.png").write_bytes(pictures[0].path.read_bytes() + b"\n")
    again = run_cli(*words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 8


@needs_ray
def test_a_class_for_ones_own_pipeline(environment):
    """The program of the guide, on loopback addresses."""
    guide = (REPOSITORY / "docs" / "scale.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", guide, flags=re.M | re.S)
    (expected,) = re.findall(r"^print\(.*\)  # ([^\n]*)$", code, flags=re.M | re.S)
    alone = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-") as short:  # sockets lie below it
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=800,
            env={**environment, **alone, "RAY_TMPDIR": short},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == expected


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match=r"pip install 'blip2tools\[ray\]'"), cluster.connected(None, cpus=1):
        pass


def test_options_of_ray_without_it(tmp_path):
    for words, said in [
        (("serve", "--ray"), "--ray only works with --http"),
        (("serve", "--http", "--ray-address", "auto"), "--ray-address only works with --ray"),
        (("run", "caption", ".", "-o", "o.csv", "--ray", "--replicas", "0"), "from 1 to 1024"),
    ]:
        done = run_cli(*words, cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr
