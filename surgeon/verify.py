"""Checking an output: its bytes against its lineage, and the promise that its operation made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgeon.checkpoint.digest import file_digest
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage, read_lineage
from surgeon.errors import SurgeonError, UsageError
from surgeon.progress import SILENT, Progress

PROBE_DOCUMENTS = 8


def verify(
    out: Path,
    *,
    function: bool = False,
    data: Sequence[str] = (),
    parent: Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """{"out", "operation", "holds", "checks": [{"check", "holds", "detail"}]}.

    Bytes always: every file has the digest that the lineage recorded. With `function`, what the operation
    promised: equal logits on `data` (expand-layers with an identity fill, attach-adapter), hull certificates and
    preserved rows (extend-vocab), the same bytes when it is planned again (merge, fold-adapter).
    `parent`: where the first parent is now, when it has moved. Raises SurgeonError without a lineage.
    """
    lineage = read_lineage(out)
    if lineage is None:
        raise SurgeonError("there is no surgeon.json: nothing is recorded", str(out), "verify what surgeon wrote")
    checks = _bytes(out, lineage, progress)
    if function:
        try:
            Checkpoint.open(out)
            checks += _function(out, lineage, data, parent, progress)
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
                found = file_digest(out / name)
                detail = found[:19] if found == digest else f"{found[:19]}, recorded {digest[:19]}"
                checks.append(_check(f"bytes of {name}", found == digest, detail))
            advance(1)
    extra = sorted(p.name for p in out.glob("*.safetensors") if p.name not in lineage.files)
    if extra:
        checks.append(_check("no other weight files", False, ", ".join(extra)))
    return checks


def _function(
    out: Path, lineage: Lineage, data: Sequence[str], parent: Path | None, progress: Progress
) -> list[dict[str, Any]]:
    match lineage.operation:
        case "expand-layers":
            return _same_logits(_parent(out, lineage, parent), out, data, lineage, progress)
        case "extend-vocab":
            from surgeon.vocab.promise import check_promise

            kept = check_promise(_parent(out, lineage, parent), out, _texts(data) if data else [])
            return [_check(k.name, k.holds, k.detail) for k in kept]
        case "attach-adapter":
            from surgeon.adapters.inspect import adapter_is_identity

            holds, detail = adapter_is_identity(out)
            return [_check("the fresh adapter changes nothing", holds, detail)]
        case "merge-task-vectors" | "merge" | "fold-adapter":
            return _again(out, lineage, parent, progress)
    raise SurgeonError(
        f"{lineage.operation} makes no promise about the function", str(out), "verify its bytes without --function"
    )


def _parent(out: Path, lineage: Lineage, given: Path | None, index: int = 0) -> Path:
    """The folder of a parent, if it still is what it was."""
    recorded = lineage.parents[index]
    path = given if given is not None and index == 0 else (out.resolve() / recorded.path)
    if not path.is_dir():
        raise SurgeonError(
            f"the parent {recorded.name!r} is not where it was", str(path), "say where it is with --parent MODEL"
        )
    if Checkpoint.open(path).digest != recorded.digest:
        raise SurgeonError(
            f"this is not the parent {recorded.name!r}: its digest differs", str(path), "give the one it was made from"
        )
    return path


def _texts(data: Sequence[str]) -> list[str]:
    from surgeon.data.source import documents, parse_corpus

    texts: list[str] = []
    for entry in data:
        for document in documents(parse_corpus(entry)):
            if document.text is not None:
                texts.append(document.text)
            if len(texts) == PROBE_DOCUMENTS:
                return texts
    if not texts:
        raise UsageError("a probe text is needed", "--data", "give --data CORPUS")
    return texts


def _same_logits(
    parent: Path, out: Path, data: Sequence[str], lineage: Lineage, progress: Progress
) -> list[dict[str, Any]]:
    from surgeon.measure.function import same_function

    fills = sorted({new.fill for new in lineage.blocks.new}) if lineage.blocks else []
    if not set(fills) <= {"auto", "zero", "norm_gain"}:
        raise SurgeonError(
            f"the fill {', '.join(fills)} does not promise the same function", str(out), "verify without --function"
        )
    report = same_function(parent, out, _texts(data), progress=progress)
    checks = []
    for dtype, c in report.dtypes.items():
        detail = f"{report.positions} positions, largest difference {c.max_abs_difference:g}"
        checks.append(_check(f"same logits in {dtype}", c.equal, detail))
        checks.append(_check(f"same greedy text in {dtype}", c.same_generation, f"{report.documents} documents"))
    return checks


def _again(out: Path, lineage: Lineage, parent: Path | None, progress: Progress) -> list[dict[str, Any]]:
    """Plan it again from the recorded settings and parents, and compare the digests of the files."""
    import tempfile

    from surgeon.operations import operation
    from surgeon.ops.execute import execute
    from surgeon.replan import settings_again

    chosen = operation(lineage.operation)
    paths = {p.role: _parent(out, lineage, parent, i) for i, p in enumerate(lineage.parents)}
    with tempfile.TemporaryDirectory(prefix="surgeon-verify-") as folder:
        again = Path(folder) / "again"
        settings = chosen.settings_class().model_validate(settings_again(lineage, paths, again))
        execute(chosen.call(settings, progress), again, progress=progress)
        found = read_lineage(again)
        assert found is not None
        checks = []
        for name, digest in lineage.files.items():
            same = found.files.get(name) == digest
            checks.append(_check(f"{name} comes out the same again", same, digest[:19]))
    return checks
