"""BLIP-2 models of any size with random weights: right in shape, and so in cost, but without any knowledge.

`MID` is small enough for one CPU core; `pairs.published_size` gives those of the family. Random weights prove algebra and
speed, never quality.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from blip2tools.checkpoints import Loaded
from blip2tools.checkpoints.prompts import CaptionerText, MatcherText
from blip2tools.model import Captioner, Matcher, Pixels, Trunk

Family = Literal["opt", "t5"]

PAD, EOS_OPT, EOS_T5, IMAGE, IMAGE_MATCHER = 1, 2, 1, 3, 4
WORDS = (
    *("a", "the", "red", "blue", "large", "small", "dog", "cat", "car", "tree", "house", "on", "under", "near", "with"),
    *("and", "picture", "of", "what", "is", "how", "many"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """Widths and depths of the parts."""

    vision: tuple[int, int, int]  # width, layers, heads
    qformer: tuple[int, int, int]
    language: tuple[int, int, int, int]  # width, layers, heads, feed-forward width
    vocabulary: int
    queries: int = 32
    vision_inner: int | None = None  # feed-forward width; None is four times the width
    image_size: int = 224


MID = Size((384, 8, 6), (256, 4, 4), (512, 8, 8, 2048), 4096)


@dataclass(frozen=True, slots=True)
class Pair:
    """A captioner and a matcher on one trunk: as the library has them, and as blip2tools does."""

    captioner: Any
    captioner_processor: Any
    matcher: Any
    matcher_processor: Any
    loaded: Loaded


def build(
    size: Size, family: Family, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Pair:
    """A fresh pair with equal trunks."""
    torch.manual_seed(seed)
    text = _text_config(size, family)
    with torch.device(device):  # billions of random numbers: a GPU draws them in a second
        captioner: Any = _enliven(Blip2ForConditionalGeneration(_config(size, text, retrieval=False)))
        matcher: Any = _enliven(
            Blip2ForImageTextRetrieval(_config(size, _text_config(size, "opt", tiny=True), retrieval=True))
        )
    if family == "t5":
        # The library ties FLAN-T5's output layer to the embeddings at first; the published weights have their own.
        head = captioner.language_model.lm_head
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    for part in ("embeddings", "encoder"):
        getattr(matcher.vision_model, part).load_state_dict(getattr(captioner.vision_model, part).state_dict())
    captioner, matcher = captioner.to(device, dtype).eval(), matcher.to(device, dtype).eval()
    # On a CPU our captioner rearranges its weights, from which stock must not profit.
    ours = copy.deepcopy(captioner) if device == "cpu" else captioner
    processor: Any = Blip2Processor
    images = BlipImageProcessorPil(size={"height": size.image_size, "width": size.image_size})
    words, reader = _tokenizer(family), _bert_tokenizer()
    return Pair(
        captioner,
        processor(images, _fast(words, family), num_query_tokens=size.queries),
        matcher,
        processor(images, _fast_bert(reader), num_query_tokens=size.queries),
        _loaded(ours, matcher, Pixels(images), words, reader, device, dtype),
    )


def configuration(size: Size, family: Family, which: Literal["captioner", "matcher"]) -> Any:
    """The library's configuration of one of the two."""
    if which == "matcher":
        return _config(size, _text_config(size, "opt", tiny=True), retrieval=True)
    text = _text_config(size, family)
    if family == "t5":  # as the published files say; by itself the library takes an approximation of it
        text.dense_act_fn, text.tie_word_embeddings = "gelu", False
    return _config(size, text, retrieval=False)


def processor(size: Size, family: Family, which: Literal["captioner", "matcher"]) -> Any:
    """The library's image processor and tokenizer of one of the two."""
    images = BlipImageProcessorPil(size={"height": size.image_size, "width": size.image_size})
    made: Any = Blip2Processor
    words = _fast_bert(_bert_tokenizer()) if which == "matcher" else _fast(_tokenizer(family), family)
    return made(images, words, num_query_tokens=size.queries)


def _loaded(captioner: Any, matcher: Any, pixels: Pixels, words: Any, reader: Any, device: str, dtype: Any) -> Loaded:
    trunk = Trunk(captioner.vision_model)
    speaker = Captioner(captioner, trunk)
    special = speaker.eos if speaker.bos is None else speaker.bos
    text = CaptionerText(_copy(words), speaker.family, special=special, budget=96, reserved={speaker.eos, speaker.pad})
    judge = Matcher(matcher, trunk)
    match_words = MatcherText(_copy(reader), cls=reader.token_to_id("[CLS]"), sep=reader.token_to_id("[SEP]"))
    return Loaded(
        captioner=speaker,
        pixels=pixels,
        words=text,
        matcher=judge,
        matcher_pixels=pixels,
        matcher_words=match_words,
        model="random",
        matcher_name="random",
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        notes=("random weights: the words mean nothing",),
    )


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    return Tokenizer.from_str(tokenizer.to_str())


def _config(size: Size, text: Any, *, retrieval: bool) -> Any:
    width, layers, heads = size.vision
    vision = Blip2VisionConfig(
        hidden_size=width,
        intermediate_size=size.vision_inner or 4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=size.image_size,
        patch_size=14,
        initializer_range=0.02,
    )
    hidden, depth, parts = size.qformer
    qformer = Blip2QFormerConfig(
        vocab_size=512,
        hidden_size=hidden,
        num_hidden_layers=depth,
        num_attention_heads=parts,
        intermediate_size=4 * hidden,
        encoder_hidden_size=width,
        cross_attention_frequency=2,
        max_position_embeddings=512,
        use_qformer_text_input=retrieval,
    )
    return Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=size.queries,
        image_text_hidden_size=min(256, hidden),
        image_token_index=IMAGE_MATCHER if retrieval else IMAGE,
    )


def _text_config(size: Size, family: Family, *, tiny: bool = False) -> Any:
    width, layers, heads, inner = (32, 1, 4, 64) if tiny else size.language
    vocabulary = 512 if tiny else size.vocabulary
    if family == "opt":
        return OPTConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            word_embed_proj_dim=width,
            ffn_dim=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=512,
            pad_token_id=PAD,
            bos_token_id=EOS_OPT,
            eos_token_id=EOS_OPT,
        )
    make: Any = T5Config
    return make(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=width // heads,
        d_ff=inner,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=EOS_T5,
        bos_token_id=1,
        decoder_start_token_id=0,
    )


@torch.no_grad()
def _enliven(model: Any) -> Any:
    # The library starts query tokens at zero, after which every picture would look the same.
    model.query_tokens.normal_(0, 1)
    return model


def _tokenizer(family: Family) -> Tokenizer:
    """Byte-level BPE that knows a few words whole; special ids as OPT (or T5) has them."""
    special = ["<s>", "<pad>", "</s>", "<image>"] if family == "opt" else ["<pad>", "</s>", "<unk>", "<image>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        min_frequency=1,
        show_progress=False,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator([f"Question: {' '.join(WORDS)}? Short answer: {' '.join(WORDS)}"] * 4, trainer)
    form = "</s> $A" if family == "opt" else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=form, special_tokens=[("</s>", special.index("</s>"))]
    )
    return tokenizer


def _fast(tokenizer: Tokenizer, family: Family) -> Any:
    fast: Any = PreTrainedTokenizerFast
    side = "left" if family == "opt" else "right"
    return fast(tokenizer_object=_copy(tokenizer), pad_token="<pad>", eos_token="</s>", padding_side=side)


def _bert_tokenizer() -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<image>", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<image>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _fast_bert(tokenizer: Tokenizer) -> Any:
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=_copy(tokenizer), pad_token="[PAD]", unk_token="[UNK]", padding_side="right")
