"""The operations by name: settings, how they are planned or run; what the command line and recipes share."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from surgeon.errors import UsageError, did_you_mean
from surgeon.progress import SILENT, Progress


@dataclass(frozen=True)
class Operation:
    """`settings`, `function` and the others are "module:name", imported when used. `planned`: the function returns a
    Plan."""

    name: str
    settings: str
    function: str
    planned: bool
    describe: str | None = None  # for those that are not planned: what --dry-run prints
    # what a plan adds to the result and to --dry-run; where nothing is planned, what is read out of the result itself
    shows: str | None = None
    early: str | None = None  # what can be refused of the settings alone

    def settings_class(self) -> type[BaseModel]:
        found: type[BaseModel] = _load(self.settings)
        return found

    def call(self, settings: BaseModel, progress: Progress, **more: Any) -> Any:
        return _load(self.function)(settings, progress, **more)

    def check_early(self, settings: BaseModel) -> None:
        """Raise what can be said against the settings without the models (see surgeon.early)."""
        if self.early:
            _load(self.early)(settings)

    def shown(self, done: Any) -> dict[str, Any]:
        found: dict[str, Any] = _load(self.shows)(done) if self.shows else {}
        return found


OPERATIONS: dict[str, Operation] = {
    o.name: o
    for o in (
        Operation(
            "expand-layers", "surgeon.expand.plan:ExpandSettings", "surgeon.expand.plan:plan_expand", True,
            early="surgeon.early:expand_layers",
        ),
        Operation(
            "extend-vocab", "surgeon.vocab.settings:ExtendVocabSettings", "surgeon.vocab.plan:plan_extend_vocab", True,
            early="surgeon.early:extend_vocab",
        ),
        Operation(
            "extend-context", "surgeon.context.plan:ExtendContextSettings", "surgeon.context.plan:plan_extend_context",
            True, shows="surgeon.context.plan:shown", early="surgeon.early:extend_context",
        ),
        Operation(
            "extract-language-model", "surgeon.multimodal.extract:ExtractSettings",
            "surgeon.multimodal.extract:plan_extract", True, shows="surgeon.multimodal.extract:shown",
        ),
        Operation(
            "graft-language-model", "surgeon.multimodal.graft:GraftSettings", "surgeon.multimodal.graft:plan_graft",
            True,
        ),
        Operation(
            "attach-adapter", "surgeon.adapters.attach:AttachSettings", "surgeon.adapters.attach:plan_attach", True,
            early="surgeon.early:attach_adapter",
        ),
        Operation(
            "fold-adapter", "surgeon.adapters.fold:FoldSettings", "surgeon.adapters.fold:plan_fold", True,
            early="surgeon.early:fold_adapter",
        ),
        Operation(
            "simplify-adapter", "surgeon.adapters.simplify:SimplifySettings",
            "surgeon.adapters.simplify:plan_simplify", True,
        ),
        Operation(
            "merge-task-vectors", "surgeon.merge.plan:MergeSettings", "surgeon.search.plan:plan_merge_searched", True,
            shows="surgeon.search.plan:searched", early="surgeon.early:merge_task_vectors",
        ),
        Operation(
            "merge", "surgeon.merge.models:MergeModelsSettings", "surgeon.merge.models:plan_merge_models", True,
            early="surgeon.early:merge",
        ),
        Operation(
            "average", "surgeon.merge.average:AverageSettings", "surgeon.merge.average:plan_average", True,
            shows="surgeon.merge.average:averaged", early="surgeon.early:average",
        ),
        Operation(
            "cpt", "surgeon.train.settings:CptSettings", "surgeon.train.run:run_cpt", False,
            "surgeon.train.run:describe_cpt", shows="surgeon.measure.stability:of_result", early="surgeon.early:cpt",
        ),
        Operation(
            "cpt export", "surgeon.train.export_settings:ExportSettings", "surgeon.train.export_run:run_export", False,
            "surgeon.train.export_run:describe_export", early="surgeon.early:cpt_export",
        ),
        Operation(
            "cpt anneal", "surgeon.train.anneal:AnnealSettings", "surgeon.train.anneal:anneal", False,
            "surgeon.train.anneal:describe_anneal", shows="surgeon.measure.stability:of_result",
            early="surgeon.early:cpt_anneal",
        ),
        Operation(
            "evaluate", "surgeon.measure.settings:EvaluateSettings", "surgeon.measure.settings:run_evaluate",
            False, early="surgeon.early:evaluate",
        ),
    )
}  # fmt: skip


def operation(name: str) -> Operation:
    if name not in OPERATIONS:
        raise UsageError(f"there is no operation {name!r}", "run", did_you_mean(name, OPERATIONS))
    return OPERATIONS[name]


def perform(
    name: str,
    settings: BaseModel,
    *,
    force: bool = False,
    threads: int | None = None,
    memory: int | None = None,
    progress: Progress = SILENT,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Carry an operation out; gives the JSON that its command prints. "seconds": of the whole, planning and writing.
    inputs: the digests in a saved plan of an operation that is not planned; it is refused where they have changed."""
    chosen = operation(name)
    started = time.perf_counter()
    if memory is not None and (not chosen.planned or getattr(settings, "in_place", False)):
        raise UsageError(f"{name} does not keep to a memory here", "--memory", "leave it out")
    if not chosen.planned:
        # what is not planned commits its output itself, if it has one (and so can describe it)
        result = chosen.call(settings, progress, **({"force": force, "inputs": inputs} if chosen.describe else {}))
        found: dict[str, Any] = result if isinstance(result, dict) else result.to_json()
        return found | chosen.shown(found)
    from surgeon.ops.execute import execute

    out = Path(getattr(settings, "out"))  # noqa: B009 - every planned operation's settings have it
    if getattr(settings, "in_place", False):
        from surgeon.ops.in_place import execute_in_place, request_of, resume_in_place

        request = request_of(name, settings)
        finished = resume_in_place(out, request)
        if finished is not None:
            return finished
        plan = chosen.call(settings, progress)
        done = execute_in_place(plan, request, threads=threads, progress=progress).to_json()
        return done | _since(started)
    from surgeon.checkpoint.commit import check_no_run, check_out

    check_out(out, force)  # and again when it is planned, which may take long
    check_no_run(out)
    plan = chosen.call(settings, progress)
    done = execute(plan, out, force=force, threads=threads, memory=memory, progress=progress).to_json()
    return done | chosen.shown(plan) | _since(started)


def _since(started: float) -> dict[str, float]:
    """Of the whole operation: what is learned, probed or searched for a plan takes longer than to write it."""
    return {"seconds": round(time.perf_counter() - started, 3)}


def described(name: str, settings: BaseModel, progress: Progress = SILENT) -> dict[str, Any]:
    """What `--dry-run` prints; nothing is written."""
    chosen = operation(name)
    if chosen.planned:
        from surgeon.ops.check import check
        from surgeon.ops.describe import describe

        plan = chosen.call(settings, progress)
        in_place = getattr(settings, "in_place", False)
        check(plan, None if in_place else Path(getattr(settings, "out")))  # noqa: B009
        return describe(plan) | chosen.shown(plan)
    if chosen.describe is None:
        raise UsageError(f"{name} writes nothing", "--dry-run", "run it without --dry-run")
    result: dict[str, Any] = _load(chosen.describe)(settings)
    return result


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
