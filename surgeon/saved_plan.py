"""Plans on disk: what `--plan FILE` writes and `surgeon apply FILE` carries out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from surgeon.checkpoint.commit import write_atomically
from surgeon.checkpoint.config_json import dump_json, read_json_object
from surgeon.checkpoint.digest import json_digest
from surgeon.errors import SurgeonError, UsageError
from surgeon.operations import operation, perform
from surgeon.progress import SILENT, Progress

FORMAT = 1


def save_plan(path: Path, name: str, settings: BaseModel, progress: Progress = SILENT) -> str:
    """Plan the operation and write it to `path`; gives the plan's digest.

    A planned operation is saved tensor by tensor, with its inputs' digests; one that is not (cpt) as its settings.
    """
    chosen = operation(name)
    value: dict[str, Any] = {"format": FORMAT, "operation": name, "settings": settings.model_dump(mode="json")}
    if chosen.planned:
        from surgeon.ops.check import check
        from surgeon.ops.plan import to_json

        plan = chosen.call(settings, progress)
        check(plan)
        value["plan"] = to_json(plan)
        digest = plan.digest
    else:
        digest = json_digest(value["settings"])
    write_atomically(path, dump_json(value) if not chosen.planned else json.dumps(value, ensure_ascii=False) + "\n")
    return digest


def apply_plan(
    path: Path, out: Path | None, *, force: bool = False, threads: int | None = None, progress: Progress = SILENT
) -> dict[str, Any]:
    """Carry out a saved plan at `out` (by default where it was planned for), if its inputs are unchanged."""
    value = read_json_object(path)
    try:
        name, settings = value["operation"], value["settings"]
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']}")
    except (KeyError, ValueError) as error:
        raise UsageError(f"this is not a plan of this version ({error})", str(path), "write it with --plan") from error
    chosen = operation(name)
    target = out if out is not None else Path(settings["out"])
    if not chosen.planned:
        resolved = chosen.settings_class().model_validate(settings | {"out": str(target)})
        return perform(name, resolved, force=force, threads=threads, progress=progress)
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
    return execute(plan, target, force=force, threads=threads, progress=progress).to_json()
