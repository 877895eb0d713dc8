"""Write what LAVIS says: run by hand, in an environment of its own; see `README.md` beside this.

    python -m tests.reference.lavis.make LAVIS_CHECKOUT

LAVIS' own classes are given the small weights of `small.py` and asked with the options below. Of LAVIS only two things are
replaced: the vision tower's size, which its code fixes, and the names `bert-base-uncased` and the like, which are folders here.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import re
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.reference.lavis import small

HERE = Path(__file__).parent
TEMPLATE = "Question: {} Short answer:"

# Options of `generate`; the prompt is one of `samples`. None is LAVIS' own default for the checkpoint.
CAPTIONS: list[tuple[str | None, dict[str, Any]]] = [
    (None, {}),
    ("", {}),
    ("a photo of", {}),
    ("the red", {"num_beams": 1}),
    (None, {"num_beams": 3, "max_length": 12}),
    (None, {"min_length": 8}),
    (None, {"min_length": 8, "repetition_penalty": 1.15, "length_penalty": 0.0}),
    ("", {"max_length": 80, "min_length": 10}),
    ("a photo of", {"length_penalty": 2.0, "max_length": 20}),
    (None, {"length_penalty": -1.0, "num_beams": 2}),
    ("", {"num_captions": 3, "max_length": 16}),
]
ANSWERS: list[tuple[str, dict[str, Any]]] = [
    (TEMPLATE, {}),
    (TEMPLATE, {"num_beams": 1, "max_len": 6}),
    ("Question: {} Answer:", {"length_penalty": 1, "min_len": 4}),
]


def stubbed(checkout: Path) -> None:
    """Make LAVIS importable without what its packages import at their top: datasets, video, other models."""
    library = torch.library.Library("torchvision", "DEF")  # a torchvision without its compiled half
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    stubbed.library = library  # type: ignore[attr-defined]  # as long as it lives, so do the operators
    sys.path.insert(0, str(checkout))
    for name in ("lavis", "lavis.models", "lavis.processors", "lavis.tasks"):
        module = types.ModuleType(name)
        module.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = module
    sys.modules["cv2"] = types.ModuleType("cv2")  # of training augmentation
    for package, module, name in (
        ("lavis.models", "lavis.models.base_model", "BaseModel"),
        ("lavis.processors", "lavis.processors.base_processor", "BaseProcessor"),
    ):
        setattr(sys.modules[package], name, getattr(importlib.import_module(module), name))


def write_folders(folder: Path) -> None:
    """The language models and the tokenizers that LAVIS reads by name."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import (
        BertConfig,
        BertLMHeadModel,
        OPTConfig,
        OPTForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    bert = BertConfig(**small.qformer_config())
    BertLMHeadModel(bert).save_pretrained(folder / "bert-base-uncased", safe_serialization=False)
    (folder / "bert-base-uncased" / "vocab.txt").write_text("\n".join(small.bert_words()) + "\n", encoding="utf-8")

    opt = folder / "opt"
    OPTForCausalLM(OPTConfig(**small.opt_config())).save_pretrained(opt, safe_serialization=False)
    vocabulary, merges = small.opt_vocabulary()
    (opt / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (opt / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n", encoding="utf-8")
    names = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    _write(opt / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, **names})
    _write(opt / "special_tokens_map.json", names)

    t5 = folder / "t5"
    T5ForConditionalGeneration(T5Config(**small.t5_config())).save_pretrained(t5, safe_serialization=False)
    made = Tokenizer(models.Unigram(small.t5_pieces(), unk_id=small.T5_UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", small.T5_EOS)])
    made.save(str(t5 / "tokenizer.json"))
    _write(t5 / "tokenizer_config.json", {"tokenizer_class": "T5TokenizerFast", "extra_ids": 0})


def load(name: str, folder: Path) -> Any:
    """LAVIS' model of a member, with the small weights."""
    import lavis.models.blip2_models.blip2 as base
    from lavis.models.blip2_models.blip2_image_text_matching import Blip2ITM
    from lavis.models.blip2_models.blip2_opt import Blip2OPT
    from lavis.models.blip2_models.blip2_t5 import Blip2T5
    from lavis.models.eva_vit import VisionTransformer

    def tower(size: int, *_: object, **__: object) -> Any:
        return VisionTransformer(
            img_size=size, patch_size=small.PATCH, use_mean_pooling=False, embed_dim=small.WIDTH, depth=small.LAYERS,
            num_heads=small.HEADS, mlp_ratio=small.INNER / small.WIDTH, qkv_bias=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        )  # fmt: skip

    base.create_eva_vit_g = tower
    one = small.MODELS[name]
    given = {"img_size": one.image_size, "vit_precision": "fp32", "num_query_token": small.QUERIES}
    with _inside(folder):
        if one.kind == "bert":
            model: Any = Blip2ITM(**given, embed_dim=small.PROJECTED)
        elif one.kind == "opt":
            model = Blip2OPT(**given, opt_model="./opt", prompt=one.prompt)
        else:
            model = Blip2T5(**given, t5_model="./t5", prompt=one.prompt)
    model.float().eval()
    tensors = {key: torch.from_numpy(value) for key, value in named(name).items()}
    found = model.load_state_dict(tensors, strict=False)
    left = [key for key in found.missing_keys if not _needless(key)]
    if left or found.unexpected_keys:
        raise RuntimeError(f"{name}: missing {left}, unexpected {found.unexpected_keys}")
    return model


def named(name: str) -> dict[str, np.ndarray]:
    """The small weights under LAVIS' names."""
    kind = small.MODELS[name].kind
    found: dict[str, np.ndarray] = {}
    for key, value in small.weights(name).items():
        if key.endswith("qkv.bias"):
            block = _name(key, kind).removesuffix("qkv.bias")
            found[f"{block}q_bias"], found[f"{block}v_bias"] = value[: small.WIDTH], value[2 * small.WIDTH :]
        else:
            found[_name(key, kind)] = value
    if kind == "opt":
        found["opt_model.lm_head.weight"] = found["opt_model.model.decoder.embed_tokens.weight"]
    if kind == "t5":
        for side in ("encoder", "decoder"):
            found[f"t5_model.{side}.embed_tokens.weight"] = found["t5_model.shared.weight"]
    return found


RENAMED = (
    (r"^vision_model\.embeddings\.class_embedding", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual_encoder.patch_embed.proj"),
    (r"^vision_model\.post_layernorm", "ln_vision"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm", r"visual_encoder.blocks.\1.norm"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection", r"visual_encoder.blocks.\1.attn.proj"),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn", r"visual_encoder.blocks.\1.attn"),
    (r"^vision_model\.encoder\.layers", "visual_encoder.blocks"),
    (r"^embeddings", "Qformer.bert.embeddings"),
    (r"^qformer\.layernorm", "Qformer.bert.embeddings.LayerNorm"),
    (r"^qformer\.", "Qformer.bert."),
    (r"attention\.attention\.", "attention.self."),
    (r"^(vision|text)_projection", r"\1_proj"),
)


def _name(key: str, kind: str) -> str:
    for pattern, new in RENAMED:
        key = re.sub(pattern, new, key)
    return re.sub("^language_model", f"{kind}_model", re.sub("^language_projection", f"{kind}_proj", key))


def _needless(key: str) -> bool:
    """What LAVIS' model holds and the small checkpoints do not: its captioning head and its temperature."""
    return key.startswith("Qformer.cls.") or key == "temp" or key.endswith("position_ids")


@contextmanager
def recorded(language_model: Any) -> Iterator[list[list[int]]]:
    """The ids of each text that `generate` gives, without start, padding and end."""
    plain, ids = language_model.generate, []

    def generate(**options: Any) -> Any:
        out = plain(**options)
        ids.extend(out.tolist())
        return out

    language_model.generate = generate
    try:
        yield ids
    finally:
        language_model.generate = plain


def said(ids: list[int], kind: str, eos: int) -> list[int]:
    """Of a whole row the new tokens before the end."""
    new = ids[1:]  # BOS of OPT, the start token of T5
    return (
        new[: new.index(eos)]
        if eos in new
        else [one for one in new if one != (small.OPT_PAD if kind == "opt" else small.T5_PAD)]
    )


def seen(size: int) -> torch.Tensor:
    """The pictures through LAVIS' own processor."""
    from lavis.processors.blip_processors import BlipImageEvalProcessor

    processor = BlipImageEvalProcessor(image_size=size)
    return torch.stack([processor(Image.fromarray(small.picture(number))) for number in range(small.PICTURES)])


def untouched() -> dict[str, bool]:
    """Whether LAVIS' processor leaves alone what we turn or flatten: a picture with an orientation, and a transparent one."""
    from lavis.processors.blip_processors import BlipImageEvalProcessor

    processor, plain = BlipImageEvalProcessor(image_size=224), Image.fromarray(small.picture(0))
    turned, clear = io.BytesIO(), plain.convert("RGBA")
    exif = Image.Exif()
    exif[small.ORIENTATION] = 6
    plain.save(turned, "PNG", exif=exif)
    clear.putalpha(0)
    as_it_is = processor(plain)
    return {
        "orientation": torch.equal(processor(Image.open(turned).convert("RGB")), as_it_is),
        "transparency": torch.equal(processor(clear.convert("RGB")), as_it_is),
    }


def captions(name: str, model: Any, pixels: torch.Tensor) -> Iterator[dict[str, Any]]:
    kind = small.MODELS[name].kind
    language_model = model.opt_model if kind == "opt" else model.t5_model
    eos = small.opt_newline() if kind == "opt" else small.T5_EOS
    cases = [*CAPTIONS, (small.LONG, {})]
    for prompt, options in cases:
        for number in range(small.PICTURES):
            if prompt == small.LONG and number > 1:
                continue
            samples: dict[str, Any] = {"image": pixels[number : number + 1]}
            if prompt is not None:
                samples["prompt"] = prompt
            with recorded(language_model) as ids:
                texts = model.generate(samples, **options)
            yield {
                "model": name, "picture": number, "prompt": prompt, "options": options, "texts": texts,
                "ids": [said(one, kind, eos) for one in ids],
            }  # fmt: skip


def answers(name: str, model: Any, pixels: torch.Tensor) -> Iterator[dict[str, Any]]:
    kind = small.MODELS[name].kind
    language_model = model.opt_model if kind == "opt" else model.t5_model
    eos = small.opt_newline() if kind == "opt" else small.T5_EOS
    for template, options in ANSWERS:
        for place, question in enumerate(small.QUESTIONS):
            for number in range(small.PICTURES):
                if (place + number) % 2 and template != TEMPLATE:
                    continue
                with recorded(language_model) as ids:
                    given = {"image": pixels[number : number + 1], "text_input": question}
                    (text,) = model.predict_answers(given, prompt=template, **options)
                yield {
                    "model": name, "picture": number, "question": question, "template": template, "options": options,
                    "text": text, "ids": said(ids[0], kind, eos),
                }  # fmt: skip


@torch.no_grad()
def scores(name: str, model: Any, pixels: torch.Tensor) -> dict[str, Any]:
    """ITM logits and ITC of every picture with every text, features, and the matrices of its retrieval."""
    from lavis.models.blip2_models.blip2 import compute_sim_matrix
    from lavis.processors.blip_processors import BlipCaptionProcessor

    process = BlipCaptionProcessor()
    texts = [*small.TEXTS, small.LONG]
    pairs = []
    for number in range(small.PICTURES):
        for text in texts:
            samples = {"image": pixels[number : number + 1], "text_input": [process(text)]}
            itm, itc = model(samples, match_head="itm")[0], model(samples, match_head="itc")[0, 0]
            pairs.append({"picture": number, "text": text, "itm": _round(itm), "itc": _round(itc)})
    raw = {"image": pixels[:1], "text_input": [small.TEXTS[2]]}
    found: dict[str, Any] = {"model": name, "pairs": pairs, "unprocessed": _round(model(raw, match_head="itm")[0])}

    features = []
    for text in (process(small.TEXTS[3]), process(small.LONG)):
        whole = model.extract_features({"image": pixels[:1], "text_input": [text]})
        words = model.extract_features({"text_input": [text]}, mode="text")
        features.append({
            "text": text, "multimodal": _round(whole.multimodal_embeds[0]), "states": _round(words.text_embeds[0]),
            "projected": _round(words.text_embeds_proj[0]),
        })  # fmt: skip
    image = model.extract_features({"image": pixels[:1]}, mode="image")
    found["features"] = features
    found["image"] = {"states": _round(image.image_embeds[0]), "projected": _round(image.image_embeds_proj[0])}

    class Pictures:
        """What `compute_sim_matrix` wants of a data loader."""

        dataset = types.SimpleNamespace(text=[process(text) for text in texts], image=list(range(small.PICTURES)))

        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield {"image": pixels}

    for direction, number in (("image_to_text", 0), ("text_to_image", 1)):
        matrix = compute_sim_matrix(model, Pictures(), k_test=4)[number]
        found[direction] = [[[int(place), _round(row[place])] for place in np.argsort(-row)[:4]] for row in matrix]
    return found


def _round(values: Any) -> Any:
    """Plain numbers, with as many digits as float32 has."""
    array = np.asarray(values, dtype=np.float64)
    return json.loads(json.dumps(array.tolist()), parse_float=lambda text: float(f"{float(text):.7g}"))


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="LAVIS at 506965b")
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stubbed(arguments.checkout.resolve())
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    told, answered, matched, pictures = [], [], [], {}
    with tempfile.TemporaryDirectory() as temporary:
        write_folders(Path(temporary))
        for name, one in small.MODELS.items():
            model = load(name, Path(temporary))
            pixels = seen(one.image_size)
            pictures[str(one.image_size)] = [hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in pixels]
            if one.kind == "bert":
                matched.append(scores(name, model, pixels))
            else:
                told += captions(name, model, pixels)
                answered += answers(name, model, pixels)
            print(name, "done", file=sys.stderr)  # noqa: T201
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__}
    for file, rows in (("captions", told), ("answers", answered)):
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
        (arguments.output / f"{file}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    whole = {
        "lavis": "506965b",
        "versions": versions,
        "pixels": pictures,
        "left_alone": untouched(),
        "matchers": matched,
    }
    text = json.dumps(whole, separators=(",", ":"))
    (arguments.output / "scores.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
