"""tokenizer_config.json follows the model: its model_max_length is what texts are warned of, or cut at."""

from __future__ import annotations

from pathlib import Path

from surgeon.vocab.json_text import read_json_text

TOKENIZER_CONFIG = "tokenizer_config.json"
KEY = "model_max_length"


def with_length(folder: Path, length: int) -> dict[str, str]:
    """{tokenizer_config.json: its text with this length in tokens}, otherwise set as it was; empty where the file or
    the key is not there, or says as much already (a huge number stands for no limit)."""
    path = folder / TOKENIZER_CONFIG
    if not path.is_file():
        return {}
    held, layout = read_json_text(path)
    own = held.get(KEY)
    if not isinstance(own, int | float) or own >= length:
        return {}
    return {TOKENIZER_CONFIG: layout.dump(held | {KEY: length})}
