"""tokenizer.model (SentencePiece): the same new pieces behind the old ones, scores below all of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surgeon.errors import SurgeonError
from surgeon.vocab.tokenizer_json import TokenizerFile

TOKENIZER_MODEL = "tokenizer.model"
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = (
    1,
    3,
    4,
    5,
    6,
)  # sentencepiece_model.proto, ModelProto.SentencePiece.Type


def extend_model(path: Path, file: TokenizerFile, tokens: Sequence[str], first: int | None = None) -> bytes:
    """The protobuf with `tokens` appended, in order, as normal pieces; nothing else of it changes.

    `file` is the tokenizer.json before the extension. Added tokens whose ids follow the pieces (as in many fine-tuned
    models) are written too, so that a piece's place is its id. Refuses a model that is not BPE, or that holds another
    token than tokenizer.json at some id.
    """
    proto = read_model(path)
    if proto.trainer_spec.model_type != 2:
        raise SurgeonError("tokenizer.model is not BPE, as tokenizer.json is", str(path), "remove the wrong one")
    for i, piece in enumerate(proto.pieces):
        if file.ids.get(i) != piece.piece:
            raise SurgeonError(
                f"tokenizer.model and tokenizer.json disagree at id {i}: {piece.piece!r} and {file.ids.get(i)!r}",
                str(path),
                "remove tokenizer.model if tokenizer.json is the one in use",
            )
    special = file.special_ids
    for i in range(len(proto.pieces), file.next_id):
        if i not in file.ids:
            raise SurgeonError(f"tokenizer.json has no token at id {i}", str(file.path), "use one without holes")
        proto.pieces.add(piece=file.ids[i], score=0.0, type=_CONTROL if i in special else _USER_DEFINED)
    for i in range(file.next_id, file.next_id if first is None else first):  # ids of padding rows, never produced
        proto.pieces.add(piece=f"<unused_{i}>", score=0.0, type=_UNUSED)
    score = min((p.score for p in proto.pieces if p.type == _NORMAL), default=0.0)
    for token in tokens:
        score = _below(score)
        proto.pieces.add(piece=token, score=score, type=_NORMAL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString()


def read_model(path: Path) -> Any:
    """The parsed ModelProto; refuses what is not one."""
    from google.protobuf.message import DecodeError
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise SurgeonError("tokenizer.model is damaged", str(path), "download it again") from error
    return proto


def _below(score: float) -> float:
    """One less, or the next number below where float32 has no room for one (pieces at -1e9)."""
    one_less = np.float32(score) - np.float32(1)
    return float(min(one_less, np.nextafter(np.float32(score), np.float32(-np.inf))))
