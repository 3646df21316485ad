"""The settings that give an output again, from its lineage and the folders of its parents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeon.checkpoint.lineage import Lineage


def settings_again(lineage: Lineage, paths: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Settings of `lineage.operation` with models as paths. `paths`: the parents' folders by role."""
    by_digest = {parent.digest: str(paths[parent.role]) for parent in lineage.parents}
    settings = dict(lineage.settings) | {"out": str(out), "seed": lineage.seed}

    def weighted(entry: Mapping[str, Any]) -> str:
        return f"{by_digest[entry['digest']]}={entry['weight']!r}"

    match lineage.operation:
        case "merge-task-vectors":
            settings["base"] = by_digest[settings["base"]["digest"]]
            settings["onto"] = by_digest[settings["onto"]["digest"]]
            settings["add"] = [weighted(entry) for entry in settings["add"]]
        case "merge":
            first = settings.pop("first")["digest"]
            entries = sorted(settings["models"], key=lambda entry: entry["digest"] != first)
            settings["models"] = [weighted(entry) for entry in entries]
        case "fold-adapter":
            settings["model"] = f"{paths['model']}+{paths['adapter']}"
            settings["add"] = [weighted(entry) for entry in settings.get("add", [])]
        case "simplify-adapter":
            settings["adapter"] = str(paths["adapter"])
        case _:
            settings["model"] = str(paths["model"])
    return settings
