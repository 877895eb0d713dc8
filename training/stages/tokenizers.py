"""Tokenizers and processors of the demo models, made from what their world says."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, Blip2Processor, PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from blip2tools.checkpoints.prompts import NEWEST_TURN, TURN, VQA_TEMPLATE
from blip2tools.demo.questions import sample_questions
from blip2tools.demo.statements import true_statement
from blip2tools.demo.words import NUMBERS, PLURALS, caption
from blip2tools.demo.world import CHARACTERS, COLORS, WIDE, sample_scene
from training.stages.architecture import SIDE
from training.wording import reword

PROMPTS: Final = ("a photo of", "a picture of", "an image of", "this is", "there is", "the picture shows")
_SCENES: Final = 1500
_OFTEN: Final = 3  # words that occur less often get no token
_WORDS: Final = 1024  # of the byte-level vocabulary, 256 of them single bytes
_HEARD: Final = re.compile(r"[^\W_]+")


@cache
def corpus(seed: int) -> tuple[str, ...]:
    """Texts about the world: enough of them that every word occurs."""
    return tuple(_corpus(seed))


def _corpus(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    rare = [*WIDE.shapes, *PLURALS.values(), *COLORS, *WIDE.backgrounds, *CHARACTERS, *NUMBERS]
    yield from (f" {word}" for word in rare for _ in range(_OFTEN))
    for _ in range(_SCENES):
        scene = sample_scene(rng, world=WIDE)
        yield f"{rng.choice(PROMPTS)} {caption(scene)}"
        yield f" {true_statement(scene, rng).text}"
        for question in sample_questions(scene, 4, rng):
            template = rng.choice((TURN, NEWEST_TURN + " {answer}", VQA_TEMPLATE + " {answer}"))
            yield template.format(question=reword(question.text, rng), answer=question.answer)


def speaker_tokenizer(seed: int) -> Any:
    """A byte-level tokenizer like OPT's, with its ids of special tokens: any text survives it."""
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS,
        min_frequency=_OFTEN,
        show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<image>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus(seed), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A $B", special_tokens=[("</s>", 2)]
    )
    tokenizer_class: Any = PreTrainedTokenizerFast
    return tokenizer_class(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        unk_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def matcher_tokenizer(seed: int) -> Any:
    """A BERT tokenizer whose words are those of the world; others are spelt."""
    heard = {word for line in corpus(seed) for word in _HEARD.findall(line.lower())}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = sorted(heard | set(letters) | set(CHARACTERS.lower()))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", ".", "?", ":", "'", "-", *words]
    vocabulary += [f"##{letter}" for letter in letters]
    vocabulary.append("[DEC]")
    return BertTokenizer(
        vocab={word: number for number, word in enumerate(vocabulary)},
        do_lower_case=True,
        model_max_length=64,
        bos_token="[DEC]",
    )


def processor(tokenizer: Any, queries: int) -> Any:
    """The processor of pictures and texts into a model's inputs, as users of transformers load it."""
    processor_class: Any = Blip2Processor
    return processor_class(
        BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer, num_query_tokens=queries
    )
