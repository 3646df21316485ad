"""The promise of expand-layers --undo: the deeper model without its new blocks, and nothing else is another."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

from surgeon.arch.family import family_of
from surgeon.checkpoint.header import StoredTensor
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage
from surgeon.checkpoint.parents import parent_folder
from surgeon.checkpoint.same_rows import same_rows
from surgeon.checkpoint.tree_digest import weight_digests
from surgeon.errors import SurgeonError
from surgeon.expand.undo import config_before, kept_names, undone_expansion

Check = tuple[str, bool, str]
_OLD = "its tensors are those from before the expansion"
_ADDED_ONLY = ("new-blocks", "new-rows", "new-blocks+new-rows")


def verify_undo(out: Path, lineage: Lineage, given: Path | None) -> list[Check]:
    """(what, whether it holds, detail).

    Where the whole is the model from before the expansion, byte for byte, there is nothing left to ask, and no other
    model is needed. Else two models are looked at, as far as they are there: the deeper one (given: where it is now),
    of which every tensor that stays is promised; and the one from before the expansion, of which all is promised that
    no step in between was to change (a training of old tensors, rows of new tokens). Raises SurgeonError where neither
    is there.
    """
    after, found = Checkpoint.open(out), undone_expansion(lineage)
    step = None if found is None else found.step
    wanted = step.parents[0].digest if step is not None and step.parents else None
    digest = after.read_digest()
    if digest == wanted:
        return [("it is the model from before the expansion, byte for byte", True, digest[:19])]
    above = lineage.parents[0].lineage
    between = [] if above is None else list(takewhile(lambda other: other is not step, above.chain()))
    original = None if step is None else _original(out, given, [lineage, *between, step], wanted)
    checks: list[Check] = []
    try:
        parent = parent_folder(out, lineage, given)
    except SurgeonError:
        if original is None or given is not None:
            raise
    else:
        checks += _taken_out(Checkpoint.open(parent), after, lineage, step)
        if original is None and not between and step is not None:
            checks.append(_as_written(Checkpoint.open(parent), step))
    if original is not None:
        checks.append(_old_tensors(original, after, between, step))
    return checks


def _taken_out(deeper: Checkpoint, after: Checkpoint, lineage: Lineage, step: Lineage | None) -> list[Check]:
    """Against the deeper model: the blocks that stay and what is outside of blocks, and the configuration."""
    assert lineage.blocks is not None
    old, new = _digests(deeper), _digests(after)
    expected = {now: old[was] for was, now in kept_names(family_of(deeper), lineage.blocks.source).items()}
    differing = [name for name in sorted(expected.keys() | new.keys()) if expected.get(name) != new.get(name)]
    detail = f"{len(new)} tensors" if not differing else f"{len(differing)} differ, first {differing[0]}"
    checks = [("every tensor is the deeper model's", not differing, detail)]
    if step is not None:
        config = config_before(deeper.config, step, str(deeper.path / LINEAGE_FILE))
        what = "config.json is the deeper model's with its new blocks taken out"
        checks.append((what, after.config == config, f"{len(lineage.blocks.source)} blocks"))
    return checks


def _as_written(deeper: Checkpoint, step: Lineage) -> Check:
    """Nothing is known to have come after the expansion: what was taken out of is what it wrote."""
    found = {shard.name: d.digest for shard, d in zip(deeper.shards, weight_digests(deeper.shards), strict=True)}
    changed = [name for name, digest in found.items() if step.files.get(name) != digest]
    detail = f"{len(found)} files" if not changed else f"{changed[0]} was changed since, by what left no lineage"
    return f"{_OLD}, as the expansion wrote them", not changed, detail


def _old_tensors(original: Checkpoint, after: Checkpoint, between: list[Lineage], step: Lineage | None) -> Check:
    """Against the model from before the expansion, old rows alone where rows came in between. A training of old
    tensors in between takes the promise away; what it left is said."""
    old, new, family = _digests(original), _digests(after), family_of(original)
    rows = min((other.rows.old for other in between if other.rows is not None), default=None)

    def same(name: str, held: StoredTensor) -> bool:
        if new.get(name) == old[name]:
            return True
        there = after.tensors.get(name)
        if rows is None or there is None or family.role(name) not in ("embedding", "head"):
            return False
        return same_rows(held, there, rows)

    differing = [name for name, held in original.tensors.items() if not same(name, held)]
    trained = [other.operation for other in between if other.kind == "training" and not _of_added(other, step)]
    detail = f"{len(old)} tensors" + ("" if rows is None else f", of rows of tokens the first {rows}")
    if differing:
        detail = f"{len(differing)} of {len(old)} tensors differ, first {differing[0]}"
    if trained:
        return _OLD, True, f"not promised, as {trained[0]} came in between: {detail}"
    holds = not differing
    if not between:
        holds = holds and old.keys() == new.keys() and after.config == original.config
        detail += ", in files that are laid out otherwise" if holds else ""
    return _OLD, holds, detail


def _of_added(training: Lineage, step: Lineage | None) -> bool:
    """Whether it trained only what the expansion, or a vocabulary after it, had added. A model from before that has a
    history may have had new blocks and rows of its own."""
    first = step is not None and bool(step.parents) and step.parents[0].lineage is None
    return first and training.settings.get("train") in _ADDED_ONLY


def _original(out: Path, given: Path | None, steps: list[Lineage], wanted: str | None) -> Checkpoint | None:
    """The model from before the expansion, where the recorded paths lead to it and it is what it was. steps: from the
    undo down to the expansion."""
    folder = out.resolve()
    for number, step in enumerate(steps):
        if not step.parents:
            return None
        folder = given.resolve() if given is not None and number == 0 else (folder / step.parents[0].path).resolve()
    try:
        found = Checkpoint.open(folder)
        return found if found.read_digest() == wanted else None
    except SurgeonError:  # it has gone, or something else lies there
        return None


def _digests(checkpoint: Checkpoint) -> dict[str, str]:
    return {name: digest for held in weight_digests(checkpoint.shards) for name, digest in held.tensors.items()}
