"""The rows of the vocabulary that are trained beside an adapter."""

from __future__ import annotations

from surgeon.adapters.targets import module_name
from surgeon.arch.family import Family
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.new_rows import new_rows
from surgeon.errors import SurgeonError


def row_indices(checkpoint: Checkpoint, family: Family) -> dict[str, list[int]]:
    """Module -> ids of its new rows, ascending, as PEFT's trainable_token_indices: of the embedding, and of a head
    that is a matrix of its own (PEFT ties the rows of a tied one). Raises SurgeonError where no row is new."""
    ids = [row.id for row in new_rows(checkpoint.lineage)]
    if not ids:
        raise SurgeonError(
            "the model has no new rows in its lineage",
            str(checkpoint.path),
            "extend its vocabulary first: extend-vocab, or leave out --new-rows",
        )
    names = [family.embedding] if family.tied else [family.embedding, f"{family.declaration.head}.weight"]
    return {module_name(family, name): ids for name in names}
