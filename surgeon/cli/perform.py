"""What every command of an operation does: describe (--dry-run), save the plan (--plan), or carry it out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from surgeon import operations
from surgeon.cli import deltas, scores
from surgeon.cli.from_settings import Flags
from surgeon.cli.output import pairs
from surgeon.errors import UsageError
from surgeon.measure import stability
from surgeon.search import table as searches

Show = Callable[[dict[str, Any], Flags], None]


def performer(name: str, show: Show | None = None) -> Callable[[BaseModel, Flags], None]:
    """The function that `from_settings.command` calls with the resolved settings. show: prints what was done, or
    would be, where a command has a way of its own."""

    def run(settings: BaseModel, flags: Flags) -> None:
        progress = flags.output.progress()
        if flags.dry_run and flags.plan is not None:
            raise UsageError("--dry-run writes nothing, and --plan writes a plan", "--plan", "give one of the two")
        if flags.dry_run:
            if getattr(settings, "search", None):
                progress.say("the search is made all the same: the plan is that of the weights it finds")
            description = operations.described(name, settings, progress)
            if _in_the_way(settings, flags):
                progress.say(f"{getattr(settings, 'out')} exists already: without --force this would be refused")  # noqa: B009
            kept = _broken_off(settings, flags)
            if kept is not None:
                progress.say(
                    f"{kept} keeps the state of a run that was broken off: without --resume, which goes on with it, "
                    "or --force, which starts anew, this would be refused"
                )
            if show is not None:
                show(description, flags)
                return
            flags.output.emit(description, list(pairs(_plain(description))))
            _show_scores(description, flags)
            return
        if flags.plan is not None:
            _save_plan(name, settings, flags)
            return
        result = operations.perform(
            name, settings, force=flags.force, threads=flags.threads, memory=flags.memory, progress=progress
        )
        if show is not None:
            show(result, flags)
            return
        flags.output.emit(result, _lines(result))
        _show_scores(result, flags)

    return run


def _in_the_way(settings: BaseModel, flags: Flags) -> bool:
    """Whether something is at the output path that a run would not touch."""
    out = getattr(settings, "out", None)
    return bool(out) and not flags.force and not getattr(settings, "in_place", False) and Path(str(out)).exists()


def _broken_off(settings: BaseModel, flags: Flags) -> Path | None:
    """The folder of an earlier run to this output that a training would neither go on with nor forget."""
    run_dir = getattr(settings, "run_dir", None)
    if run_dir is None or flags.force or getattr(settings, "resume", False):
        return None
    from surgeon.train import state

    return Path(run_dir) if state.latest(run_dir) is not None else None


def _show_scores(result: dict[str, Any], flags: Flags) -> None:
    """What blocks or weights were chosen by, as a table; in JSON it is in the object already."""
    if flags.output.as_json:
        return
    if "probe" in result:
        flags.output.emit(result, [scores.title(result["probe"])])
        flags.output.table(result, "", scores.COLUMNS, scores.rows(result["probe"]))
    if "search" in result:
        found = result["search"]
        flags.output.emit(result, [searches.title(found)])
        flags.output.table(result, "", searches.columns(found), searches.rows(found))
        flags.output.emit(result, [found["formula"]])


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in result.items() if k not in ("probe", "search")}


def _save_plan(name: str, settings: BaseModel, flags: Flags) -> None:
    from surgeon.saved_plan import save_plan

    assert flags.plan is not None
    if flags.plan.exists() and not flags.force:
        raise UsageError("the plan file exists already", str(flags.plan), "choose another name, or --force")
    if not flags.plan.absolute().parent.is_dir():  # to plan may take long
        raise UsageError("there is no such folder for the plan", str(flags.plan.parent), "make it first")
    digest = save_plan(flags.plan, name, settings, flags.output.progress())
    data = {"plan": str(flags.plan), "operation": name, "plan_digest": digest}
    flags.output.emit(data, [f"plan of {name} written to {flags.plan}", f"carry it out: surgeon apply {flags.plan}"])


def _lines(result: dict[str, Any]) -> list[str] | None:
    if "out" not in result or "finished" in result:
        return None
    shown = {k: v for k, v in _plain(result).items() if k not in ("verified", "eval", "stability")}
    if "rounding" in shown:  # of the parts: --json
        shown["rounding"] = {k: v for k, v in shown["rounding"].items() if k != "parts"}
    lying = deltas.lines(shown.pop("vectors")) if "vectors" in shown else []
    lines = [*pairs(shown), *lying]
    if result.get("eval"):
        lines.append("eval")
        lines += [
            f"  step {e['step']:>6}  {e['name']:<16} {e['bits_per_byte']:.4f} bits per byte" for e in result["eval"]
        ]
    if result.get("stability"):
        lines.append("stability")
        lines += [f"  {found['name']:<16} {stability.describe(found)}" for found in result["stability"]]
    return lines
