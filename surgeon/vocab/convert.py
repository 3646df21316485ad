"""A tokenizer.json made from a tokenizer's other files, where that is exact.

A SentencePiece model is rebuilt (surgeon.vocab.from_sentencepiece) and must give SentencePiece's own ids on hard
texts; vocab.json with merges.txt, and vocab.txt, are read by transformers' class for the model, whose ids the file
must give as well, and all of whose tokens and merges must be in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from surgeon.checkpoint.config_json import read_json_object
from surgeon.errors import SurgeonError
from surgeon.vocab.probe_texts import HARD_TEXTS
from surgeon.vocab.tokenizer_model import MODEL_FILES, is_tiktoken

_CURE = (
    "make one: load the tokenizer, save_pretrained it, and check that it gives the ids that the model was trained with"
)
_PLAIN = "a"


def converted(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the content of tokenizer.json, the files that it was made from); refuses what cannot be made exactly."""
    names = _sources(folder)
    config = folder / "tokenizer_config.json"
    declared = read_json_object(config) if config.is_file() else {}
    if declared.get("auto_map"):
        raise _refused(f"the tokenizer is code of its own ({declared.get('tokenizer_class')})", folder)
    auto = _load(folder, declared.get("tokenizer_class"))
    if getattr(auto, "backend_tokenizer", None) is None:
        raise _refused(f"{type(auto).__name__} is written in Python alone", folder)
    if names[0] in MODEL_FILES:
        return _from_model(folder, names[0], auto), names
    data = json.loads(auto.backend_tokenizer.to_str())
    _check(data, auto, folder, names)
    return data, names


def _sources(folder: Path) -> tuple[str, ...]:
    for names in [(n,) for n in MODEL_FILES] + [("vocab.json", "merges.txt"), ("vocab.txt",)]:
        if all((folder / name).is_file() for name in names):
            if names[0] in MODEL_FILES and is_tiktoken(folder / names[0]):
                raise _refused(f"{names[0]} is a list of ranks (tiktoken)", folder)
            return names
    raise SurgeonError(
        "there is no tokenizer.json, and nothing that one can be made from",
        str(folder),
        "give a folder with tokenizer.json, tokenizer.model, vocab.json and merges.txt, or vocab.txt",
    )


def _load(folder: Path, declared: str | None) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise _refused(
            f"transformers cannot load the tokenizer ({declared or 'no class'}): {reason}", folder
        ) from error


def _from_model(folder: Path, name: str, auto: Any) -> dict[str, Any]:
    """The special tokens around a text, and added tokens behind the pieces, are those of AutoTokenizer."""
    import sentencepiece

    from surgeon.vocab.from_sentencepiece import sentencepiece_tokenizer

    inner, whole = auto(_PLAIN, add_special_tokens=False)["input_ids"], auto(_PLAIN)["input_ids"]
    at = next((k for k in range(len(whole)) if whole[k : k + len(inner)] == inner), 0)
    before, after = whole[:at], whole[at + len(inner) :]
    tokenizer = sentencepiece_tokenizer(folder / name, *map(auto.convert_ids_to_tokens, (before, after)))
    pieces = sentencepiece.SentencePieceProcessor(str(folder / name))
    added = sorted(auto.added_tokens_decoder.items())
    tokenizer.add_tokens([token for i, token in added if i >= len(pieces)])
    for i, token in added:
        if tokenizer.token_to_id(token.content) != i:
            raise _refused(f"{name} has no place for {token.content!r} at id {i}", folder)
    contents = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    for text in HARD_TEXTS:
        if any(content in text for content in contents):
            continue  # SentencePiece reads control symbols as text
        if tokenizer.encode(text, add_special_tokens=False).ids != pieces.encode(text):
            raise _refused(f"one made from {name} would read {text[:20]!a} otherwise than SentencePiece", folder)
    return json.loads(tokenizer.to_str())


def _check(data: dict[str, Any], auto: Any, folder: Path, names: tuple[str, ...]) -> None:
    from tokenizers import Tokenizer

    if names[0] == "vocab.json":
        held = read_json_object(folder / names[0])
        lines = (folder / names[1]).read_text(encoding="utf-8").split("\n")
        merges = sum(bool(line) and not line.startswith("#version") for line in lines)
        if merges != len(data["model"].get("merges", [])):
            raise _refused(f"{type(auto).__name__} does not read merges.txt", folder)
    else:
        lines = (folder / names[0]).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        held = {token: i for i, token in enumerate(lines)}
    plain = Tokenizer.from_str(json.dumps(data, ensure_ascii=False))
    plain.no_truncation()
    plain.no_padding()
    if any(plain.token_to_id(token) != i for token, i in held.items()):
        raise _refused(f"{type(auto).__name__} does not read {names[0]}", folder)
    for text in HARD_TEXTS:
        if plain.encode(text).ids != auto(text)["input_ids"]:
            raise _refused(f"one made from {names[0]} would read {text[:20]!a} otherwise", folder)


def _refused(problem: str, folder: Path) -> SurgeonError:
    return SurgeonError(f"there is no tokenizer.json, and {problem}", str(folder), _CURE)
