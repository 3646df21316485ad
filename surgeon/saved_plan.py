"""Plans on disk: what `--plan FILE` writes and `surgeon apply FILE` carries out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic import BaseModel

from surgeon.checkpoint.commit import write_atomically
from surgeon.checkpoint.config_json import dump_json, read_json_object
from surgeon.checkpoint.digest import file_digest, json_digest
from surgeon.errors import SurgeonError, UsageError
from surgeon.operations import described, operation, perform
from surgeon.progress import SILENT, Progress

if TYPE_CHECKING:
    from surgeon.ops.plan import Plan

FORMAT = 1


def save_plan(path: Path, name: str, settings: BaseModel, progress: Progress = SILENT) -> str:
    """Plan the operation and write it to `path`; gives the plan's digest.

    A planned operation is saved tensor by tensor, one that is not (cpt) as its settings; both with their inputs'
    digests. The seal is a digest of all that, by which a plan that was changed since is known.
    """
    chosen = operation(name)
    value: dict[str, Any] = {"format": FORMAT, "operation": name, "settings": settings.model_dump(mode="json")}
    if chosen.planned:
        from surgeon.ops.check import check
        from surgeon.ops.plan import to_json

        plan = chosen.call(settings, progress)
        check(plan)
        value["plan"] = to_json(plan)
        value["carried"] = _carried(plan)
        digest = plan.digest
    else:
        description = described(name, settings, progress)  # refuses what would be refused at the start of the run
        value["inputs"], digest = description["inputs"], description["plan_digest"]
    value["seal"] = seal(json.loads(json.dumps(value)))  # of what is read from the file: all keys are texts there
    write_atomically(path, dump_json(value) if not chosen.planned else json.dumps(value, ensure_ascii=False) + "\n")
    return digest


def apply_plan(
    path: Path,
    out: Path | None,
    *,
    force: bool = False,
    threads: int | None = None,
    memory: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Carry out a saved plan at `out` (by default where it was planned for), if its inputs are unchanged."""
    try:
        value = read_json_object(path)
    except SurgeonError as error:
        raise UsageError(f"this is not a plan: {error.problem}", str(path), "write one with --plan FILE") from error
    try:
        name, settings = value["operation"], value["settings"]
        inputs = None if operation(name).planned else value["inputs"]
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']}")
        target = out if out is not None else Path(settings["out"])
        is_whole = value["seal"] == seal(value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"this is not a plan of this version ({error})", str(path), "write it with --plan") from error
    if not is_whole:
        raise SurgeonError("the plan was changed after it was written", str(path), "write it again with --plan")
    chosen = operation(name)
    if not chosen.planned:
        try:
            resolved = chosen.settings_class().model_validate(settings | {"out": str(target)})
        except pydantic.ValidationError as error:
            reason = f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}"
            raise SurgeonError(f"its settings do not hold any more: {reason}", str(path), "plan it again") from error
        return perform(name, resolved, force=force, threads=threads, memory=memory, progress=progress, inputs=inputs)
    from surgeon.checkpoint.commit import check_out
    from surgeon.ops.check import check_inputs
    from surgeon.ops.execute import execute
    from surgeon.ops.plan import from_json

    try:
        plan = from_json(value["plan"])
    except (KeyError, TypeError, ValueError) as error:
        raise SurgeonError(f"the plan is damaged ({error})", str(path), "write it again with --plan") from error
    check_out(target, force)
    check_inputs(plan)
    for name, digest in _carried(plan).items():
        if value.get("carried", {}).get(name) != digest:
            raise SurgeonError(f"the file {name} is not the one the plan was made for", str(path), "plan it again")
    return execute(plan, target, force=force, threads=threads, memory=memory, progress=progress).to_json()


def seal(value: Mapping[str, Any]) -> str:
    """The digest of what decides the output of a saved plan; where it goes does not, nor, tensor by tensor, where the
    inputs lie. Raises KeyError, TypeError or AttributeError on what is no saved plan."""
    if not operation(value["operation"]).planned:
        settings = {key: held for key, held in value["settings"].items() if key != "out"}
        return json_digest([value["operation"], settings, value["inputs"]])
    inputs = [
        {key: held for key, held in entry.items() if key not in ("path", "name")} for entry in value["plan"]["inputs"]
    ]
    return json_digest([value["operation"], value["plan"] | {"inputs": inputs}, value["carried"]])


def _carried(plan: Plan) -> dict[str, str]:
    """The digests of the files that the plan copies unchanged: not all of them count in their checkpoint's digest."""
    return {name: file_digest(plan.input(role).path / name) for name, role in plan.carried.items()}
