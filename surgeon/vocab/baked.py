"""Added tokens that stand outside of the model's vocabulary, and what becomes of them when they are written into it.

They must be written into it so that their ids stay (surgeon.vocab.tokenizer_json). The model then knows their text as
well, and a text may reach it in which the added token itself is not found: inside a longer word where the token is a
word of its own, or in capitals where the normaliser lowers text only after the token was looked for. Whether a model
makes anything of it depends on its kind, so texts of this sort are tried.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.vocab.tokenizer_json import TokenizerFile

_ACCENT = "\u0301"


def may_reach_model(file: TokenizerFile, token: dict[str, Any]) -> bool:
    """Whether the model may be given the text of an added token that was looked for in vain."""
    return bool(token.get("single_word")) or (not token.get("normalized") and file.data.get("normalizer") is not None)


def check_baked(file: TokenizerFile) -> None:
    """Refuse a tokenizer in which a text would become an added token that it does not become now."""
    baked = [t for t in file.added if t["content"] not in file.model_vocab and may_reach_model(file, t)]
    if not baked:
        return
    texts = [(token["content"], text) for token in baked for text in _texts(token["content"])]
    held = [text for _, text in texts]
    before, after = (f.load().encode_batch_fast(held, add_special_tokens=False) for f in (file, file.extended([], [])))
    for (content, text), a, b in zip(texts, before, after, strict=True):
        if a.tokens != b.tokens:  # not by ids: see at_their_ids
            raise SurgeonError(
                f"the text {text!r} would become the added token {content!r}, which it does not now",
                str(file.path),
                "an added token that text can hold must be found in all of it: single_word false, normalized true",
            )


def at_their_ids(file: TokenizerFile) -> TokenizerFile:
    """The file, where tokenizers reads its added tokens with the ids they are written with; else, as behind rows that
    stay without a token, with all of them written into the model's vocabulary. Raises SurgeonError as check_baked."""
    if file.added_as_read() == [token["id"] for token in file.added]:
        return file
    check_baked(file)
    return file.extended([], [])


def _texts(content: str) -> list[str]:
    """The token's text as a normaliser or a longer word may hide it."""
    case = (content.upper(), content.lower(), content.title(), content.swapcase())
    accents = (content + _ACCENT, content[:1] + _ACCENT + content[1:])
    composed = (unicodedata.normalize("NFC", text) for text in accents)
    return list(dict.fromkeys((*case, *accents, *composed, f"x{content}", f"{content}x", f"x{content}x")))
