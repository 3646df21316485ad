"""Checking an output: its bytes against its lineage, and the promise that its operation made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage, read_lineage
from surgeon.checkpoint.parents import parent_folder
from surgeon.checkpoint.sidecars import read_beside_weights
from surgeon.checkpoint.tree_digest import digest_like
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.memory import memory_available
from surgeon.progress import SILENT, Progress

PROBE_DOCUMENTS = 8  # of each corpus


def verify(
    out: Path,
    *,
    function: bool = False,
    data: Sequence[str] = (),
    parent: Path | None = None,
    memory: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """{"out", "operation", "holds", "checks": [{"check", "holds", "detail"}]}.

    Bytes always: every file has the digest that the lineage recorded, and none was added that a model is loaded from.
    With `function`, what the operation promised: equal logits on `data` (expand-layers with an identity fill,
    attach-adapter), the model from before or, where other steps came in between, its tensors (expand-layers --undo),
    preserved rows, hull certificates and, on `data`, that old text is left alone (extend-vocab), frequencies by the
    formula and finite logits at new positions (extend-context), the same bytes when it is planned again (merge,
    average, fold-adapter, the language model of a multimodal one).
    `parent`: where the first parent is now, when it has moved. `memory`: bytes that a model may take (by default what
    is available); a model that does not fit is not loaded. Raises SurgeonError without a lineage.
    """
    lineage = read_lineage(out)
    if lineage is None:
        raise SurgeonError("there is no surgeon.json: nothing is recorded", str(out), "verify what surgeon wrote")
    checks = _bytes(out, lineage, progress)
    if function:
        try:
            Checkpoint.open(out)
            checks += _function(out, lineage, data, parent, memory, progress)
        except SurgeonError as error:
            if isinstance(error, UsageError) or all(c["holds"] for c in checks):
                raise
            # what is damaged may not even open: that is a difference found, not a refusal
            checks.append(_check("the promise of the operation", False, error.problem))
    return {
        "out": str(out),
        "operation": lineage.operation,
        "holds": all(c["holds"] for c in checks),
        "checks": checks,
    }


def _check(name: str, holds: bool, detail: str) -> dict[str, Any]:
    return {"check": name, "holds": bool(holds), "detail": detail}


def _bytes(out: Path, lineage: Lineage, progress: Progress) -> list[dict[str, Any]]:
    checks = []
    with progress.task("digests", len(lineage.files), "files") as advance:
        for name, digest in lineage.files.items():
            if not (out / name).is_file():
                checks.append(_check(f"bytes of {name}", False, "the file is missing"))
            else:
                found = digest_like(digest, out / name)
                detail = found[:19] if found == digest else f"{found[:19]}, recorded {digest[:19]}"
                checks.append(_check(f"bytes of {name}", found == digest, detail))
            advance(1)
    extra = sorted(p.name for p in out.glob("*.safetensors") if p.name not in lineage.files)
    if extra:
        checks.append(_check("no other weight files", False, ", ".join(extra)))
    read = [name for name in read_beside_weights(out) if name not in lineage.files]
    if read:
        checks.append(_check("no other files that a model is loaded from", False, ", ".join(read)))
    return checks


def _function(
    out: Path, lineage: Lineage, data: Sequence[str], parent: Path | None, memory: int | None, progress: Progress
) -> list[dict[str, Any]]:
    match lineage.operation:
        case "expand-layers" if lineage.settings.get("undo"):
            from surgeon.verify_undo import verify_undo

            return [_check(*c) for c in verify_undo(out, lineage, parent)]
        case "expand-layers":
            from surgeon.verify_expansion import verify_expansion

            folder = parent_folder(out, lineage, parent)
            texts = _texts(data) if data else []
            room = memory_available() if memory is None else memory
            return [_check(*c) for c in verify_expansion(folder, out, lineage, texts, room, progress)]
        case "extend-vocab":
            return _extended(parent_folder(out, lineage, parent), out, _texts(data) if data else [], progress)
        case "extend-context":
            return _longer(parent_folder(out, lineage, parent), out, lineage)
        case "attach-adapter":
            from surgeon.adapters.inspect import adapter_is_identity

            holds, detail = adapter_is_identity(out)
            if holds is None:
                holds, detail = adapter_is_identity(out, parent_folder(out, lineage, parent))
            return [_check("the fresh adapter changes nothing", bool(holds), detail)]
        case (
            "merge-task-vectors"
            | "merge"
            | "average"
            | "fold-adapter"
            | "simplify-adapter"
            | ("extract-language-model" | "graft-language-model")
        ):
            return _again(out, lineage, parent, progress)
    raise SurgeonError(
        f"{lineage.operation} makes no promise about the function", str(out), "verify its bytes without --function"
    )


def _longer(parent: Path, out: Path, lineage: Lineage) -> list[dict[str, Any]]:
    """The tensors are the parent's, the configuration is the parent's with the positions that were asked for, and
    these do what they promised."""
    from surgeon.checkpoint.tree_digest import weight_digests
    from surgeon.context.plan import ExtendContextSettings, new_config
    from surgeon.context.promise import check_frequencies, finite_logits

    before, after = Checkpoint.open(parent), Checkpoint.open(out)
    settings = ExtendContextSettings.model_validate(dict(lineage.settings) | {"model": str(parent), "out": out})
    found = new_config(before, settings)
    was, now = ({n: d for w in weight_digests(c.shards) for n, d in w.tensors.items()} for c in (before, after))
    asked = ", ".join(f"{key.replace('_', '-')} {value}" for key, value in lineage.settings.items())
    checks = [
        ("every tensor is the parent's, byte for byte", was == now, f"{len(now)} tensors"),
        ("config.json is the parent's with other positions", found.config == after.config, asked),
        *check_frequencies(before.config, after.config, str(out)),
        finite_logits(after.config, found.before.length, str(out)),
    ]
    return [_check(*c) for c in checks]


def _texts(data: Sequence[str]) -> list[str]:
    from surgeon.data.source import documents, parse_corpus

    texts: list[str] = []
    for entry in data:
        held = (document.text for document in documents(parse_corpus(entry)) if document.text is not None)
        texts += islice(held, PROBE_DOCUMENTS)
    if not texts:
        raise UsageError("a probe text is needed", "--data", "give --data CORPUS")
    return texts


def _extended(parent: Path, out: Path, texts: Sequence[str], progress: Progress) -> list[dict[str, Any]]:
    """Of the files always; of what the models compute where there are texts to compute it on."""
    from surgeon.vocab.promise import check_promise

    kept = check_promise(parent, out, texts)
    checks = [_check(k.name, k.holds, k.detail) for k in kept]
    if texts:
        try:
            checks += _old_text(parent, out, texts, progress)
        except SurgeonError as error:
            if all(c["holds"] for c in checks):
                raise
            checks.append(_check("old text under both models", False, error.problem))
    return checks


def _old_text(parent: Path, out: Path, texts: Sequence[str], progress: Progress) -> list[dict[str, Any]]:
    """Old logits always stay. That no new row wins, and the bound on what old text loses, are promises of convex
    output rows alone: without them what was measured is said."""
    from surgeon.measure.hull_function import CONTINUE, old_text

    found = old_text(parent, out, texts, progress)
    logits = f"{found.positions} positions, {found.columns} ids, bit by bit in float32"
    if found.equal and found.apart:
        logits += f" in a product over the old rows alone (over all rows its sums differ by up to {found.apart:.2g})"
    if not found.equal:
        logits = f"{found.positions} positions: they differ by up to {found.apart:.3g}"
    margin = f"{found.wins} wins on {found.positions} positions, least margin {found.margin:.3g}"
    greedy = f"{found.same_text} of {found.prompts} prompts, {CONTINUE} tokens each"
    if found.untold:
        greedy += f"; {found.untold} more go on with padding rows of the parent that are tokens now"
    loss = f"{found.loss:.3g} nats a token on {found.positions} positions, at most {found.most:.3g}"
    if found.bound is not None:
        loss += f"; bound log(1 + {found.column_sum:.4g}) = {found.bound:.4g}"
    free = "" if found.convex else "not promised, as not all output rows are convex: "
    none = "no bound holds under a soft cap of the logits: " if found.convex and found.capped else free
    bounded = found.bound is None or found.loss <= found.bound
    return [
        _check("logits of old ids are the parent's", found.equal, logits),
        _check("no new token wins over the best old one", not found.wins or not found.convex, free + margin),
        _check("greedy text is the parent's", found.same_text == found.prompts or not found.convex, free + greedy),
        _check("old text loses no more than its bound", bounded, none + loss),
    ]


def _again(out: Path, lineage: Lineage, parent: Path | None, progress: Progress) -> list[dict[str, Any]]:
    """Plan it again from the recorded settings and parents, and compare the digests of the files."""
    import tempfile

    from surgeon.operations import operation
    from surgeon.ops.execute import execute
    from surgeon.replan import settings_again

    chosen = operation(lineage.operation)
    paths = {p.role: parent_folder(out, lineage, parent, i) for i, p in enumerate(lineage.parents)}
    with tempfile.TemporaryDirectory(prefix="surgeon-verify-") as folder:
        again = Path(folder) / "again"
        settings = chosen.settings_class().model_validate(settings_again(lineage, paths, again, out))
        execute(chosen.call(settings, progress), again, progress=progress)
        found = read_lineage(again)
        assert found is not None
        checks = []
        for name, digest in lineage.files.items():
            same = found.files.get(name) == digest
            checks.append(_check(f"{name} comes out the same again", same, digest[:19]))
    return checks
