"""The settings that give an output again, from its lineage and the folders of its parents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage


def settings_again(
    lineage: Lineage, paths: Mapping[str, Path], out: Path, folder: Path | None = None
) -> dict[str, Any]:
    """Settings of `lineage.operation` with models as paths. `paths`: the parents' folders by role. folder: of the
    output that is planned again, whose lineage knows what was said of models that have none."""
    by_digest = {parent.digest: str(paths[parent.role]) for parent in lineage.parents}
    settings = dict(lineage.settings) | {"out": str(out), "seed": lineage.seed}

    def named(entry: Mapping[str, Any]) -> str:
        adapter = f"+{by_digest[entry['adapter']]}" if "adapter" in entry else ""
        return by_digest[entry["digest"]] + adapter

    def weighted(entry: Mapping[str, Any]) -> str:
        weight = entry["weight"]
        return f"{named(entry)}={weight if isinstance(weight, str) else repr(weight)}"

    match lineage.operation:
        case "merge-task-vectors":
            settings |= {key: named(settings[key]) for key in ("base", "onto", "chat") if key in settings}
            settings["add"] = [weighted(entry) for entry in settings["add"]]
            if "lineage" in settings:
                assert folder is not None
                settings["lineage"] = str(folder / LINEAGE_FILE)
        case "merge":
            first = settings.pop("first")
            entries = sorted(settings["models"], key=lambda entry: {**entry, **first} != entry)
            settings["models"] = [weighted(entry) for entry in entries]
        case "average":
            folders = [paths[parent.role] for parent in reversed(lineage.parents)]
            del settings["checkpoints"]
            settings |= {"run": str(folders[-1].parent), "checkpoint": [str(f.absolute()) for f in folders]}
        case "fold-adapter":
            settings["model"] = f"{paths['model']}+{paths['adapter']}"
            settings["add"] = [weighted(entry) for entry in settings.get("add", [])]
        case "graft-language-model":
            settings |= {role: str(path) for role, path in paths.items()}
        case "simplify-adapter":
            settings["adapter"] = str(paths["adapter"])
        case _:
            settings["model"] = str(paths["model"])
    return settings
