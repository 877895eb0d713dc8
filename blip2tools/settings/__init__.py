"""One frozen `Settings`, read once from arguments, `BLIP2TOOLS_*` variables and the user's file. Nothing else reads the
environment.

file.py  the file
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

from platformdirs import user_cache_path
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator

from blip2tools.errors import InvalidInputError
from blip2tools.model.options import Generation
from blip2tools.settings import file

PREFIX = "BLIP2TOOLS_"

# Picture formats, recognised by content. Everything else that Pillow could open (EPS starts Ghostscript, JPEG 2000 and PSD had
# overflows) is refused, whatever a file is called.
DEFAULT_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "HEIC")
# Few browsers show TIFF, and its library has had more flaws than all of the others: it is read only where a setting asks for it.
OPTIONAL_FORMATS = ("TIFF",)

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Quantize = Literal["none", "8bit", "4bit"]

_REVISION = r"^[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$"  # no part may be `..`: it becomes a path in the cache
_LIMIT = re.compile(r"(cpu|cuda:\d{1,2})=(\d{1,7}(?:\.\d{1,3})?)(KiB|MiB|GiB)")

# Only `serve --http` uses these; the other commands have no options for them.
HTTP_SETTINGS = ("token", "rate_limit", "server_names", "allowed_origins")
PROXY_SETTINGS = ("upstream", "upstream_key", "tool_rounds", "offer_always")  # of `proxy` alone
PULL_SETTINGS = ("revision", "allow_pickle", "device", "dtype", "quantize", "max_memory", "offload_dir", "offline")
LISTS = ("formats", "url_hosts", "server_names", "allowed_origins", "max_memory")  # given as text, separated by commas

# RFC 6454, 6.2, of pages: `null`, which any sandboxed page sends, is none, and neither is a pattern.
_ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::[0-9]{1,5})?")

# RFC 6750, `b64token`: what may follow `Bearer `. A token below 16 characters could be guessed.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,512}=*")


class _Running(BaseModel):
    """Settings of the model, the device, and what may be read; those of the wording are in `Generation`."""

    # Model
    model: str = Field(
        "auto", min_length=1, max_length=512, description="captioner: a short name, hub id, folder, `demo` or `auto`"
    )
    matcher: str = Field("auto", min_length=1, max_length=512, description="matcher (ITM, ITC): the same, or `none`")
    revision: str | None = Field(
        None,
        pattern=_REVISION,
        description="revision of the captioner on the hub: a commit, tag, branch or `refs/pr/N`",
    )
    matcher_revision: str | None = Field(None, pattern=_REVISION, description="the same for the matcher")
    allow_pickle: bool = Field(
        False,
        description="read pickled weights where there are no safetensors: values only, so that no code in them runs, but the "
        "reader has had security flaws",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|spread|cuda(:\d{1,2})?)$",
        description="`auto`, `cpu`, `mps`, `cuda`, `cuda:N`, or `spread`: the language model fills all GPUs, then main memory, "
        "then `offload_dir`",
    )
    dtype: Dtype = Field("auto", description="`auto`, `float32`, `float16` or `bfloat16`")
    quantize: Quantize = Field(
        "none",
        description="`none`, `8bit` or `4bit`: on a CPU the whole model, on a GPU the language model, with bitsandbytes; refused "
        "if the self-test fails",
    )
    keep_quantized: bool = Field(
        True, description="on a CPU: keep quantized weights in `cache_dir`, so that the next start takes seconds"
    )
    # With `device` "spread": without these three settings a model larger than one card could not be run at all.
    max_memory: tuple[str, ...] = Field(
        (), max_length=64, description="with `spread`: the memory limit of each device, such as `cuda:0=6GiB,cpu=12GiB`"
    )
    offload_dir: Path | None = Field(None, description="with `spread`: a folder for layers that fit nowhere else; slow")
    threads: int = Field(
        0, ge=0, le=256, description="CPU threads for the model; 0: one for the demo, torch's choice for the others"
    )
    offline: bool = Field(False, description="never contact the model hub")
    self_test: bool = Field(True, description="test a model at its first load and remember the result")
    cache_dir: Path | None = Field(
        None, description="folder for what is remembered about models; default: `blip2tools` in the user's cache folder"
    )

    # What tools may read
    allowed_dirs: tuple[Path, ...] | None = Field(
        None,
        description="folders that tools may read; default: the working directory, unless that is `/` or a home folder",
    )
    allow_urls: bool = Field(False, description="let tools fetch http(s) pictures from public addresses")
    url_hosts: tuple[str, ...] = Field(
        (), max_length=256, description="if given, the only hosts that may be fetched from"
    )
    formats: tuple[str, ...] = Field(
        DEFAULT_FORMATS,
        min_length=1,
        description="picture formats by content; TIFF may be added, and HEIC needs the extra `photos`",
    )
    max_image_bytes: int = Field(20 * 2**20, ge=1024, le=2**30, description="largest encoded picture, bytes")
    max_data_bytes: int = Field(
        8 * 2**20,
        ge=1024,
        le=2**30,
        description="largest picture in a `data:` URI, encoded, bytes; a path costs less memory",
    )
    # Above twice its own warning threshold (2 x 89,478,485) Pillow refuses a picture, whatever is set here.
    max_pixels: int = Field(50_000_000, ge=1, le=178_000_000, description="largest picture area, pixels")
    max_side: int = Field(16_384, ge=2, le=65_535, description="longest picture side, pixels")
    max_damage_mb: int = Field(
        50,
        ge=1,
        le=4096,
        description="memory that a damaged picture may take before its decoder notices, MiB; in formats where that comes late "
        "(WebP above all) larger pictures are refused",
    )
    store_mb: int = Field(256, ge=1, le=65_536, description="memory for the encoded bytes behind image handles, MiB")

    # Engine
    max_queue: int = Field(
        256,
        ge=1,
        le=100_000,
        description="requests that may wait, at most three quarters of them from one HTTP client; further ones get `busy`",
    )
    max_batch: int = Field(
        160, ge=1, le=1024, description="decoder rows served together; a request takes as many as it has beams"
    )
    keep_answers: int = Field(1024, ge=0, le=1_000_000, description="answers kept for repeated requests; 0 is off")
    idle_unload_s: float = Field(
        0.0,
        ge=0,
        le=604_800,
        description="seconds without a request before the model's memory is freed; 0 is never",
    )
    cache_mb: int = Field(
        256, ge=0, le=1_048_576, description="memory on the device for vision features of pictures seen, MiB"
    )
    spill_mb: int = Field(
        1024,
        ge=0,
        le=1_048_576,
        description="main memory for features that no longer fit on a GPU, MiB; 0 is none; unused on a CPU",
    )
    cuda_graphs: bool = Field(
        True,
        description="on a GPU, record work on small batches as CUDA graphs when the model is loaded, which takes seconds; used "
        "only if they give the same words as eager execution",
    )
    # Recorded steps are as fast. This stays for models whose steps cannot be recorded: FLAN-T5 in bfloat16 with random weights
    # took 114 ms a caption compiled and 341 to 441 ms eager on a card where recorded steps for five beams were refused
    # (BENCHMARKS.md).
    compile: bool = Field(
        False,
        description="compile the decoding steps too (on a GPU into those graphs), which can take minutes; used only if they "
        "give the same words as eager steps",
    )
    # Below the 60 s after which the TypeScript SDK gives up on a call; progress reports do not extend them.
    deadline_s: float = Field(50.0, gt=0, le=86_400, description="longest time for one call, seconds")
    early_load: bool = Field(
        True,
        description="over stdio, load the model as soon as a client has asked for the tools, not at the first picture",
    )

    use_server: bool = Field(
        True,
        description="let commands be answered by a server of yours that runs with the same settings, over a socket that only you "
        "can open; a server without it opens none",
    )

    # HTTP
    token: SecretStr | None = Field(
        None,
        description="secret that HTTP clients send as `Authorization: Bearer ...`, at least 16 characters; better as a "
        "variable, since other users of the machine can read options",
    )
    rate_limit: int = Field(
        6000, ge=0, le=10_000_000, description="HTTP requests a minute for each token and address; 0 is no limit"
    )
    server_names: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="more host names that HTTP clients may use for this server, e.g. behind a proxy; loopback and `--host` "
        "are always allowed",
    )

    allowed_origins: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="pages of other sites that may call this server from a browser (CORS), such as `http://localhost:8080`; each "
        "may do what its user may",
    )

    # Proxy
    upstream: str | None = Field(
        None,
        min_length=1,
        max_length=2048,
        description="address of the OpenAI- or Anthropic-compatible server whose model gets eyes, e.g. http://127.0.0.1:8080",
    )
    upstream_key: SecretStr | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="key for that server, instead of the one that clients send; better as a variable",
    )
    tool_rounds: int = Field(
        8, ge=0, le=64, description="rounds of tool calls in one turn of the model before it must answer"
    )
    offer_always: bool = Field(
        False, description="offer the vision tools to the model in conversations without a picture, too"
    )

    # Prompts
    vqa_template: str | None = Field(
        None,
        max_length=512,
        description="prompt for a question, with `{question}` in it; default: the one that the checkpoint was trained with, "
        "for the published ones `Question: {question} Short answer:`",
    )

    @field_validator("formats")
    @classmethod
    def _only_known_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = DEFAULT_FORMATS + OPTIONAL_FORMATS
        names = tuple(dict.fromkeys(name.upper() for name in value))
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return names

    @field_validator("max_memory")
    @classmethod
    def _limits_are_sizes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [limit for limit in value if not _LIMIT.fullmatch(limit)]:
            raise ValueError(f"{wrong[0]!r} is not of the form cuda:0=6GiB or cpu=12GiB")
        return value

    @property
    def memory_limits(self) -> dict[str, int]:
        """`max_memory` in bytes by device."""
        found = (_LIMIT.fullmatch(limit) for limit in self.max_memory)
        unit = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
        return {part[1]: int(float(part[2]) * unit[part[3]]) for part in found if part}

    @field_validator("token")
    @classmethod
    def _token_can_be_sent(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("must be 16 to 512 letters, digits and -._~+/ such as `openssl rand -hex 32` prints")
        return value

    @field_validator("url_hosts", "server_names")
    @classmethod
    def _hosts_are_normal(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(host.strip().rstrip(".").lower() for host in value)

    @field_validator("allowed_origins")
    @classmethod
    def _origins_are_exact(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        origins = tuple(origin.strip().rstrip("/").lower() for origin in value)
        if wrong := [origin for origin in origins if not _ORIGIN.fullmatch(origin)]:
            raise ValueError(
                f"{wrong[0]!r} is not an origin such as http://localhost:8080 (scheme, host and port, no pattern)"
            )
        return origins

    @field_validator("vqa_template")
    @classmethod
    def _template_has_its_slot(cls, value: str | None) -> str | None:
        if value is not None and (
            value.count("{question}") != 1
            or value.replace("{question}", "").count("{")
            or value.replace("{question}", "").count("}")
        ):
            raise ValueError("must hold {question} exactly once and no other braces")
        return value


class Settings(Generation, _Running):
    """Every setting, its bounds and its default. The table in docs/settings.md is generated from these fields."""

    # It corrected 3 of 137 wrong captions of the demo's hard pictures and spoilt one (BENCHMARKS.md). It stays for checkpoints
    # whose beam search errs more often: it costs nothing until the matcher doubts a caption, and is off by default.
    best_of: int = Field(
        1,
        ge=1,
        le=16,
        description="candidates for a caption that the matcher doubts: the caption and samples, of which the best match is "
        "returned; 1 is off",
    )
    calibration: str = Field(
        "auto",
        min_length=1,
        max_length=4096,
        description="scaling of confidences: `auto` (`blip2tools.json` next to the weights, if present), `none`, or a file "
        "that `blip2tools evaluate` wrote",
    )
    abstain_below: float = Field(
        0.0, ge=0, le=1, description="a caption or answer with less confidence is marked as not known; 0 is never"
    )

    @property
    def cache_folder(self) -> Path:
        """The folder for this package's own files. It may be missing or read-only."""
        return user_cache_path("blip2tools", appauthor=False) if self.cache_dir is None else self.cache_dir.expanduser()

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from exactly these values.

        Raises:
            InvalidInputError: an unknown name or a value out of bounds, named in the message.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise InvalidInputError(_explain(error, {})) from error

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, /, **arguments: Any) -> Settings:
        """Settings from `arguments`, then from `BLIP2TOOLS_*` variables, then from the user's `config.toml`, then the defaults.

        Args:
            environ: the environment; the process's own by default. One that is given names its file itself
                (`BLIP2TOOLS_CONFIG`), or has none.
            **arguments: settings by their names; these win over variables. `None` leaves a setting at its default.

        Raises:
            InvalidInputError: an unknown name or a value out of bounds, named in the message, or a file that cannot be read.
        """
        origins, values = given(environ)
        values = {name: value for name, value in values.items() if name not in arguments}
        try:
            return cls(**values, **{name: value for name, value in arguments.items() if value is not None})
        except ValidationError as error:
            named = {name: origins[name] for name in values}
            raise InvalidInputError(_explain(error, named)) from error


def given(environ: Mapping[str, str] | None = None) -> tuple[dict[str, str], dict[str, Any]]:
    """What variables and the user's file say: of each setting where it is from, for a message, and its value.

    Args:
        environ: as for `Settings.load`.

    Raises:
        InvalidInputError: the file cannot be read, or names a setting that there is none.
    """
    own = os.environ if environ is None else environ
    origins, values = {}, {}
    if environ is None or environ.get(file.VARIABLE):
        for name, value in file.read(own).items():
            if name not in Settings.model_fields:
                where = f"in the settings file {str(file.place(own))!r}"
                said = f"There is no setting named '{name}' {where}{suggestion(name)}"
                raise InvalidInputError(said if said.endswith("?") else f"{said}.")
            if isinstance(value, bool) and Settings.model_fields[name].annotation is not bool:
                raise InvalidInputError(f"'{name}' of the settings file {str(file.place(own))!r} is no truth value.")
            # As tuples lists are hashable, and an empty text counts as absent, as of a variable.
            listed = tuple(value) if isinstance(value, list) else value
            if listed != "":
                if isinstance(listed, str) and name in LISTS:
                    listed = _parts(listed)
                values[name] = (listed,) if _is_folder_list(name, listed) else listed
                origins[name] = f"'{name}' of the settings file {str(file.place(own))!r}"
    for name, value in _from_environment(own).items():
        values[name], origins[name] = value, variable(name)
    return origins, values


def _is_folder_list(name: str, value: object) -> bool:
    return name == "allowed_dirs" and isinstance(value, str)


def config_place() -> Path:
    """Where the user's settings file is, or would be."""
    return file.place(os.environ)


def suggestion(name: str, known: Collection[str] = ()) -> str:
    """What somebody may have meant by a name that there is not, as the end of a sentence; empty if nothing is near.

    Args:
        name: what was given.
        known: what there is; settings by default.
    """
    near = difflib.get_close_matches(name, known or tuple(Settings.model_fields), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def environment_without_settings(keep: Collection[str] = ()) -> dict[str, str]:
    """The environment for a child process that must not inherit this one's settings, but for those named in `keep`."""
    kept = {variable(name) for name in keep}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX) or name in kept}
    return {**clean, file.VARIABLE: os.devnull}  # nor the user's file


def wants_colors(stream: TextIO) -> bool:
    """Whether to write in colour: only to a terminal, and not where its user has switched that off (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def foreign_variable(name: str) -> str | None:
    """A variable that belongs to the system or to another program, such as `APPDATA`; `None` where unset or empty."""
    return os.environ.get(name) or None


def set_foreign_variables(values: Mapping[str, str]) -> None:
    """Variables of another program for this process and its children; those that its user has set stay."""
    for name, value in values.items():
        os.environ.setdefault(name, value)


_VARIABLE = re.compile(r"\$\{(?:env:)?(\w+)\}|\$env:(\w+)|\$(\w+)|%(\w+)%", re.ASCII)


def expanded(path: Path) -> Path:
    """The operator's path with `~` and variables (`$HOME`, `${HOME}`, `${env:HOME}`, `%USERPROFILE%`) expanded.

    Clients that start a server without a shell leave that to it. A path that exists as written stays as it is, and so do
    unset variables.
    """
    if os.path.lexists(path):
        return path

    def value(match: re.Match[str]) -> str:
        name = next(filter(None, match.groups()))
        return os.environ.get(name) or (str(Path.home()) if name == "userHome" else match[0])

    try:
        return Path(_VARIABLE.sub(value, str(path))).expanduser()
    except RuntimeError:  # no home folder is known
        return path


def unexpanded(path: Path) -> list[str]:
    """The variables that `expanded` left in a path, as written."""
    return [match[0] for match in _VARIABLE.finditer(str(path))]


def strays() -> list[str]:
    """Variables with this package's prefix that no setting reads, most likely misspelt."""
    known = {variable(name) for name in Settings.model_fields} | {file.VARIABLE}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def told_strays() -> list[str]:
    """A sentence about each of them."""
    known = [variable(name) for name in Settings.model_fields] + [file.VARIABLE]
    return [
        f"no setting reads the variable {name}{suggestion(name, known) or '; see `blip2tools config show`'}"
        for name in strays()
    ]


def variable(name: str) -> str:
    """The environment variable of a setting: `max_queue` is `BLIP2TOOLS_MAX_QUEUE`."""
    return PREFIX + name.upper()


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Settings present in the environment, as text; lists are split, an empty variable counts as absent."""
    values: dict[str, Any] = {}
    for name in Settings.model_fields:
        text = environ.get(variable(name), "").strip()
        if not text:
            continue
        if name == "allowed_dirs":
            values[name] = tuple(part for part in text.split(os.pathsep) if part)
        else:
            values[name] = _parts(text) if name in LISTS else text
    return values


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    """The first problem as one sentence that names the argument, the variable or the file."""
    problem = error.errors(include_url=False)[0]
    location = str(problem["loc"][0]) if problem["loc"] else ""
    name = origins.get(location, f"'{location}'")
    if problem["type"] == "extra_forbidden":
        said = f"There is no setting named {name}{suggestion(location)}"
        return said if said.endswith("?") else f"{said}."
    text = _why(problem["type"], problem.get("ctx", {}), location, problem["input"], problem["msg"])
    return f"The setting {name} is refused: {text}." if location else f"The settings are refused: {text}."


_KINDS = {"int": "a whole number", "float": "a number", "bool": "1 or 0", "string": "text", "tuple": "a list"}
_BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
}


def _why(kind: str, context: Mapping[str, Any], name: str, given: object, said: str) -> str:
    """The fault of a value, as the end of a sentence."""
    if kind == "string_pattern_mismatch":
        return _about_device(str(given)) if name == "device" else _REVISIONS
    if kind == "literal_error":
        return f"it must be one of {context['expected'].replace(chr(39), '')}"
    if kind in _BOUNDS:
        return f"it must be {_BOUNDS[kind].format(**context)}"
    if (wanted := _KINDS.get(kind.partition("_")[0])) and kind.endswith(("_parsing", "_type", "_from_float")):
        return f"it must be {wanted}"
    text = re.sub(r"^(?:Input|String|Tuple|Value) should", "it should", said.removeprefix("Value error, ").rstrip("."))
    return f"{text[:1].lower()}{text[1:]}"


_REVISIONS = "it must be a commit, a tag, a branch or refs/pr/N, such as main"


def _about_device(given: str) -> str:
    """The accepted device names, and the one most likely meant."""
    word = re.sub(r"[^a-z0-9]", "", given.lower())
    number = re.fullmatch(r"(?:cuda|gpu|nvidia|rocm|hip)?(\d{1,2})", word)
    meant = ""
    if number or word in ("cuda", "gpu", "nvidia", "cudagpu", "rocm", "amd", "hip"):
        meant = f"; an NVIDIA or AMD GPU is {f'cuda:{number[1]}' if number else 'cuda'}, an Apple GPU mps"
    elif word in ("metal", "apple", "mac", "silicon"):
        meant = "; the GPU of a Mac is mps"
    elif word in ("all", "multi", "multigpu", "balanced", "gpus"):
        meant = "; spread uses several GPUs"
    shown = "".join(char for char in given[:40] if char.isprintable())
    return f"'{shown}' is none of auto, cpu, mps, cuda, cuda:N and spread{meant}"
