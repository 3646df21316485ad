"""Which blocks of a model are new, by their present numbers, as its lineage tells."""

from __future__ import annotations

from surgeon.checkpoint.lineage import Lineage, NewBlock


def new_blocks(lineage: Lineage | None, *, every: bool = False) -> dict[int, NewBlock]:
    """Present number -> the entry of the step that added the block, ascending.

    New is what the last expansions added, one after the other, up to a training that came before them: training what
    is new does not make it old, and an expansion after that starts anew. every: all that the oldest known ancestor
    does not have.
    """
    found: dict[int, NewBlock] = {}
    place: dict[int, int] | None = None  # number at the step looked at -> number now
    for step in lineage.chain() if lineage is not None else ():
        if step.kind == "training" and found and not every:
            break
        if step.blocks is None:
            continue
        place = place if place is not None else {block: block for block in range(len(step.blocks.source))}
        found |= {place[entry.block]: entry for entry in step.blocks.new if entry.block in place}
        added = {entry.block for entry in step.blocks.new}
        place = {step.blocks.source[then]: now for then, now in place.items() if then not in added}
    return dict(sorted(found.items()))
