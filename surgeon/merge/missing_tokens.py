"""Tokens that a model has and the output would not: their rows would be lost without a word."""

from __future__ import annotations

from collections.abc import Container, Sequence

from surgeon.errors import SurgeonError
from surgeon.merge.ancestry import Member
from surgeon.merge.graded import Graded
from surgeon.merge.vocabulary import Vocabulary, piece_key, same_files, vocabulary_of
from surgeon.vocab.tokenizer_json import TokenizerFile

SHOWN = 5


def refuse_all_missing(target: Member, weighted: Sequence[tuple[Member, Graded]], added: Container[str] = ()) -> None:
    """Raises SurgeonError where a model that is added has tokens that the target lacks; `added`: contents of those
    that the output gets behind the target's.

    Not so tokens that were left out of the target on purpose, as no text becomes them there
    (surgeon.vocab.tokens_of).
    """
    known = vocabulary_of(target.checkpoint)
    for member, weight in weighted:
        if known is None or member.digest == target.digest or not weight.adds:
            continue
        if same_files(member.checkpoint.path, target.checkpoint.path):
            continue
        own = vocabulary_of(member.checkpoint)
        if own is not None and not known.refined_by(own):
            there = [i for i, content in own.added.items() if content in added]
            _refuse_missing(own, known, there, member, target)


def _refuse_missing(own: Vocabulary, known: Vocabulary, there: Container[int], member: Member, target: Member) -> None:
    missing = [i for i, key in own.keys.items() if key not in known.ids and i not in there]
    if missing:
        left_out = _left_out(target)
        missing = [i for i in missing if own.keys[i] not in left_out]
    if not missing:
        return
    shown = ", ".join(repr(own.keys[i].partition(b" ")[2].decode(errors="replace")) for i in missing[:SHOWN])
    raise SurgeonError(
        f"{member.name} has {len(missing)} tokens that {target.name} lacks, such as {shown}",
        f"{member.checkpoint.path}/tokenizer.json",
        "--special-tokens taken gives rows to special tokens and to those that a chat template names; others must be "
        f"among the added tokens of {target.name} already"
        if all(i in own.added for i in missing)
        else f"give {target.name} these tokens with their rows first (surgeon extend-vocab {target.name} OUT "
        f"--tokens-of {member.name}), then merge with --onto OUT",
    )


def _left_out(target: Member) -> set[bytes]:
    told = [step.rows.learning or {} for step in target.steps if step.rows is not None]
    tokens = [token for learning in told for token in learning.get("left_out", [])]
    if not tokens:
        return set()
    file = TokenizerFile.open(target.checkpoint.path)
    return {piece_key(file, token) for token in tokens}
