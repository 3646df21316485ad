"""What extend-vocab promised, checked on the files: old rows, old tokens, hull certificates, texts that come back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.vocab.certificate import PADDING, Extension, MatrixReport, check_hull
from surgeon.vocab.hull_check import FILE_TOLERANCE, FileReport, check_hull_file
from surgeon.vocab.hull_file import HULL_FILE
from surgeon.vocab.tokenizer_json import TokenizerFile


class Kept(NamedTuple):
    name: str
    holds: bool
    detail: str


def check_promise(parent: Path, out: Path, texts: Sequence[str]) -> list[Kept]:
    """Against the parent: rows of old ids are its bytes, old ids are its tokens, convex rows are what their weights
    give, and every text that came back from the parent's tokenizer comes back from the new one, in no more tokens.
    No model is loaded; see surgeon.measure.hull_function for what the models compute."""
    old, new = Checkpoint.open(parent), Checkpoint.open(out)
    return [*_rows(old, new), *_tokens(parent, out, texts), *check_weights(new)]


def check_weights(checkpoint: Checkpoint) -> list[Kept]:
    """The certificates of an extension's own output: the float64 weights of its lineage, and the float32 file."""
    report = check_hull(checkpoint)
    if not report.claimed:
        return [Kept("hull certificates", True, "no row claims one")]
    checks = [check for matrix in report.matrices for check in _float64(matrix)]
    extension = Extension(checkpoint)
    if extension.rows.hull_weights is None:
        return [*checks, Kept(HULL_FILE, True, "the extension wrote none")]
    try:
        return [*checks, *(check for matrix in check_hull_file(extension) for check in _float32(matrix))]
    except SurgeonError as error:
        return [*checks, Kept(HULL_FILE, False, error.problem)]


def _float64(m: MatrixReport) -> list[Kept]:
    from surgeon.vocab.hull import TOLERANCE

    name = f"{m.tensor} (padding)" if m.table.endswith(PADDING) else m.tensor
    same = "byte for byte" if m.reproduced else m.problem
    if m.reproduced is None and not m.problem:
        same = "trained since: they need not be"
    return [
        Kept(f"weights of {name} are not negative", m.least_weight >= 0, f"{m.rows} rows, least {m.least_weight:.3g}"),
        Kept(f"weights of {name} sum to 1", m.sum_error <= TOLERANCE, f"within {m.sum_error:.1g} in float64"),
        Kept(f"rows of {name} are what the weights give", not m.problem, same),
    ]


def _float32(m: FileReport) -> list[Kept]:
    detail = m.problem or f"{m.equal} of {m.elements} values as stored, the furthest {m.worst:.3g} ulp off"
    if m.by_bound:
        detail += f"; {m.by_bound} cancel and are held to ulp / 2 + sum |w e| 2^-24"
    if m.off:
        detail = f"{m.off} of {m.elements} values are off, the furthest by {m.worst:.3g} ulp"
    where = f"{m.tensor} in {HULL_FILE}"
    return [
        Kept(f"weights of {where} are not negative", m.least_weight >= 0, f"least {m.least_weight:.3g}"),
        Kept(f"weights of {where} sum to 1", m.sum_error <= FILE_TOLERANCE, f"within {m.sum_error:.1g} in float32"),
        Kept(
            f"weights of {where} are those of the lineage",
            m.same_weights,
            "rounded once to float32" if m.same_weights else "they differ",
        ),
        Kept(f"rows of {m.tensor} are what {HULL_FILE} gives", not (m.off or m.problem), detail),
    ]


def _rows(old: Checkpoint, new: Checkpoint) -> list[Kept]:
    from surgeon.arch.family import family_of
    from surgeon.checkpoint.reader import read, to_bytes

    if new.lineage is None or new.lineage.rows is None:
        raise SurgeonError("the lineage holds no row map", str(new.path), "restore surgeon.json")
    added = {row.id for row in new.lineage.rows.new}
    family = family_of(new)
    checks = []
    for name in filter(None, (family.embedding, family.head, family.head_bias)):
        source = name if name in old.tensors else family.embedding  # a head that was untied holds a copy of its rows
        before, after = read(old.tensor(source)), read(new.tensor(name))
        kept = [i for i in range(before.shape[0]) if i not in added]
        same = to_bytes(before[kept]) == to_bytes(after[kept])
        checks.append(Kept(f"old rows of {name}", same, f"{len(kept)} rows byte-equal" if same else "rows differ"))
    return checks


def _tokens(parent: Path, out: Path, texts: Sequence[str]) -> list[Kept]:
    old, new = (TokenizerFile.open(folder).load() for folder in (parent, out))
    moved = [token for token, i in old.get_vocab().items() if new.token_to_id(token) != i]
    detail = f"{old.get_vocab_size()} ids" if not moved else f"{len(moved)} moved, such as {sorted(moved)[0]!r}"
    checks = [Kept("old ids keep their tokens", not moved, detail)]
    if not texts:
        return checks
    before = [old.encode(text) for text in texts]
    came_back = [old.decode(e.ids) == text for e, text in zip(before, texts, strict=True)]
    after = [new.encode(text) for text in texts]
    lost = [t for t, e, ok in zip(texts, after, came_back, strict=True) if ok and new.decode(e.ids) != t]
    # where an unknown token stood for text, writing that text takes more tokens: such a text did not come back
    read = [(a, b) for a, b, ok in zip(before, after, came_back, strict=True) if ok]
    counts = sum(len(a.ids) for a, _ in read), sum(len(b.ids) for _, b in read)
    checks.append(Kept("texts come back", not lost, f"{sum(came_back)} of {len(texts)} did before"))
    checks.append(Kept("no more tokens than before", counts[1] <= counts[0], f"{counts[0]} -> {counts[1]}"))
    return checks
