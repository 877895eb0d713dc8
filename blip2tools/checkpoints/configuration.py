"""A checkpoint's configuration, image processor and tokenizer, checked."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any, Literal, cast

from tokenizers import Tokenizer

from blip2tools.checkpoints import hub
from blip2tools.checkpoints.plan import Located
from blip2tools.errors import ModelUnavailableError
from blip2tools.model import Pixels
from blip2tools.model.configuration import Blip2Config
from blip2tools.model.preprocessing import Recipe

_VISION_EPS = 1e-6
# Older forms of tokenizers, by the file that tells them apart, and what that of sentencepiece is read with.
_FORMS = {"spiece.model": "T5Tokenizer", "vocab.txt": "BertTokenizer", "vocab.json": "GPT2Tokenizer"}
_SENTENCEPIECE = ("sentencepiece", "google.protobuf")


def config(folder: Path, located: Located, kind: Literal["captioner", "matcher"]) -> Blip2Config:
    """The configuration of a folder, with known errors corrected.

    Raises:
        ModelUnavailableError: it is not one that this package can run faithfully.
    """
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wanted = hub.CLASSES[kind]
    if written["model_type"] != "blip-2" or wanted not in written.get("architectures", [wanted]):
        raise unfit(located, f"it is not a BLIP-2 {kind}")
    found = Blip2Config.read(written)
    if written.get("quantization_config") is not None:
        raise unfit(located, "quantized weights give empty or wrong answers and are not supported")
    if found.vision_config.layer_norm_eps != _VISION_EPS:
        # LAVIS #418: early files say 1e-5, which changes every answer a little. The blocks were trained with 1e-6 (the last
        # LayerNorm with 1e-5, see FAMILY.md); of other checkpoints only their makers can know.
        if located.member is None:
            raise unfit(
                located, f"its vision layer_norm_eps is not {_VISION_EPS}, correct its config.json if it should be"
            )
        found.vision_config.layer_norm_eps = _VISION_EPS
    if kind == "captioner":
        _check_language_model(found.text_config, located)
    return found


def _check_language_model(text: Any, located: Located) -> None:
    if text.model_type not in ("opt", "t5"):
        raise unfit(located, "its language model is neither OPT nor T5")
    if text.model_type == "t5" and (text.scale_decoder_outputs or text.dense_act_fn != "gelu"):
        # Without the right flags transformers scales the logits of an original T5, which FLAN-T5 is not.
        raise unfit(located, "its configuration is not that of FLAN-T5")
    needed = ["eos_token_id", "pad_token_id", *(["bos_token_id"] if text.model_type == "opt" else [])]
    if not all(isinstance(getattr(text, name, None), int) for name in needed):
        raise unfit(located, "its configuration lacks a special token id")


def check_untied(model: Any, located: Located) -> None:
    """Refuse a FLAN-T5 without an output layer of its own."""
    language_model = model.language_model
    if language_model.lm_head.weight is language_model.shared.weight:
        raise unfit(located, "its output layer is tied to the embeddings, which FLAN-T5's is not")


def pixels(folder: Path, settled: Blip2Config, located: Located) -> Pixels:
    """The conversion of pictures to pixels as the folder says, always by Pillow."""
    made = Pixels(Recipe.of_folder(folder))
    if settled.vision_config.image_size != made.size:
        raise unfit(located, "its image processor and its vision tower differ in size")
    return made


def tokenizer(folder: Path, name: str) -> Tokenizer:
    """The folder's tokenizer, whichever files it comes in.

    Args:
        folder: where its files are.
        name: what the user calls the checkpoint.

    Raises:
        ModelUnavailableError: packages are missing that its only form needs; the message names them.
    """
    file = folder / "tokenizer.json"
    if file.is_file():
        return Tokenizer.from_file(str(file))
    # By the files: where a folder does not say what it holds, the library takes every tokenizer for GPT-2's.
    kind = next(kind for form, kind in _FORMS.items() if (folder / form).is_file())
    if kind == "T5Tokenizer" and (lacking := [package for package in _SENTENCEPIECE if not _is_installed(package)]):
        packages = " ".join(package.rpartition(".")[2] for package in lacking)
        raise ModelUnavailableError(
            f"The tokenizer of {name} is in the form of sentencepiece (spiece.model), which needs more packages: "
            f"pip install {packages}."
        )
    import transformers

    loaded: Any = getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
    return copy.deepcopy(cast(Tokenizer, loaded.backend_tokenizer))


def _is_installed(package: str) -> bool:
    """Whether a module is there; its parent package may be missing too."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def unfit(located: Located, why: str) -> ModelUnavailableError:
    """The refusal of a checkpoint, with the remedy."""
    # Downloading again repairs a damaged copy of a published model, but not a user's own folder.
    remedy = f"run {located.pull_command} again or choose" if located.repository else "choose"
    return ModelUnavailableError(f"{located.name} cannot be used: {why}; {remedy} another model.")
