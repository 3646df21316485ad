"""Tokens and ids that other files name and tokenizer.json does not hold: new tokens must neither move nor take them.

AutoTokenizer appends such tokens (of added_tokens.json, or of tokenizer_config.json) behind those of tokenizer.json
each time it loads. With more tokens before them they would get other ids, and other rows, than the model was trained
with; what is more, it counts tokens to find the first free id, which may be that of a new token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surgeon.checkpoint.config_json import read_json_object
from surgeon.errors import SurgeonError
from surgeon.loading import load_tokenizer
from surgeon.vocab.tokenizer_json import TokenizerFile

_CONFIGS = ("config.json", "generation_config.json")


def check_appended(folder: Path, file: TokenizerFile, num_rows: int) -> None:
    """Refuse a tokenizer to which AutoTokenizer appends a token that has a row; one without a row was never read."""
    file.load()  # what tokenizers cannot read is refused by its name
    try:
        auto = load_tokenizer(folder)
    except Exception:  # noqa: BLE001 - what cannot be loaded, for whatever reason, gives no ids; surgeon.vocab.loads says it
        return
    held = sorted((i, token) for token, i in auto.get_added_vocab().items())
    for i, token in held:
        if token not in file.vocab and i < num_rows:
            raise SurgeonError(
                f"AutoTokenizer gives the token {token!r} the id {i}, and tokenizer.json does not hold it: behind new "
                "tokens it would get another one",
                str(file.path),
                "write it into tokenizer.json: save_pretrained what AutoTokenizer loads, and take the files of that",
            )


def check_named(folder: Path, file: TokenizerFile, first: int, count: int) -> None:
    """Refuse `count` new ids from `first` on where a configuration names one as the start, end or padding of texts."""
    for name in _CONFIGS:
        path = folder / name
        for key, i in _token_ids(read_json_object(path)) if path.is_file() else ():
            if i not in file.ids and first <= i < first + count:
                raise SurgeonError(
                    f"{key} names {i}, an id that no token has: a new one would get it",
                    str(path),
                    "write the id of a token there, or give that id a token in tokenizer.json",
                )


def _token_ids(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Every id under a key such as pad_token_id, alone or in a list."""
    for key, value in config.items():
        if key.endswith(("_token_id", "_token_ids")):
            for i in value if isinstance(value, list) else [value]:
                if isinstance(i, int) and not isinstance(i, bool):
                    yield key, i
