"""Tiny random encoders with tokenizers of a few sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import STORY

BERT_MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_MARKS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def bert_tokenizer() -> Any:
    """Short words whole, longer ones in pieces of two letters or one; written down here, because a trained WordPiece
    is another one every time."""
    import re

    from transformers import BertTokenizerFast

    words = sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(STORY).lower())))
    letters = sorted({c for word in words for c in word})
    pieces = sorted({word[i : i + 2] for word in words if len(word) > 4 for i in range(2, len(word) - 1, 2)})
    tokens = [*BERT_MARKS, *letters, *(w for w in words if 1 < len(w) <= 4)]
    tokens += [f"##{piece}" for piece in [*letters, *pieces]]
    return BertTokenizerFast(vocab={token: number for number, token in enumerate(tokens)})


def roberta_tokenizer(size: int = 400) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(STORY, vocab_size=size, min_frequency=1, special_tokens=ROBERTA_MARKS)
    import json

    model = json.loads(trained.to_str())["model"]
    return RobertaTokenizerFast(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]])


def encoder_of(family: str, tokenizer: Any, **changes: Any) -> Any:
    """A random encoder, float32, weights wide enough for every part to matter."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

    sizes = SIZES | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if family == "modernbert":
        sizes |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        sizes |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id, "local_attention": 8}
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING[family](**(sizes | changes)), dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    return model.eval()


def save_encoder(folder: Path, family: str = "bert", **changes: Any) -> Path:
    """A checkpoint folder with its tokenizer."""
    tokenizer = roberta_tokenizer() if family == "roberta" else bert_tokenizer()
    encoder_of(family, tokenizer, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
