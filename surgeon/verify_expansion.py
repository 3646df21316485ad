"""The promise of an expansion by an identity fill: the deeper model computes what its parent computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from surgeon.arch.config_blocks import remap_blocks
from surgeon.arch.family import Family, family_of
from surgeon.checkpoint.header import num_bytes
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import BlockMap, Lineage
from surgeon.checkpoint.tree_digest import tensor_digest, weight_digests, zeros_digest
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.layout import Placed
from surgeon.ops.plain import plain_bytes
from surgeon.ops.plan import Copy, OutTensor, Zeros, source_from_json
from surgeon.progress import Progress

Check = tuple[str, bool, str]
IDENTITIES = {"auto", "zero", "norm_gain"}
_FLOAT32, _BESIDE = 4, 1.25  # bytes of a weight as it is loaded; what a forward pass takes beside it


def verify_expansion(
    parent: Path, out: Path, lineage: Lineage, texts: Sequence[str], available: int, progress: Progress
) -> list[Check]:
    """(what, whether it holds, detail): every tensor is what the lineage says, and the logits and greedy generation
    with the cache are equal to the last bit in float32 and bfloat16.

    On the real weights where they fit into `available` bytes (one model at a time, in float32), else on a tiny random
    model of the same configuration, with the same blocks copied and filled in the same way. Raises SurgeonError for a
    fill that does not promise the same function.
    """
    assert lineage.blocks is not None
    fills = sorted({new.fill for new in lineage.blocks.new})
    if not set(fills) <= IDENTITIES:
        raise SurgeonError(
            f"the fill {', '.join(fills)} does not promise the same function", str(out), "verify without --function"
        )
    before, after = Checkpoint.open(parent), Checkpoint.open(out)
    config = remap_blocks(before.config, lineage.blocks.source, family_of(before))
    what = "config.json is the parent's with its blocks put in place"
    checks = [(what, after.config == config, f"{len(lineage.blocks.source)} blocks")]
    checks.append(_as_recorded(before, after, lineage, progress))
    need = int(_BESIDE * _FLOAT32 * sum(t.nbytes // num_bytes(t.dtype, ()) for t in after.tensors.values()))
    if need <= available:
        if not texts:
            raise UsageError(
                "a probe text is needed", "--data", "give --data CORPUS, or --memory 1k to check on a tiny model"
            )
        return checks + _real(parent, out, texts, progress)
    reason = f"{need:,} bytes in float32 do not fit into {available:,}"
    return [*checks, _tiny(before, lineage, reason)]


def _as_recorded(before: Checkpoint, after: Checkpoint, lineage: Lineage, progress: Progress) -> Check:
    """Every tensor by its digest: the parent's of the block it came from, or the value that the fill set."""
    family = family_of(after)
    with progress.task("comparing tensors", before.num_bytes + after.num_bytes, "bytes") as advance:
        old = {name: d for w in weight_digests(before.shards) for name, d in w.tensors.items()}
        advance(before.num_bytes)
        new = {name: d for w in weight_digests(after.shards) for name, d in w.tensors.items()}
        advance(after.num_bytes)
    differing = [
        name for name, stored in after.tensors.items() if new[name] != _expected(name, stored, family, lineage, old)
    ]
    silent = len(lineage.initial)
    detail = f"{len(new)} tensors, {silent} of them set by the fill"
    if differing:
        detail = f"{len(differing)} of {len(new)} tensors differ, first {differing[0]}"
    return "every tensor is its source's, or what the fill set", not differing, detail


def _expected(name: str, stored: object, family: Family, lineage: Lineage, old: dict[str, str]) -> str | None:
    """The digest that the lineage promises, None where it does not say."""
    assert lineage.blocks is not None
    block = family.unit(name).block
    origin = name if block is None else family.rename(name, lineage.blocks.source[block])
    if name not in lineage.initial:
        return old.get(origin)
    source = source_from_json(lineage.initial[name])
    shape, dtype, nbytes = (getattr(stored, key) for key in ("shape", "dtype", "nbytes"))
    if isinstance(source, Zeros):
        return zeros_digest(nbytes)
    if isinstance(source, Copy):
        return old.get(source.tensor)
    raw = plain_bytes(OutTensor(name, dtype, shape, source))
    return None if raw is None else tensor_digest(raw)


def _real(parent: Path, out: Path, texts: Sequence[str], progress: Progress) -> list[Check]:
    from surgeon.loading import load_tokenizer
    from surgeon.measure.function import same_function

    try:
        tokenizer = load_tokenizer(parent)
    except SurgeonError as error:
        raise SurgeonError(
            error.problem,
            error.where,
            f"put the tokenizer there, or check on a tiny model, which needs none: "
            f"surgeon verify {out} --function --memory 1k",
        ) from error
    probe = [tokenizer(text)["input_ids"] for text in texts if text]
    report = same_function(parent, out, probe, progress=progress)
    checks: list[Check] = []
    for dtype, c in report.dtypes.items():
        detail = f"{report.positions} positions, largest difference {c.max_abs_difference:g}"
        checks.append((f"same logits in {dtype}", c.equal, detail))
        checks.append((f"same greedy text in {dtype}", c.same_generation, f"{report.documents} documents"))
    return checks


def _tiny(before: Checkpoint, lineage: Lineage, reason: str) -> Check:
    from surgeon import registry
    from surgeon.expand.fill import Filled
    from surgeon.expand.proof import prove

    assert lineage.blocks is not None
    fill = registry.get("fill", next(new.fill for new in lineage.blocks.new))

    def filled(family: Family, block: int) -> Filled:
        result: Filled = fill.call({"family": family, "block": block}, lineage.settings.get("option_fill", {}))
        return result

    name = "same logits and greedy text on a tiny model of the same configuration"
    try:
        prove(before, family_of(before), _placed(lineage.blocks), filled)
    except SurgeonError as error:
        return name, False, f"{error.problem} ({reason})"
    return name, True, f"in float32 and bfloat16 ({reason})"


def _placed(blocks: BlockMap) -> list[Placed]:
    added = {new.block for new in blocks.new}
    return [Placed(source, block in added) for block, source in enumerate(blocks.source)]
