"""Evaluating sources of an alignment outside of a plan: for measures, and for what planning has to look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from surgeon.checkpoint.index import Checkpoint
from surgeon.merge.align import Alignment
from surgeon.merge.pieces import attachments
from surgeon.ops.plan import Source

if TYPE_CHECKING:
    from surgeon.ops.evaluate import Evaluator


def evaluator(alignment: Alignment, inputs: Mapping[str, Checkpoint], sources: Iterable[Source]) -> Evaluator:
    """An evaluator for these sources; the tables of initial values are those of the target. inputs: by role."""
    from safetensors.torch import load_file

    from surgeon.ops.evaluate import Evaluator

    folder = alignment.target.tables_folder()
    return Evaluator(inputs, tables={name: load_file(folder / name) for name in attachments(sources)})
