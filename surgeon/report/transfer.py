"""What a sequence of trainings kept, as a table and a line."""

from __future__ import annotations

from surgeon.report.table import StagesResult
from surgeon.words import fixed, plain, signed

COLUMNS = ("text", "stage", "before", "learned", "last", "forgetting")


def transfer_rows(found: StagesResult) -> list[tuple[str, ...]]:
    """A row a corpus, in bits a byte."""
    return [
        (c.name, plain(c.stage), fixed(c.before), fixed(c.learned), fixed(c.last), signed(c.forgetting, 3))
        for c in found.corpora
    ]


def transfer_line(found: StagesResult) -> str:
    """The means over the stages."""
    return (
        f"mean of the stages' texts: {fixed(found.learned)} when learned, {fixed(found.last)} at the end; "
        f"backward transfer {signed(found.backward_transfer, 3)}, forward transfer "
        f"{signed(found.forward_transfer, 3)} (of losses: less is better)"
    )
