"""tokenizer.model (SentencePiece, BPE or Unigram): the same new pieces behind the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surgeon.errors import SurgeonError
from surgeon.vocab.kinds.unigram import UnigramFile, unused
from surgeon.vocab.tokenizer_json import TokenizerFile

TOKENIZER_MODEL = "tokenizer.model"
MODEL_FILES = (TOKENIZER_MODEL, "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model")
_TYPES = {"Unigram": 1, "BPE": 2}  # sentencepiece_model.proto, TrainerSpec.ModelType
# ModelProto.SentencePiece.Type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5


def same_ids(path: Path, file: TokenizerFile) -> bool:
    """Whether a piece's place is its id in tokenizer.json.

    False for the files of XLM-R and its kin, whose pieces stand one place before their ids: there is no place behind
    the last piece that would not be another token's. Refuses a file that holds other pieces than tokenizer.json.
    """
    proto = read_model(path)
    if proto.trainer_spec.model_type != _TYPES.get(file.kind):
        raise SurgeonError(f"{path.name} is not {file.kind}, as tokenizer.json is", str(path), "remove the wrong one")
    wrong = next((i for i, piece in enumerate(proto.pieces) if file.ids.get(i) != piece.piece), None)
    if wrong is None:
        return True
    normal = [(i, piece.piece) for i, piece in enumerate(proto.pieces) if piece.type == NORMAL]
    if normal and len({file.vocab.get(piece, -1 - i) - i for i, piece in normal}) == 1:
        return False
    raise SurgeonError(
        f"{path.name} and tokenizer.json disagree at id {wrong}: {proto.pieces[wrong].piece!r} and "
        f"{file.ids.get(wrong)!r}",
        str(path),
        f"remove {path.name} if tokenizer.json is the one in use",
    )


def extend_model(path: Path, file: TokenizerFile, tokens: Sequence[str], first: int | None = None) -> bytes:
    """The protobuf with `tokens` appended, in order, as normal pieces; nothing else of it changes.

    `file` is the tokenizer.json before the extension. Added tokens whose ids follow the pieces (as in many fine-tuned
    models) are written too, so that a piece's place is its id; ids that stay without a token become unused pieces.
    Scores are those of tokenizer.json (Unigram), or fall below all old ones in the order of the tokens (BPE). Refuses
    a model of another kind, or that holds another token than tokenizer.json at some id.
    """
    if not same_ids(path, file):
        raise SurgeonError(f"{path.name} numbers its pieces otherwise", str(path), f"remove {path.name}")
    proto = read_model(path)
    special = set(file.special_ids)
    for i in range(len(proto.pieces), file.next_id):
        if i in file.ids:
            proto.pieces.add(piece=file.ids[i], score=0.0, type=CONTROL if i in special else USER_DEFINED)
        else:
            proto.pieces.add(piece=unused(i), score=0.0, type=UNUSED)
    for i in range(file.next_id, file.next_id if first is None else first):  # ids of padding rows, never produced
        proto.pieces.add(piece=unused(i), score=0.0, type=UNUSED)
    for token, score in zip(tokens, _scores(proto, file, tokens), strict=True):
        proto.pieces.add(piece=token, score=score, type=NORMAL)
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
        raise SurgeonError(f"{path.name} is damaged", str(path), "download it again") from error
    if not proto.pieces:
        raise SurgeonError(f"{path.name} holds no pieces", str(path), "download it again")
    return proto


def is_tiktoken(path: Path) -> bool:
    """Whether the file is tiktoken's list of tokens and ranks, which some models name tokenizer.model too."""
    with path.open("rb") as file:
        head = file.readline(256).split()
    return len(head) == 2 and head[1].isdigit() and head[0].isascii()


def _scores(proto: Any, file: TokenizerFile, tokens: Sequence[str]) -> list[float]:
    if isinstance(file, UnigramFile):
        return file.new_scores(tokens)
    score = min((p.score for p in proto.pieces if p.type == NORMAL), default=0.0)
    return [score := _below(score) for _ in tokens]


def _below(score: float) -> float:
    """One less, or the next number below where float32 has no room for one (pieces at -1e9)."""
    one_less = np.float32(score) - np.float32(1)
    return float(min(one_less, np.nextafter(np.float32(score), np.float32(-np.inf))))
