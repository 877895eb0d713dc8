"""One side of `bench cpu` in a process of its own: a line of JSON in, a line of JSON out.

The first line says what to load. Each further one names a case, which is run once; the answer holds its seconds of CPU time. What
would be too long for a line, as logits are, goes into a file that the task names.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from blip2tools.cli.bench.engine import NEW_TOKENS, make_pictures, questions, statements

SIDES: Final = ("stock", "float32", "8bit", "4bit")
TEXTS: Final = 32  # of a match
AGREEMENT, COMPARED = "agreement", 8  # texts of each picture there
GREEDY, BEAMS = "one caption, greedy", "one caption, 5 beams"
KNOWN, MATCH = "a question about a known picture", f"match, 1 picture x {TEXTS} texts"
CASES: Final = (GREEDY, BEAMS, KNOWN, MATCH)
_PROMPT: Final = "Question: {} Short answer:"


def memory() -> dict[str, int]:
    """Bytes of main memory that this process takes, and the most that it took."""
    from blip2tools.checkpoints.memory import process_bytes

    gc.collect()
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"resident": process_bytes(), "peak": peak}


class StockSide:
    """The library's own classes, one call at a time: it reads every picture anew for every text."""

    def __init__(self, asked: dict[str, Any]) -> None:
        import torch

        from blip2tools.cli.bench.pairs import stock

        torch.set_num_threads(asked["threads"])
        self._captioner: Any = None
        self._matcher: Any = None
        where = torch.float32, "cpu"
        if asked["captions"]:
            self._captioner, self._reader = stock("Blip2ForConditionalGeneration", asked["model"], *where)
        if asked["matcher"] is not None:
            self._matcher, self._judge = stock("Blip2ForImageTextRetrieval", asked["matcher"], *where)

    def run(self, case: str, seed: int) -> float:
        """One case; its seconds."""
        import torch

        image = _image(seed)
        started = time.process_time()
        with torch.inference_mode():
            if case == MATCH:  # each text is a pass of its own: one is measured, and counted so many times
                inputs = self._judge(images=image, text=statements(1)[0], return_tensors="pt")
                self._matcher(**inputs, use_image_text_matching_head=True)
                return TEXTS * (time.process_time() - started)
            words = {"text": _PROMPT.format(questions(1)[0])} if case == KNOWN else {}
            inputs = self._reader(images=image, return_tensors="pt", **words)
            beams = 5 if case == BEAMS else 1
            self._captioner.generate(
                **inputs, do_sample=False, num_beams=beams, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS
            )
        return time.process_time() - started

    def stages(self, seed: int) -> dict[str, float]:
        """Nothing: the library's steps are not taken apart."""
        return {}

    def pause(self) -> float:
        """Nothing: the library does not use pauses."""
        return 0.0

    def close(self) -> None:
        """Nothing: the library has no threads to end."""


class OwnSide:
    """This package: `Vision` over a loaded model, from the encoded picture to the answer."""

    def __init__(self, asked: dict[str, Any]) -> None:
        from blip2tools import checkpoints
        from blip2tools.settings import Settings

        self._settings = Settings.check(
            {
                "model": asked["model"],
                "matcher": asked["matcher"] or "none",
                "device": "cpu",
                "threads": asked["threads"],
                "quantize": "none" if asked["side"] == "float32" else asked["side"],
                "cache_dir": asked["cache"],
            }
        )
        self._loaded = checkpoints.load(self._settings)
        self._captions = bool(asked["captions"])
        self._eyes: dict[tuple[int, bool], Any] = {}

    def run(self, case: str, seed: int) -> float:
        """One case; its seconds."""
        data = make_pictures(1, seed)[0]
        vision = self._vision(5 if case == BEAMS else 1, matcher=case == MATCH)
        if case == KNOWN:
            vision.ask(data, "and now?")
        started = time.process_time()
        if case == MATCH:
            vision.match(data, statements(TEXTS))
        elif case == KNOWN:
            vision.ask(data, questions(1)[0])
        else:
            vision.caption(data)
        return time.process_time() - started

    def stages(self, seed: int) -> dict[str, float]:
        """Seconds of each stage, one after the other."""
        from blip2tools.model.options import GenerationOptions

        loaded, found = self._loaded, {}
        captioner = loaded.captioner

        def timed(name: str, work: Callable[[], Any]) -> Any:
            started = time.process_time()
            result = work()
            found[name] = time.process_time() - started
            return result

        pixels = loaded.pixels(_image(seed))
        states = timed("vision tower", lambda: captioner.trunk.see(pixels))
        if loaded.matcher is not None and loaded.matcher_words is not None:
            encode, matcher = loaded.matcher_words, loaded.matcher
            timed(
                f"match of {TEXTS} texts", lambda: matcher.match(states, [encode(one).ids for one in statements(TEXTS)])
            )
        tokens = timed("Q-Former", lambda: captioner.query(states))
        prompt = loaded.words.caption("").ids
        timed("reading picture and prompt", lambda: captioner.first_logits(tokens, [prompt]))
        for beams in (1, 5):
            options = GenerationOptions(num_beams=beams, min_new_tokens=NEW_TOKENS, length_penalty=0.0)
            name = f"a token, {beams} beam{'s' if beams > 1 else ''}"
            speak = partial(captioner.speak, tokens, [prompt], options, max_new_tokens=[NEW_TOKENS])
            timed(name, speak)
            # The first token comes with the prompt.
            found[name] = max(0.0, found[name] - found["reading picture and prompt"]) / (NEW_TOKENS - 1)
        return found

    def pause(self) -> float:
        """Do what an engine does when no request has come for a while; seconds."""
        from blip2tools.engine.memory import settle

        started = time.process_time()
        for _ in settle(self._loaded):
            pass
        return time.process_time() - started

    def agreement(self, seed: int, count: int) -> dict[str, Any]:
        """What another precision is compared in: the first `logits` about pictures, and the probabilities of each `match`.

        Args:
            seed: of the pictures.
            count: how many; every other one is asked about, the rest are described.
        """
        import torch

        loaded = self._loaded
        found: dict[str, list[Any]] = {"logits": [], "match": []}
        for number, (image, question) in enumerate(zip(_images(count, seed), questions(count), strict=True)):
            states = loaded.captioner.trunk.see(loaded.pixels(image))
            if self._captions:
                prompt = loaded.words.question(question) if number % 2 else loaded.words.caption("")
                tokens = loaded.captioner.query(states)
                found["logits"].append(loaded.captioner.first_logits(tokens, [prompt.ids])[0])
            if loaded.matcher is not None and loaded.matcher_pixels is not None and loaded.matcher_words is not None:
                if not loaded.shared_trunk:
                    states = loaded.matcher.trunk.see(loaded.matcher_pixels(image))
                ids = [loaded.matcher_words(text).ids for text in statements(COMPARED)]
                found["match"].append(loaded.matcher.match(states, ids).softmax(-1)[:, 1])
        return {name: torch.stack(rows) for name, rows in found.items() if rows}

    def close(self) -> None:
        """End the engines."""
        for vision in self._eyes.values():
            vision.close()

    def _vision(self, beams: int, *, matcher: bool) -> Any:
        key = beams, matcher
        if key not in self._eyes:
            from blip2tools.cli.bench.engine import eyes

            self._eyes[key] = eyes(self._loaded, beams, matcher=matcher)
        return self._eyes[key]


def _image(seed: int) -> Any:
    return _images(1, seed)[0]


def _images(count: int, seed: int) -> list[Any]:
    import io

    from PIL import Image

    return [Image.open(io.BytesIO(data)).convert("RGB") for data in make_pictures(count, seed)]


def serve(asked: dict[str, Any], receive: Callable[[], str], send: Callable[[dict[str, Any]], None]) -> None:
    """Load a side and run what is asked of it until the lines end.

    Args:
        asked: side, model, matcher, captions, threads, cache.
        receive: the next line, empty at the end.
        send: an answer.
    """
    before, wall = time.process_time(), time.perf_counter()
    empty = memory()["resident"]
    side: StockSide | OwnSide = StockSide(asked) if asked["side"] == "stock" else OwnSide(asked)
    loaded = {"load_cpu_s": time.process_time() - before, "load_wall_s": time.perf_counter() - wall}
    send({**loaded, "start_cpu_s": time.process_time(), "imports_bytes": empty, **memory()})
    try:
        while line := receive():
            task = json.loads(line)
            if task["case"] == "memory":
                send(memory())
            elif task["case"] == "stages":
                send(side.stages(task["seed"]))
            elif task["case"] == "pause":
                send({"seconds": side.pause()})
            elif task["case"] == AGREEMENT and isinstance(side, OwnSide):
                import torch

                began = time.process_time()
                torch.save(side.agreement(task["seed"], task["count"]), task["file"])
                send({"seconds": time.process_time() - began})
            else:
                send({"seconds": side.run(task["case"], task["seed"])})
    finally:
        side.close()


def main() -> None:
    """Speak over standard input and output; all else that is printed goes to standard error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("asked", type=json.loads)
    out = sys.stdout
    sys.stdout = sys.stderr

    def send(answer: dict[str, Any]) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    serve(parser.parse_args().asked, sys.stdin.readline, send)


if __name__ == "__main__":
    main()
