"""Which vocabulary rows of a model are new, as its lineage tells."""

from __future__ import annotations

from surgeon.checkpoint.lineage import Lineage, NewRow


def new_rows(lineage: Lineage | None) -> list[NewRow]:
    """The rows that the last extensions added, one after the other, up to a training that came before them; by id.

    Training what is new does not make it old, and an extension after that starts anew. Ids never move.
    """
    found: dict[int, NewRow] = {}
    for step in lineage.chain() if lineage is not None else ():
        if step.kind == "training" and found:
            break
        if step.rows is not None:
            found |= {row.id: row for row in step.rows.new if row.id not in found}
    return [found[i] for i in sorted(found)]
