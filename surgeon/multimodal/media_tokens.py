"""Ids that stand for images, videos and sounds in a text, which no other token may have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.multimodal.values import read_settings, values_of

_ENDS = ("_token_id", "_token_ids", "_token_index")
_OF_TEXTS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")  # these the text part may move


def check_media_tokens(config: Mapping[str, Any], whole: Path, part: Path) -> None:
    """Raise SurgeonError where such an id is another token in the tokenizer of the language model than it was: a new
    token got the id because the old tokenizer did not name it. config: of the multimodal model, which may leave ids to
    the defaults of its class."""
    old, new = _tokenizer(whole), _tokenizer(part)
    if old is None or new is None:
        return
    said = values_of(read_settings(config, str(whole)))
    found = {key: value for key, value in said.items() if key.endswith(_ENDS) and key not in _OF_TEXTS}
    ids = [(key, n) for key, value in found.items() for n in (value if isinstance(value, list) else [value])]
    for key, number in ids:
        if not isinstance(number, int) or number < 0:
            continue
        was, now = old.id_to_token(number), new.id_to_token(number)
        if now is not None and now != was:
            raise SurgeonError(
                f"the multimodal model's {key} is {number}, and the language model's token of that id is {now!r}"
                + (f", not {was!r}" if was is not None else ""),
                str(part),
                f"name the id {number} in the tokenizer of the extracted model before new tokens are added",
            )


def _tokenizer(folder: Path) -> Any | None:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for a file it cannot read
        raise SurgeonError(
            f"tokenizer.json cannot be read: {error}", str(path), "restore the file from the model's source"
        ) from error
