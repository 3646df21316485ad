"""Whether an adapter was made for this very model, as far as its lineage tells."""

from __future__ import annotations

import re
from pathlib import Path

from surgeon.adapters.named_base import names_itself, places_since
from surgeon.arch.family import family_of
from surgeon.checkpoint.header import read_header
from surgeon.checkpoint.index import ADAPTER_WEIGHTS, Checkpoint
from surgeon.checkpoint.lineage import read_lineage
from surgeon.errors import SurgeonError


def check_base(
    adapter: Path, model: Checkpoint, any_base: bool = False,
    otherwise: str = "fold it first (surgeon fold-adapter --any-base)",
) -> None:  # fmt: skip
    """Refuse an adapter whose lineage names another model; one without lineage is judged by its shapes, and by its
    blocks where the model was deepened. otherwise: what a person may do who means it."""
    if any_base:
        return
    made_for = base_digest(adapter)
    if made_for is None:
        _check_blocks(adapter, model, otherwise)
        return
    if made_for[1] == model.digest:
        return
    raise SurgeonError(
        f"the adapter was made for {made_for[0]} ({made_for[1][:19]}), the model is {model.digest[:19]}",
        f"{adapter} and {model.path}",
        f"give the model it was made for, or {otherwise}",
    )


def _check_blocks(adapter: Path, model: Checkpoint, otherwise: str) -> None:
    """Refuse an adapter of the model from before an expansion, whose parts would land on other blocks by their numbers
    alone: one that names an ancestor, or looks like it: with all of its blocks and no other."""
    expansions = (
        [s.blocks for s in model.lineage.chain() if s.blocks is not None and s.blocks.new] if model.lineage else []
    )
    weights = adapter / ADAPTER_WEIGHTS
    if not expansions or not weights.is_file() or names_itself(adapter, model):
        return
    inside = re.compile(r"\." + re.escape(family_of(model).block_prefix) + r"(\d+)\.")
    numbers = {int(found[1]) for name in read_header(weights)[0] if (found := inside.search(name))}
    hint = (
        "carry it over as a task vector: merge-task-vectors BEFORE OUT --add BEFORE+ADAPTER --onto MODEL, where "
        f"BEFORE is the model it was made for; or {otherwise}"
    )
    since = places_since(adapter, model)
    if since is not None:
        name, now = since
        for number in sorted(numbers):
            if now.get(number) == number:
                continue
            what = f"is block {now[number]} now" if number in now else "is not there any more"
            raise SurgeonError(
                f"the adapter names {name} as its model, from before this one was deeper: its block {number} {what}",
                f"{adapter} and {model.path}",
                hint,
            )
        return
    for blocks in expansions:
        before = len(blocks.source) - len(blocks.new)
        moved = any(block.block < before for block in blocks.new)
        if moved and numbers == set(range(before)):
            raise SurgeonError(
                f"the adapter is of blocks 0 to {before - 1}, all that the model had before it was deepened, and some "
                "lie elsewhere now",
                f"{adapter} and {model.path}",
                hint,
            )


def base_digest(adapter: Path) -> tuple[str, str] | None:
    """(name, digest) of the model that an adapter with a lineage was attached to or trained on last."""
    lineage = read_lineage(adapter)
    if lineage is None:
        return None
    return next(((p.name, p.digest) for p in lineage.parents if p.role == "model"), None)
