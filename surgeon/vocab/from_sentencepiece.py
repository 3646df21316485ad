"""The content of a tokenizer.json for a SentencePiece model (BPE or Unigram), built piece by piece from the protobuf.

transformers 5.23 rebuilds these from code for each class; its readings of a tokenizer.model differ from SentencePiece
on runs of spaces (BPE merges there follow the pieces' places, not their scores), so none of them is used here. What
is built is only used where it gives SentencePiece's ids on hard texts (surgeon.vocab.convert).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.vocab.tokenizer_json import SPACE
from surgeon.vocab.tokenizer_model import CONTROL, UNKNOWN, USER_DEFINED, read_model


def sentencepiece_tokenizer(path: Path, before: list[str], after: list[str]) -> Any:
    """A tokenizers.Tokenizer; `before` and `after` are the special tokens that it puts around a text."""
    from tokenizers import AddedToken, Tokenizer, processors

    proto = read_model(path)
    kind = proto.trainer_spec.model_type
    if kind not in (1, 2):
        raise SurgeonError(f"{path.name} is neither Unigram nor BPE", str(path), "give a folder with tokenizer.json")
    tokenizer = Tokenizer(_unigram(proto) if kind == 1 else _bpe(proto))
    tokenizer.normalizer = _normalizer(proto)
    tokenizer.decoder = _decoder(proto)
    special = (UNKNOWN, CONTROL)
    tokenizer.add_tokens(
        [
            AddedToken(p.piece, normalized=False, special=p.type in special)
            for p in proto.pieces
            if p.type in (*special, USER_DEFINED)
        ]
    )
    if before or after:
        ids = [(t, tokenizer.token_to_id(t)) for t in dict.fromkeys((*before, *after))]
        pair = [*before, "$A", *after, *(f"{t}:1" for t in before), "$B:1", *(f"{t}:1" for t in after)]
        tokenizer.post_processor = processors.TemplateProcessing([*before, "$A", *after], pair, ids)
    return tokenizer


def _unigram(proto: Any) -> Any:
    from tokenizers.models import Unigram

    pieces = [(p.piece, p.score) for p in proto.pieces]
    return Unigram(pieces, unk_id=proto.trainer_spec.unk_id, byte_fallback=proto.trainer_spec.byte_fallback)


def _bpe(proto: Any) -> Any:
    """Any two neighbours that make a piece merge, the piece with the highest score first, of one piece the longest
    left part first."""
    from tokenizers.models import BPE

    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    merges: list[tuple[float, int, tuple[str, str]]] = []
    for i, p in enumerate(proto.pieces):
        cuts = ((p.piece[:k], p.piece[k:]) for k in range(1, len(p.piece)))
        merges += [(-p.score, i, (left, right)) for left, right in cuts if left in vocab and right in vocab]
    merges.sort(key=lambda m: (m[0], m[1], -len(m[2][0])))
    spec = proto.trainer_spec
    return BPE(
        vocab, [pair for *_, pair in merges], unk_token=spec.unk_piece, fuse_unk=True, byte_fallback=spec.byte_fallback
    )


def _normalizer(proto: Any) -> Any:
    from tokenizers import Regex, normalizers

    spec = proto.normalizer_spec
    found: list[Any] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        found += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        found.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*found, normalizers.Replace(" ", SPACE)])


def _decoder(proto: Any) -> Any:
    from tokenizers import decoders

    found: list[Any] = [decoders.Replace(SPACE, " ")]
    if proto.trainer_spec.byte_fallback:
        found.append(decoders.ByteFallback())
    found.append(decoders.Fuse())
    if proto.normalizer_spec.add_dummy_prefix:
        found.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(found)
