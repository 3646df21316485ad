"""Whether an adapter was made for this very model, as far as its lineage tells."""

from __future__ import annotations

from pathlib import Path

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import read_lineage
from surgeon.errors import SurgeonError


def check_base(
    adapter: Path, model: Checkpoint, any_base: bool = False, otherwise: str = "--any-base to use it all the same"
) -> None:
    """Refuse an adapter whose lineage names another model; one without lineage is judged by its shapes alone.
    otherwise: what a person may do who means it."""
    made_for = base_digest(adapter)
    if any_base or made_for is None or made_for[1] == model.digest:
        return
    raise SurgeonError(
        f"the adapter was made for {made_for[0]} ({made_for[1][:19]}), the model is {model.digest[:19]}",
        f"{adapter} and {model.path}",
        f"give the model it was made for, or {otherwise}",
    )


def base_digest(adapter: Path) -> tuple[str, str] | None:
    """(name, digest) of the model that an adapter with a lineage was attached to or trained on last."""
    lineage = read_lineage(adapter)
    if lineage is None:
        return None
    return next(((p.name, p.digest) for p in lineage.parents if p.role == "model"), None)
