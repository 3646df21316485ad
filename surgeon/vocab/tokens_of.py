"""The tokens that another model's tokenizer has and this one lacks, with the merges that make them there."""

from __future__ import annotations

from surgeon.errors import SurgeonError
from surgeon.vocab.learn import Learned
from surgeon.vocab.tokenizer_json import Merge, TokenizerFile, all_splits, unreachable

_CUTS = ("normalizer", "pre_tokenizer")  # of tokenizer.json: what a text is before the model sees it


def tokens_of(file: TokenizerFile, other: TokenizerFile, name: str) -> Learned:
    """The pieces of `other` (of the model called `name`) that `file` lacks, in the order of their ids, and, below all
    merges of `file`, those of `other` that make them.

    For two tokenizers that were extended separately, so that one model can read as both did. A token that the merges
    of `file` take apart before those of `other` can make it is left out (`left_out`), and so is what is built on it:
    its row would be read by no text. Added tokens of `other` stay where they are, and so do pieces that no text
    becomes there. Raises SurgeonError on tokenizers that cut texts in other ways, and where there is nothing to take.
    """
    _check_alike(file, other, name)
    closed = {*other.byte_ids, *other.added_ids}
    theirs = [token for i, token in other.ids.items() if i not in closed and token not in file.vocab]
    dead = set(unreachable(other, theirs))
    theirs = [token for token in theirs if token not in dead]
    left_out: list[str] = []
    while theirs:
        merges = _merges(file, other, theirs)
        lost = set(unreachable(file.extended(theirs, merges), theirs))
        if not lost:
            break
        left_out += [token for token in theirs if token in lost]
        theirs = [token for token in theirs if token not in lost]
    if not theirs:
        raise SurgeonError(
            f"{name} has no token that could be added"
            + (f": the merges here take all {len(left_out)} of its own apart" if left_out else ""),
            f"--tokens-of {name}",
            "give a model with tokens of its own",
        )
    single = sum(len(token) == 1 for token in theirs) if file.byte_ids else 0
    return Learned(tuple(theirs), tuple(merges), single, left_out=tuple(left_out))


def _merges(file: TokenizerFile, other: TokenizerFile, tokens: list[str]) -> list[Merge]:
    """The merges that make `tokens`; none where tokens are not merged."""
    if file.kind != "BPE":
        return []
    if file.by_pieces:
        return all_splits(tokens, file)
    known, wanted = {*file.vocab, *tokens}, set(tokens)
    return [(a, b) for a, b in other.merges if a + b in wanted and a in known and b in known]


def _check_alike(file: TokenizerFile, other: TokenizerFile, name: str) -> None:
    for what, here, there in (
        ("is of type", file.kind, other.kind),
        ("writes bytes as letters:", file.byte_level, other.byte_level),
        ("merges any two pieces:", file.by_pieces, other.by_pieces),
        *((f"has the {key}", file.data.get(key), other.data.get(key)) for key in _CUTS),
    ):
        if here != there:
            raise SurgeonError(
                f"the tokenizer of {name} {what} {_short(there)}, this one {_short(here)}: their pieces are not of "
                "one kind",
                str(other.path),
                "write the texts of the tokens to a file, and give it with --tokens FILE",
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
