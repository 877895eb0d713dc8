"""Commands that tests start are forked from one process, are processes of their own, and end as they would anywhere."""

import os
import signal
import subprocess
import sys

import pytest

from blip2tools.settings import environment_without_settings
from tests.support import forked

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def code(program, **options):
    return forked.start([sys.executable, "-W", "error", "-c", program], **PIPES, **options)


def usual(**more):
    return {**environment_without_settings(keep=["cache_dir", "use_server"]), "OMP_NUM_THREADS": "1", **more}


def test_what_tests_start_is_forked_and_what_is_read_by_an_import_is_not():
    """Otherwise the suite would only be slower, for no visible reason."""
    with code("import sys; print('torch' in sys.modules)", env=usual(BLIP2TOOLS_MODEL="demo")) as child:
        assert isinstance(child, forked.ForkedProcess)
        assert child.communicate(timeout=200) == (b"True\n", b"")
    with code("pass", env=usual(PYTHONPATH="/nowhere")) as fresh:
        assert isinstance(fresh, subprocess.Popen)


def test_variables_of_the_hub_and_of_streams_are_read_once_more():
    said = (
        "import sys; from huggingface_hub import constants as c; print(c.HF_HUB_CACHE, c.ENDPOINT, sys.stdout.encoding)"
    )
    environment = usual(HF_HOME="/nowhere", HF_ENDPOINT="http://127.0.0.1:9", PYTHONIOENCODING="ascii")
    with code(said, env=environment) as child:
        assert isinstance(child, forked.ForkedProcess)
        assert child.communicate(timeout=200) == (b"/nowhere/hub http://127.0.0.1:9 ascii\n", b"")


def test_its_streams_folder_words_and_variables_are_its_own(tmp_path):
    said = "import os, sys; print(os.getcwd(), sys.argv, os.environ['BLIP2TOOLS_X'], sys.stdin.read()); sys.exit(7)"
    with code(said, cwd=tmp_path, env=usual(BLIP2TOOLS_X="y"), text=True) as child:
        assert child.communicate("told", timeout=200) == (f"{tmp_path} ['-c'] y told\n", "")
    assert child.returncode == 7
    assert child.pid != os.getpid()
    assert "BLIP2TOOLS_X" not in os.environ


def test_an_uncaught_exception_and_a_warning_that_is_an_error():
    with code("import warnings; warnings.warn('oh')") as child:
        _, told = child.communicate(timeout=200)
    assert child.returncode == 1
    assert told.endswith(b"UserWarning: oh\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it(number):
    with code("import time; print(1, flush=True); time.sleep(600)") as child:
        assert child.stdout.readline() == b"1\n"
        assert child.poll() is None
        child.send_signal(number)
        assert child.wait(100) == -number


def test_what_is_to_be_done_at_the_end_is_done():
    at_end = (
        "import atexit, threading, time\n"
        "atexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\n"
        "print('first', end=' ')\n"
    )
    with code(at_end, text=True) as child:
        assert child.communicate(timeout=200)[0] == "first thread\nlast\n"
