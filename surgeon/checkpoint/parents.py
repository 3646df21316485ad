"""Where the parents of an output are now, and whether they still are what they were."""

from __future__ import annotations

from pathlib import Path

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.errors import SurgeonError


def parent_folder(out: Path, lineage: Lineage, given: Path | None = None, index: int = 0) -> Path:
    """The folder of a parent: `given` for the first one where it has moved, else the place recorded.

    Its bytes are read, whatever is known of them. Raises SurgeonError where there is no such folder, or its digest is
    another.
    """
    recorded = lineage.parents[index]
    path = given if given is not None and index == 0 else (out.resolve() / recorded.path)
    if not path.is_dir():
        raise SurgeonError(
            f"the parent {recorded.name!r} is not where it was", str(path), "say where it is with --parent MODEL"
        )
    if Checkpoint.open(path).read_digest() != recorded.digest:
        raise SurgeonError(
            f"this is not the parent {recorded.name!r}: its digest differs", str(path), "give the one it was made from"
        )
    return path
