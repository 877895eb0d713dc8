"""The sight test through the proxy: a blind model behind it plays the games with the official clients of OpenAI and Anthropic.

The model is the scripted player of `player.py` behind a server that refuses to have seen any picture (`blind_upstream.py`); its
clients paste the pictures into the chat, in one piece or as a stream, over all three protocols. What it knows of them has come
through the proxy as words, and it looks again with the tools that the proxy offers. Played once more with the pictures of other
games it must fall to chance.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import io
import json
import math
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import anthropic
import openai
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from benchmarks.blind_upstream import BlindUpstream, Heard, Said
from benchmarks.games import GAMES, Game, GameKind, make_game
from benchmarks.player import play_with_tools, read_task
from benchmarks.sight import BAND, Score, SightReport
from blip2tools.server.chat.serve import build_proxy_server
from blip2tools.server.http.serve import Listener
from blip2tools.vision import Vision

AT_ONCE: Final = 4


@contextlib.contextmanager
def proxy_in_thread(vision: Vision, **options: Any) -> Iterator[str]:
    """A proxy on a free port of loopback, in front of the upstream that the settings name; gives its address."""
    listener = Listener("127.0.0.1", 0, vision.settings)
    server = build_proxy_server(vision, listener, **options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener.socket]})
    thread.start()
    try:
        yield listener.url
    finally:
        server.should_exit = True
        thread.join(60)
        listener.__exit__(None, None, None)


def play_blind(heard: Heard) -> Said:
    """The next step of the player, who gets handles where the game has names."""
    text = next(said for kind, said in heard.talk if kind == "user")
    names = read_task(text).pictures
    handles = re.findall(r"\[image (img_[0-9a-f]{16}):", text)
    if len(set(handles)) != len(names):
        return Said("I was shown no pictures.")
    name_of, handle_of = dict(zip(handles, names, strict=True)), dict(zip(names, handles, strict=True))
    messages: list[BaseMessage] = [HumanMessage(text)]
    for kind, said in heard.talk:
        if kind == "call":
            number, name, arguments = said
            known = {**arguments, "image": name_of[arguments["image"]]}
            messages.append(
                AIMessage("", tool_calls=[{"id": number, "name": name, "args": known, "type": "tool_call"}])
            )
        elif kind == "result":
            messages.append(ToolMessage(said[1], tool_call_id=said[0]))
    step = play_with_tools(messages)
    calls = [(call["name"], {**call["args"], "image": handle_of[call["args"]["image"]]}) for call in step.tool_calls]
    return Said(step.text, calls)


def _png(picture: Any) -> str:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def _of_completions(url: str, text: str, pictures: list[str], *, stream: bool) -> str:
    parts: list[Any] = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{one}"}} for one in pictures]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        messages: Any = [{"role": "user", "content": parts}]
        if stream:
            chunks = client.chat.completions.create(model="blind", messages=messages, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return client.chat.completions.create(model="blind", messages=messages).choices[0].message.content or ""


def _of_responses(url: str, text: str, pictures: list[str], *, stream: bool) -> str:
    parts: list[Any] = [{"type": "input_text", "text": text}]
    parts += [{"type": "input_image", "image_url": f"data:image/png;base64,{one}"} for one in pictures]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        given: Any = [{"role": "user", "content": parts}]
        if stream:
            with client.responses.stream(model="blind", input=given) as events:
                return events.get_final_response().output_text
        return client.responses.create(model="blind", input=given).output_text


def _of_messages(url: str, text: str, pictures: list[str], *, stream: bool) -> str:
    content: list[Any] = [{"type": "text", "text": text}]
    content += [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": one}} for one in pictures
    ]
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=300) as client:
        messages: Any = [{"role": "user", "content": content}]
        if stream:
            with client.messages.stream(model="blind", max_tokens=999, messages=messages) as events:
                answer: Any = events.get_final_message()
        else:
            answer = client.messages.create(model="blind", max_tokens=999, messages=messages)
        return "".join(block.text for block in answer.content if block.type == "text")


_PROTOCOLS: Final[dict[str, Callable[..., str]]] = {
    "completions": _of_completions,
    "responses": _of_responses,
    "messages": _of_messages,
}
WAYS: Final = tuple((protocol, stream) for protocol in _PROTOCOLS for stream in (False, True))


def run_chats(
    *, seed: int, games: int, kinds: Sequence[GameKind] = GAMES, ways: Sequence[tuple[str, bool]] = WAYS
) -> dict[tuple[str, bool], tuple[float, float, int]]:
    """Play every game over every way, with its own pictures and with another's.

    Returns:
        By way: the score, the score with the pictures exchanged, and how many requests with a picture reached the upstream.
    """
    upstream = BlindUpstream(play_blind)
    found = {}
    try:
        with (
            Vision.load(model="demo", matcher="demo", allowed_dirs=(), upstream=upstream.url, threads=1) as vision,
            proxy_in_thread(vision) as url,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            for way in ways:
                score = _score(pool, url, way, _deals(seed, games, kinds, swapped=False))
                swapped = _score(pool, url, way, _deals(seed, games, kinds, swapped=True))
                found[way] = score, swapped, len(upstream.pictures)
    finally:
        upstream.end()
    return found


def _deals(seed: int, games: int, kinds: Sequence[GameKind], *, swapped: bool) -> list[tuple[Game, Game]]:
    """Each game, and the one whose pictures are shown."""
    dealt: list[tuple[Game, Game]] = []
    for kind in kinds:
        made = [make_game(kind, seed, number) for number in range(games)]
        dealt += zip(made, [*made[1:], made[0]] if swapped else made, strict=True)
    return dealt


def _score(pool: ThreadPoolExecutor, url: str, way: tuple[str, bool], dealt: list[tuple[Game, Game]]) -> float:
    protocol, stream = way

    def play(pair: tuple[Game, Game]) -> float:
        game, shown = pair
        said = _PROTOCOLS[protocol](url, game.text, [_png(one) for one in shown.pictures.values()], stream=stream)
        return game.score(said)

    return math.fsum(pool.map(play, dealt)) / len(dealt)


def chance_of(seed: int, games: int, kinds: Sequence[GameKind] = GAMES) -> tuple[float, float]:
    """The score of who guesses, and how far from it chance may lead 99 times of 100."""
    scores = [Score(kind, 0, 0, 0, make_game(kind, seed, 0).chance) for kind in kinds]
    report = SightReport(seed, games, "", tuple(scores))
    return report.total.chance, BAND * report.error


def main(argv: Sequence[str] | None = None) -> int:
    """Play, count, print.

    Args:
        argv: the words after the program's name; the process's own by default.

    Returns:
        The exit status: 0 if the bars are met.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chat_sight", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="draws the pictures and questions (default 1)")
    parser.add_argument("--games", type=int, default=10, help="games of each kind (default 10)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args(argv)
    found = run_chats(seed=arguments.seed, games=arguments.games)
    chance, band = chance_of(arguments.seed, arguments.games)
    rows: list[dict[str, Any]] = [
        {"protocol": protocol, "streamed": stream, "score": score, "swapped": swapped, "pictures_upstream": leaked}
        for (protocol, stream), (score, swapped, leaked) in found.items()
    ]
    if arguments.json:
        sys.stdout.write(json.dumps({"chance": chance, "band": band, "ways": rows}) + "\n")
    else:
        sys.stdout.write("| protocol | streamed | score | pictures swapped |\n|---|---|---:|---:|\n")
        for row in rows:
            streamed = "yes" if row["streamed"] else "no"
            sys.stdout.write(f"| {row['protocol']} | {streamed} | {row['score']:.0%} | {row['swapped']:.0%} |\n")
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        sys.stdout.write(f"\n{date}, seed {arguments.seed}, {arguments.games} games of each kind; ")
        sys.stdout.write(f"guessing gives {chance:.0%}, within {band:.0%} 99 times of 100\n")
    good = all(
        row["score"] >= 0.9 and abs(row["swapped"] - chance) <= band and not row["pictures_upstream"] for row in rows
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
