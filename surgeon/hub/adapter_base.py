"""The base that an adapter names: on a hub it has to be a model of the hub, and no place on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from surgeon.card.front import hub_bases, is_hub_id, steps
from surgeon.checkpoint.config_json import dump_json, read_json_object
from surgeon.checkpoint.index import ADAPTER_CONFIG
from surgeon.checkpoint.lineage import Lineage
from surgeon.errors import UsageError

_BASE = "base_model_name_or_path"


def based(folder: Path, lineage: Lineage, base: str | None) -> dict[str, bytes]:
    """The files in which the base becomes `base` (ORG/NAME, @ and a revision behind it), by name; empty where it is
    one of a hub already and none is given.

    Raises UsageError where the adapter names a folder and no base is given, on a base that is no name of a hub, and
    where one is given for what is no adapter.
    """
    if ADAPTER_CONFIG not in lineage.files:
        if base is not None:
            raise UsageError("this is no adapter: it has no base to be named", "--base", "leave it out")
        return {}
    if base is None:
        named = read_json_object(folder / ADAPTER_CONFIG).get(_BASE)
        if named is None or _of_hub(str(named), lineage):
            return {}
        raise UsageError(
            f"{ADAPTER_CONFIG} names its base by a place on this machine: {named}",
            str(folder),
            "push the base, and give the name it has on the hub: --base ORG/NAME",
        )
    name, _, revision = base.partition("@")
    if not is_hub_id(name):
        raise UsageError("this is no name of a model of the hub", f"--base {base}", "give ORG/NAME[@REVISION]")
    # an adapter that started from the weights has a second configuration, of what it started as
    configs = [file for file in lineage.files if PurePosixPath(file).name == ADAPTER_CONFIG]
    return {
        file: dump_json(read_json_object(folder / file) | {_BASE: name, "revision": revision or None}).encode("utf-8")
        for file in configs
    }


def with_base(lineage: Lineage, base: str, files: dict[str, bytes]) -> Lineage:
    """The lineage of an adapter in which its model is called `base`, and these files have another content."""
    digests = {name: f"sha256:{hashlib.sha256(raw).hexdigest()}" for name, raw in files.items()}
    return _renamed(lineage, base).model_copy(update={"files": lineage.files | digests})


def _renamed(lineage: Lineage, base: str) -> Lineage:
    parents = []
    for parent in lineage.parents:
        if parent.role == "adapter" and parent.lineage is not None:
            parents.append(parent.model_copy(update={"lineage": _renamed(parent.lineage, base)}))
        else:
            parents.append(parent.model_copy(update={"name": base} if parent.role == "model" else {}))
    return lineage.model_copy(update={"parents": parents})


def _of_hub(base: str, lineage: Lineage) -> bool:
    """Whether the base is a model of a hub. A folder can be called as one is, `runs/deep`: what the adapter was
    attached to is recorded."""
    if any(step.operation == "attach-adapter" for step in steps(lineage)):
        return base in hub_bases(lineage, adapter=True)
    return is_hub_id(base)
