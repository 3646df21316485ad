"""Small real tokenizers of every kind but byte-level BPE, trained on the quickstart's texts by their own libraries."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import sentencepiece
from tokenizers import BertWordPieceTokenizer, processors

from surgeon.vocab.from_sentencepiece import sentencepiece_tokenizer
from surgeon.vocab.tokenizer_json import TokenizerFile

TEXTS = Path(__file__).resolve().parents[2] / "recipes" / "quickstart"
KINDS = ("unigram", "unigram_bytes", "wordpiece")
GREEK = "Καλημέρα κόσμε! Η Ευαγγελία και ο Γιώργος λένε καλημέρα στον κόσμο· ο κόσμος λέει καλημέρα στην Ευαγγελία. "


@cache
def texts(name: str, num: int = 60) -> list[str]:
    """Documents of the quickstart: domain (medical) or general (stories), train or valid."""
    with (TEXTS / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line, _ in zip(file, range(num), strict=False)]


@cache
def lines(name: str, num: int = 250) -> list[str]:
    return [line for text in texts(name) for line in text.split("\n") if line.strip()][:num]


@cache
def _model(byte_fallback: bool) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines("general.train", 2000)),
        model_writer=out,
        model_type="unigram",
        vocab_size=900,
        byte_fallback=byte_fallback,
        num_threads=1,
        minloglevel=2,
    )
    return out.getvalue()


def build(kind: str, folder: Path) -> Path:
    """The files of a tokenizer of `kind` in `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if kind == "wordpiece":
        trained = BertWordPieceTokenizer(lowercase=True)
        trained.train_from_iterator(texts("general.train"), vocab_size=900, show_progress=False)
        ids = [(t, trained.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
        trained.post_processor = processors.TemplateProcessing(
            "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", ids
        )
        trained.save(str(folder / "tokenizer.json"))
        trained.save_model(str(folder))
        config |= {"tokenizer_class": "BertTokenizer", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    else:
        (folder / "tokenizer.model").write_bytes(_model(kind == "unigram_bytes"))
        made = sentencepiece_tokenizer(folder / "tokenizer.model", ["<s>"], [])
        made.save(str(folder / "tokenizer.json"))
        config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@cache
def opened(kind: str, folder: Path) -> TokenizerFile:
    return TokenizerFile.open(build(kind, folder))
