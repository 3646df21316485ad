"""surgeon inspect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from surgeon.cli.options import Debug, Json, Quiet
from surgeon.cli.output import Output, pairs
from surgeon.cli.words import example_text

EXAMPLES = (
    "surgeon inspect base",
    "surgeon inspect wide --json",
    "surgeon inspect +adapter",
    "surgeon inspect deep+adapter --json",
)
ABOUT = "Architecture, depth, parameters by role, vocabulary, dtypes, shards and lineage of MODEL, with warnings."


def register(app: typer.Typer) -> None:
    @app.command("inspect", help=ABOUT, epilog=example_text(EXAMPLES))
    def inspect(
        model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder, hub id, or a PEFT folder.")],
        deep: Annotated[bool, typer.Option("--deep/--no-deep", help="Read every tensor to look for defects.")] = True,
        json: Json = False,
        quiet: Quiet = False,
        debug: Debug = False,
    ) -> None:
        from surgeon.model_ref import resolve

        output = Output(json, quiet)
        reference = resolve(model.removeprefix("+"))
        path = reference.path
        if reference.adapter is not None:
            from surgeon.adapters.inspect import inspect_on_model

            _emit_adapter(output, inspect_on_model(path, reference.adapter.path))
            return
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            from surgeon.adapters.inspect import inspect_adapter

            _emit_adapter(output, inspect_adapter(path))
            return
        from surgeon.checkpoint.index import Checkpoint
        from surgeon.inspect_model import inspect as inspect_checkpoint

        data = inspect_checkpoint(Checkpoint.open(path), deep=deep)
        shown = {k: v for k, v in data.items() if k not in ("lineage", "warnings")}
        output.emit(data, [*pairs(shown), "lineage", *lineage_lines(data["lineage"]), *warnings(data)])


def _emit_adapter(output: Output, data: dict[str, Any]) -> None:
    """Modules by part with the number of their blocks; the lineage as a tree."""
    parts: dict[str, int] = {}
    for module in data["modules"]:
        part = re.sub(r"^.*?\.\d+\.", "", module)
        parts[part] = parts.get(part, 0) + 1
    shown = {k: v for k, v in data.items() if k not in ("lineage", "modules", "config")}
    shown["modules"] = parts
    shown["config"] = {k: _with_spans(v) for k, v in data["config"].items() if k not in _SAID}
    lineage = ["lineage", *lineage_lines(data["lineage"])] if data["lineage"] else []
    output.emit(data, [*pairs(shown), *lineage])


def _with_spans(value: Any) -> Any:
    """Ids of rows and numbers of blocks that follow one another as FIRST-LAST: an adapter may name thousands."""
    if isinstance(value, Mapping):
        return {k: _with_spans(v) for k, v in value.items()}
    if not isinstance(value, list) or not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        return value
    spans: list[list[int]] = []
    for number in value:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [str(first) if first == last else f"{first}-{last}" for first, last in spans]


# keys of adapter_config.json that are shown under another name, or say nothing here
_SAID = (
    "r", "lora_alpha", "peft_type", "base_model_name_or_path", "use_rslora", "inference_mode", "megatron_core",
    "qalora_group_size", "bias", "task_type", "peft_version", "auto_mapping",
)  # fmt: skip


def lineage_lines(tree: dict[str, Any] | None, depth: int = 1) -> list[str]:
    """The ancestors, one a line, indented under what was made from them."""
    if not tree:
        return ["  " * depth + "(no surgeon.json: made elsewhere)"]
    lines = ["  " * depth + tree["operation"]]
    for parent in tree.get("parents", []):
        lines.append("  " * (depth + 1) + f"{parent['role']}: {parent['name']} {parent['digest'][:19]}")
        if parent.get("lineage"):
            lines += lineage_lines(parent["lineage"], depth + 2)
    return lines


def warnings(data: dict[str, Any]) -> list[str]:
    return [f"warning: {w['tensor']}: {w['text']}" for w in data["warnings"]]
