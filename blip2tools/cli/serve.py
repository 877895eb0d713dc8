"""`blip2tools serve`: the tools over MCP, on standard input and output or over HTTP."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, BinaryIO

from pydantic import SecretStr

from blip2tools.cli.console import OK, USAGE, say
from blip2tools.cli.options import (
    AddCommand,
    given_replicas,
    given_settings,
    names_a_model,
    ray_options,
    setting_options,
)
from blip2tools.errors import InvalidInputError
from blip2tools.settings import HTTP_SETTINGS, Settings, variable

if TYPE_CHECKING:
    from blip2tools.launcher.front import Front
    from blip2tools.vision import Vision


def _proxy(arguments: argparse.Namespace) -> int:
    logging.getLogger().setLevel(logging.INFO)
    settings = Settings.load(**given_settings(arguments))
    if settings.upstream is None:
        raise InvalidInputError("Name the server whose model gets eyes: --upstream http://127.0.0.1:8080.")
    if settings.allowed_dirs is None:
        # What somebody pastes into a chat must not open the folder that this command was started in.
        arguments.allowed_dirs = []
    try:
        from blip2tools.server.chat.serve import DEFAULT_PORT, serve_proxy
        from blip2tools.server.http.serve import DEFAULT_HOST, Listener
    except ModuleNotFoundError as error:
        return _without_extra(error)
    from blip2tools.vision import Vision

    with Listener(
        DEFAULT_HOST if arguments.host is None else arguments.host,
        DEFAULT_PORT if arguments.port is None else arguments.port,
        settings,
    ) as listener:
        vision = Vision.load(preload=False, download=names_a_model(arguments), **given_settings(arguments))
        vision.preload()
        serve_proxy(vision, listener)
    return OK


def _serve(arguments: argparse.Namespace) -> int:
    try:
        return _serve_http(arguments) if arguments.http else _serve_stdio(arguments)
    except ModuleNotFoundError as error:
        return _without_extra(error)


def _without_extra(error: ModuleNotFoundError) -> int:
    if error.name is None or error.name.partition(".")[0] not in ("mcp", "starlette", "uvicorn", "backports"):
        raise error
    say("The server needs an extra: pip install 'blip2tools[mcp]'")
    return USAGE


def _serve_http(arguments: argparse.Namespace) -> int:
    logging.getLogger().setLevel(logging.INFO)
    from blip2tools.server.http.serve import DEFAULT_HOST, DEFAULT_PORT, Listener, serve_http
    from blip2tools.server.local.listening import lent

    settings = Settings.load(**given_settings(arguments))
    if given_replicas(arguments) and settings.token is None:
        # What several processes serve is meant for others: who may call it must be said, or is nobody else yet.
        token = secrets.token_urlsafe(32)
        settings = settings.model_copy(update={"token": SecretStr(token)})
        say(f"the token of this run: {token} (set {variable('token')} for one that stays, and for several gateways)")
    with (
        Listener(
            DEFAULT_HOST if arguments.host is None else arguments.host,
            DEFAULT_PORT if arguments.port is None else arguments.port,
            settings,
        ) as listener,
        _eyes(arguments, settings) as vision,
    ):
        vision.preload()  # no handshake waits here, and a balancer waits for /readyz
        with nullcontext() if given_replicas(arguments) else lent(vision):
            serve_http(vision, listener, page=not arguments.no_ui)
    return OK


@contextmanager
def _eyes(arguments: argparse.Namespace, settings: Settings) -> Iterator[Vision]:
    """Over this process's own model, or over replicas on Ray. Whoever serves closes them."""
    from blip2tools import checkpoints
    from blip2tools.vision import Vision

    replicas, download = given_replicas(arguments), names_a_model(arguments)
    if not replicas:
        yield Vision.load(preload=False, download=download, **given_settings(arguments))
        return
    from blip2tools.engine.replicas.cluster import connected
    from blip2tools.engine.replicas.engine import deploy

    checkpoints.locate(settings)
    with connected(arguments.ray_address, cpus=replicas + 1):
        engine, store = deploy(settings, replicas, download=download)
        yield Vision(settings, engine, trusted=settings.allowed_dirs is None, store=store)


def _serve_stdio(arguments: argparse.Namespace) -> int:
    given_replicas(arguments)
    given = {
        "--ray": arguments.ray or None,
        "--host": arguments.host,
        "--port": arguments.port,
        "--no-ui": arguments.no_ui or None,
    }
    given |= {"--" + name.replace("_", "-"): getattr(arguments, name) for name in HTTP_SETTINGS}
    if useless := [flag for flag, value in given.items() if value is not None]:
        raise InvalidInputError(f"{useless[0]} only works with --http.")
    if importlib.util.find_spec("mcp") is None:
        raise ModuleNotFoundError(name="mcp")
    # Before any import that could print: standard output belongs to the protocol from here on.
    from blip2tools.launcher.wire import claim_stdout

    with claim_stdout() as wire:
        logging.getLogger().setLevel(logging.INFO)
        front = _answer_at_once(Settings.load(**given_settings(arguments)), wire)
        from blip2tools import checkpoints
        from blip2tools.server.local.listening import lent
        from blip2tools.server.stdio import serve_stdio
        from blip2tools.vision import Vision

        vision = Vision.load(preload=False, download=names_a_model(arguments), **given_settings(arguments))
        # Otherwise the first look at a picture loads the model: torch must not slow down the handshake.
        if arguments.preload or not checkpoints.locate(vision.settings).here:
            vision.preload()
        with lent(vision) as listening:
            serve_stdio(vision, front=front, wire=wire, at_end=listening.remove)  # ends the process


def _answer_at_once(settings: Settings, wire: BinaryIO) -> Front:
    """Answer the handshake and the lists from now on, while all the rest is imported: some clients wait for a second only."""
    from blip2tools import checkpoints
    from blip2tools.launcher.catalogue import Catalogue, places_of
    from blip2tools.launcher.front import Front
    from blip2tools.launcher.wire import claim_stdin, longest_line
    from blip2tools.pictures.folders import Folders
    from blip2tools.pictures.reading.reader import is_installed

    # The server sets its own when it is there; nothing is under way before that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os._exit(128 + number))
    checkpoints.locate(settings)  # a name that can never work is refused before a client hears anything
    folders = Folders(settings, trusted=False, reveal=True).described()
    front = Front(
        claim_stdin(),
        wire,
        Catalogue(places=places_of(folders), urls=settings.allow_urls, reads=is_installed()),
        limit=longest_line(min(settings.max_data_bytes, settings.max_image_bytes)),
        at_end=lambda waiting: None if waiting else os._exit(OK),
    )
    front.start()
    return front


def _add_serve_command(command: AddCommand) -> None:
    serve = command(
        "serve",
        _serve,
        "serve the tools to MCP clients",
        "Serve the tools over the Model Context Protocol on standard input and output.\n"
        "MCP clients start this command themselves: `blip2tools install CLIENT` writes it into their configuration.\n\n"
        "With --http one server serves many clients, with MCP at /mcp, pictures to POST /images and a page at /.",
    )
    serve.add_argument("--preload", action="store_true", help="load the model at once, not when the tools are listed")
    serve.add_argument("--http", action="store_true", help="serve over HTTP instead of standard input and output")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1); any other than loopback needs a token")
    serve.add_argument("--port", type=int, metavar="N", help="port to listen on (default 8765); 0 takes a free one")
    serve.add_argument("--no-ui", action="store_true", help="no page at /")
    ray_options(serve)
    setting_options(serve, http=True)

    proxy = command(
        "proxy",
        _proxy,
        "give a chat model that cannot see eyes",
        "Stand in front of a server of a model that cannot see (llama.cpp, Ollama, vLLM, any that speaks OpenAI's Chat\n"
        "Completions or Responses, or Anthropic's Messages). Pictures in a conversation become words, and the model gets the\n"
        "vision tools to look again; all else passes as it is. Point a chat program at http://127.0.0.1:8766/v1.\n\n"
        "No folder is open to the model unless --allow-dir names one.",
    )
    proxy.add_argument("--host", help="address to listen on (default 127.0.0.1); any other than loopback needs a token")
    proxy.add_argument("--port", type=int, metavar="N", help="port to listen on (default 8766); 0 takes a free one")
    setting_options(proxy, http=True, proxy=True)
