"""Two models that gave one row of the base (padding, or a token in reserve) to different tokens do not meet there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgeon.errors import SurgeonError
from surgeon.merge.ancestry import Member
from surgeon.merge.graded import Graded
from surgeon.merge.vocabulary import Vocabulary, same_files, vocabulary_of

Added = Mapping[str, tuple[int, Member]]


def check_one_token_a_row(base: Member, target: Member, weighted: Sequence[tuple[Member, Graded]]) -> None:
    """Raise SurgeonError where rows that meet by their numbers are different tokens in two models, and in neither what
    they are in the base: one token would be lost, and the row of the other be a mixture of both."""
    others = _others(target, weighted)
    known, before = (vocabulary_of(m.checkpoint) for m in (target, base)) if others else (None, None)
    if known is None or before is None:
        return
    names: dict[int, tuple[str, Member, Vocabulary]] = {}
    for member, own in [(target, known), *_by_number(others, known)]:
        for i, token in _named(own, before).items():
            other, first, held = names.setdefault(i, (token, member, own))
            if other != token:
                apart = member if not own.refined_by(held) else first if not held.refined_by(own) else None
                raise SurgeonError(
                    f"{first.name} and {member.name} have given row {i} of {base.name} to different tokens, to "
                    f"{other!r} and to {token!r}: the merge would mix them",
                    f"{member.checkpoint.path}/tokenizer.json",
                    "move the token of one of them, with its row, to an id that the other does not use"
                    if apart is None
                    else f"merge with --onto {apart.name}: tokens that it lacks get rows of their own",
                )


def check_free(target: Member, weighted: Sequence[tuple[Member, Graded]], added: Added) -> None:
    """Raise SurgeonError where a token that the target lacks (`added`: content -> its id, and whose it is) would get a
    row that another model has named."""
    others = _others(target, weighted) if added else []
    known = vocabulary_of(target.checkpoint) if others else None
    if known is None:
        return
    taken = {i: (token, member) for token, (i, member) in added.items()}
    for member, own in _by_number(others, known):
        for i, name in _named(own, known).items():
            if i in taken:
                token, other = taken[i]
                raise SurgeonError(
                    f"{member.name} has given row {i} of {target.name} to {name!r}, and {token!r} of {other.name} "
                    "would get it",
                    f"{member.checkpoint.path}/tokenizer.json",
                    f"merge with --onto {other.name}: tokens that it lacks get rows of their own",
                )


def check_named(first: Member, weighted: Sequence[tuple[Member, Graded]]) -> None:
    """Of models without a base, where the output has the tokenizer of the first. Raise SurgeonError where another one
    has given a token to a row that is padding there, or is another token: nothing says which of the two was only kept
    in reserve."""
    others = _others(first, weighted)
    known = vocabulary_of(first.checkpoint) if others else None
    if known is None:
        return
    for member in others:
        own = vocabulary_of(member.checkpoint)
        if own is None:
            continue
        for i, token in sorted(own.added.items()):
            if known.added.get(i, token) != token:
                raise SurgeonError(
                    f"row {i} is {known.added[i]!r} in {first.name} and {token!r} in {member.name}: the merge would "
                    "mix them",
                    f"{member.checkpoint.path}/tokenizer.json",
                    "merge with the model that both descend from (surgeon merge-task-vectors BASE ...), or give the "
                    "row one name in both tokenizers if it is one token",
                )
        lost = [token for i, token in sorted(own.added.items()) if i not in known.keys]
        if lost:
            raise SurgeonError(
                f"{member.name} has {len(lost)} tokens that {first.name} lacks, such as {lost[0]!r}, and the output "
                "has the tokenizer of the first model",
                f"{member.checkpoint.path}/tokenizer.json",
                f"give {member.name} as the first one (with t of slerp from the other end)",
            )


def _others(target: Member, weighted: Sequence[tuple[Member, Graded]]) -> list[Member]:
    """Models that have a say, and another tokenizer than the target."""
    return [m for m, weight in weighted if weight.adds and not same_files(m.checkpoint.path, target.checkpoint.path)]


def _by_number(others: Sequence[Member], known: Vocabulary) -> list[tuple[Member, Vocabulary]]:
    """Those that only named rows which the target has too."""
    found = [(member, vocabulary_of(member.checkpoint)) for member in others]
    return [(member, own) for member, own in found if own is not None and known.refined_by(own)]


def _named(own: Vocabulary, before: Vocabulary) -> dict[int, str]:
    """Id -> content of added tokens that are none, or another one, before; special or not."""
    old = {i: key.partition(b" ")[2] for i, key in before.keys.items() if i in own.added}
    return {i: token for i, token in sorted(own.added.items()) if old.get(i) != token.encode()}
