"""`blip2tools serve`: the tools over MCP, on standard input and output or over HTTP."""

from __future__ import annotations

import argparse
import logging

from blip2tools.cli.console import OK, USAGE, say
from blip2tools.cli.options import AddCommand, given_settings, names_a_model, setting_options
from blip2tools.errors import InvalidInputError
from blip2tools.settings import HTTP_SETTINGS, Settings


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
    from blip2tools.vision import Vision

    settings = Settings.load(**given_settings(arguments))
    with Listener(
        DEFAULT_HOST if arguments.host is None else arguments.host,
        DEFAULT_PORT if arguments.port is None else arguments.port,
        settings,
    ) as listener:
        vision = Vision.load(preload=False, download=names_a_model(arguments), **given_settings(arguments))
        vision.preload()  # no handshake waits here, and a balancer waits for /readyz
        serve_http(vision, listener, page=not arguments.no_ui)
    return OK


def _serve_stdio(arguments: argparse.Namespace) -> int:
    given = {"--host": arguments.host, "--port": arguments.port, "--no-ui": arguments.no_ui or None}
    given |= {"--" + name.replace("_", "-"): getattr(arguments, name) for name in HTTP_SETTINGS}
    if useless := [flag for flag, value in given.items() if value is not None]:
        raise InvalidInputError(f"{useless[0]} only works with --http.")
    # Before any import that could print: standard output belongs to the protocol from here on.
    from blip2tools.server.stdio import claim_stdout, serve_stdio

    with claim_stdout() as wire:
        logging.getLogger().setLevel(logging.INFO)
        from blip2tools import checkpoints
        from blip2tools.vision import Vision

        vision = Vision.load(preload=False, download=names_a_model(arguments), **given_settings(arguments))
        # Otherwise the first look at a picture loads the model: torch must not slow down the handshake.
        if arguments.preload or not checkpoints.locate(vision.settings).here:
            vision.preload()
        serve_stdio(vision, wire=wire)  # ends the process


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
