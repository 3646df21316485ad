"""What extend-vocab promised, checked on the files: old rows, old tokens, hull certificates, texts that come back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.vocab.certificate import check_hull


class Kept(NamedTuple):
    name: str
    holds: bool
    detail: str


def check_promise(parent: Path, out: Path, texts: Sequence[str]) -> list[Kept]:
    """Against the parent: rows of old ids are its bytes, old ids are its tokens, convex rows are what their weights
    give, and every text that came back from the parent's tokenizer comes back from the new one, in no more tokens."""
    old, new = Checkpoint.open(parent), Checkpoint.open(out)
    return [*_rows(old, new), *_tokens(parent, out, texts), *_hull(new)]


def _rows(old: Checkpoint, new: Checkpoint) -> list[Kept]:
    import torch

    from surgeon.arch.family import family_of
    from surgeon.checkpoint.reader import read

    if new.lineage is None or new.lineage.rows is None:
        raise SurgeonError("the lineage holds no row map", str(new.path), "restore surgeon.json")
    added = {row.id for row in new.lineage.rows.new}
    family = family_of(new)
    checks = []
    for name in filter(None, (family.embedding, family.head, family.head_bias)):
        before, after = read(old.tensor(name)), read(new.tensor(name))
        kept = [i for i in range(before.shape[0]) if i not in added]
        same = torch.equal(before[kept], after[kept])
        checks.append(Kept(f"old rows of {name}", same, f"{len(kept)} rows byte-equal" if same else "rows differ"))
    return checks


def _tokens(parent: Path, out: Path, texts: Sequence[str]) -> list[Kept]:
    from tokenizers import Tokenizer

    old, new = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (parent, out))
    moved = [token for token, i in old.get_vocab().items() if new.id_to_token(i) != token]
    detail = f"{old.get_vocab_size()} ids" if not moved else f"{len(moved)} moved, such as {sorted(moved)[0]!r}"
    checks = [Kept("old ids keep their tokens", not moved, detail)]
    if not texts:
        return checks
    before = [old.encode(text) for text in texts]
    came_back = [old.decode(e.ids) == text for e, text in zip(before, texts, strict=True)]
    after = [new.encode(text) for text in texts]
    lost = [t for t, e, ok in zip(texts, after, came_back, strict=True) if ok and new.decode(e.ids) != t]
    counts = sum(len(e.ids) for e in before), sum(len(e.ids) for e in after)
    checks.append(Kept("texts come back", not lost, f"{sum(came_back)} of {len(texts)} did before"))
    checks.append(Kept("no more tokens than before", counts[1] <= counts[0], f"{counts[0]} -> {counts[1]}"))
    return checks


def _hull(new: Checkpoint) -> list[Kept]:
    report = check_hull(new)
    if not report.claimed:
        return [Kept("hull certificates", True, "no row claims one")]
    return [
        Kept(
            f"hull certificate of {m.tensor}",
            not m.problem,
            m.problem or f"{m.rows} rows, least weight {m.least_weight:.3g}, sums within {m.sum_error:.1g} of 1",
        )
        for m in report.matrices
    ]
