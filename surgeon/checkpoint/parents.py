"""What is recorded of an output's parents, where they are now, and whether they still are what they were."""

from __future__ import annotations

import os
import re
from pathlib import Path

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage, Parent
from surgeon.errors import SurgeonError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def parent_of(role: str, name: str, path: Path, digest: str, lineage: Lineage | None, out: Path) -> Parent:
    """The record of an input of the output that is to lie at `out`. A folder of the hub's cache, whose own name is a
    commit, has the name of its model."""
    name, revision = name or path.absolute().name, hub_revision(path)
    if revision is not None and name == revision:
        name = path.absolute().parts[-3].removeprefix("models--").replace("--", "/")
    return Parent(
        role=role,
        name=name,
        path=os.path.relpath(path.resolve(), out.absolute().resolve()),
        digest=digest,
        revision=revision,
        lineage=lineage,
    )


def hub_revision(path: Path) -> str | None:
    """The commit of a folder in the cache of the hub (`models--ORG--NAME/snapshots/COMMIT`); None of any other."""
    commit, snapshots, model = (*reversed(path.absolute().parts), "", "", "")[:3]
    found = snapshots == "snapshots" and model.startswith("models--") and _COMMIT.fullmatch(commit)
    return commit if found else None


def parent_folder(out: Path, lineage: Lineage, given: Path | None = None, index: int = 0) -> Path:
    """The folder of a parent: `given` for the first one where it has moved, else the place recorded.

    Its bytes are read, whatever is known of them. Raises SurgeonError where there is no such folder, or its digest is
    another.
    """
    recorded = lineage.parents[index]
    path = given if given is not None and index == 0 else (out.resolve() / recorded.path)
    if not path.is_dir():
        place = f"{recorded.name.partition('@')[0]}@{recorded.revision}" if recorded.revision else "MODEL"
        raise SurgeonError(
            f"the parent {recorded.name!r} is not where it was", str(path), f"say where it is with --parent {place}"
        )
    if Checkpoint.open(path).read_digest() != recorded.digest:
        raise SurgeonError(
            f"this is not the parent {recorded.name!r}: its digest differs", str(path), "give the one it was made from"
        )
    return path
