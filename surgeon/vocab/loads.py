"""How an extended tokenizer will be read by others, said before it is written: AutoTokenizer, llama.cpp, old habits.

AutoTokenizer may take a class made for the model, which rebuilds the pre-tokenizer, the decoder and flags from code
and takes from tokenizer.json little more than the tokens. Whether that comes to the same is not argued but tried:
texts are encoded with the class and with tokenizer.json alone.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from surgeon.checkpoint.sidecars import sidecars
from surgeon.errors import SurgeonError
from surgeon.vocab.probe_texts import HARD_TEXTS, LLAMA_CPP_TEXT
from surgeon.vocab.token_text import token_text
from surgeon.vocab.tokenizer_files import TokenizerFiles
from surgeon.vocab.tokenizer_json import TokenizerFile

_TOKENS_A_TEXT = 50


class Reading(NamedTuple):
    """name: of the class that AutoTokenizer chose. differs: positions of the texts that it encodes, or whose ids it
    decodes, otherwise than tokenizer.json alone. problem: why it cannot be loaded, else empty."""

    name: str
    differs: frozenset[int]
    problem: str = ""


def load_notes(folder: Path, old: TokenizerFile, files: TokenizerFiles, texts: Sequence[str] = ()) -> list[str]:
    """What people should know of how the extended tokenizer loads; empty where everything reads it alike.

    folder: of the old model. texts: tried beside the built-in hard ones and the new tokens' own. Raises SurgeonError
    where AutoTokenizer could load the old tokenizer and cannot load the new one.
    """
    new = files.file
    added = [token_text(new, new.ids[i]) for i in new.ids if i not in old.ids]
    runs = [" ".join(added[i : i + _TOKENS_A_TEXT]) for i in range(0, len(added), _TOKENS_A_TEXT)]
    notes = [f"{name} is not written: {reason}" for name, reason in files.left_out.items()]
    if old.made_from:
        notes.append(
            f"tokenizer.json was made from {' and '.join(old.made_from)}, with the same ids on {len(HARD_TEXTS)} hard "
            "texts"
        )
    notes += _holes(old, new)
    notes += _auto(folder, old, files, (*HARD_TEXTS, *texts, *runs))
    notes += _llama_cpp(old, new)
    return notes


def read_both(folder: Path, file: TokenizerFile, texts: Sequence[str]) -> Reading:
    """AutoTokenizer's reading of the tokenizer in `folder` beside that of tokenizer.json alone."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        auto = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - transformers raises what its parts raise
        return Reading("", frozenset(), " ".join(str(error).split())[:160] or type(error).__name__)
    finally:
        logging.set_verbosity(level)
    plain = file.load()
    differs = frozenset(k for k, text in enumerate(texts) if _unlike(auto, plain, text))
    return Reading(type(auto).__name__, differs)


def llama_cpp_hash(file: TokenizerFile) -> str:
    """The SHA-256 by which llama.cpp's converter names the pre-tokenizer of byte-level BPE and WordPiece."""
    return hashlib.sha256(str(file.load().encode(LLAMA_CPP_TEXT).ids).encode()).hexdigest()


def _unlike(auto: Any, plain: Any, text: str) -> bool:
    ids = plain.encode(text).ids
    if auto(text, truncation=False, padding=False, verbose=False)["input_ids"] != ids:
        return True
    decoded = auto.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return bool(decoded != plain.decode(ids, skip_special_tokens=False))


def _auto(folder: Path, old: TokenizerFile, files: TokenizerFiles, texts: Sequence[str]) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="surgeon-tokenizer-") as name:
        place = Path(name)
        for carried in ["config.json", *sidecars(folder)]:
            if (folder / carried).is_file() and "/" not in carried and carried not in files.names:
                shutil.copyfile(folder / carried, place / carried)
        for file, text in files.texts.items():
            (place / file).write_text(text, encoding="utf-8")
        for file, raw in files.binary.items():
            (place / file).write_bytes(raw)
        after = read_both(place, files.file, texts)
    if not after.problem and not after.differs:
        return []
    before = read_both(folder, old, texts)
    if after.problem and not before.problem:
        raise SurgeonError(
            f"AutoTokenizer could not load the extended tokenizer: {after.problem}",
            str(folder),
            "set tokenizer_class in tokenizer_config.json to PreTrainedTokenizerFast",
        )
    if after.problem:
        return [f"AutoTokenizer cannot load this tokenizer, before or after: {after.problem}"]
    fresh = after.differs - before.differs
    notes = []
    if after.differs & before.differs:
        notes.append(
            f"AutoTokenizer ({after.name}) reads {len(after.differs & before.differs)} of {len(texts)} hard texts "
            f"otherwise than tokenizer.json alone, as it did before, such as {_first(texts, after.differs)}"
        )
    if fresh:
        notes.append(
            f"AutoTokenizer ({after.name}) reads {len(fresh)} of {len(texts)} hard texts otherwise than "
            f"tokenizer.json alone, which it did not before, such as {_first(texts, fresh)}; tokenizer_class "
            "PreTrainedTokenizerFast in tokenizer_config.json mends it"
        )
    return notes


def _first(texts: Sequence[str], where: frozenset[int]) -> str:
    return ascii(texts[min(where)][:30])


def _holes(old: TokenizerFile, new: TokenizerFile) -> list[str]:
    """Loaders count tokens, and take the count for the next free id and for the number of rows."""
    first = min((i for i in new.ids if i not in old.ids), default=old.next_id)
    if first == old.next_id:
        return []
    return [
        f"ids {old.next_id} to {first - 1} stay without a token (padding rows): len(tokenizer) is not the last "
        "id plus one, so never resize the embedding to it; --use-padding fills these ids first"
    ]


def _llama_cpp(old: TokenizerFile, new: TokenizerFile) -> list[str]:
    if not (old.byte_level or old.kind == "WordPiece") or llama_cpp_hash(old) == llama_cpp_hash(new):
        return []
    found = [new.ids[i] for i in new.load().encode(LLAMA_CPP_TEXT).ids if i not in old.ids]
    return [
        "llama.cpp's converter will not recognise the pre-tokenizer: the new tokens "
        f"{', '.join(map(repr, dict.fromkeys(found)))} occur in the text that it knows it by; keep them out with a "
        "--keep-corpus that holds this text (surgeon.vocab.probe_texts)"
    ]
