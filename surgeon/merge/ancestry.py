"""How a model came from the base: the surgery between them, oldest first, found in its lineage by digest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from surgeon.checkpoint.digest import file_digest, json_digest
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import Lineage
from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.errors import SurgeonError
from surgeon.merge.pieces import attachments
from surgeon.ops.plan import source_from_json


@dataclass(frozen=True)
class Member:
    """A model of a merge. `role` is its name in the plan's sources; `steps`: the surgery since the base, oldest
    first (training changes values, not positions, so it does not count). `name`: for people."""

    role: str
    name: str
    checkpoint: Checkpoint
    steps: tuple[Lineage, ...] = ()

    @cached_property
    def signature(self) -> tuple[str, ...]:
        """One digest a step, of all that decides shapes and initial values; equal steps meet even if run twice."""
        return tuple(_signature(step, self.checkpoint) for step in self.steps)

    @property
    def level(self) -> int:
        return len(self.steps)


def surgery_since(checkpoint: Checkpoint, name: str, base: Checkpoint, base_name: str) -> tuple[Lineage, ...]:
    """The surgery steps from `base` to `checkpoint`, oldest first; empty for a model without lineage.

    Raises SurgeonError where the model has a lineage that does not lead to the base.
    """
    if checkpoint.digest == base.digest or checkpoint.lineage is None:
        return ()
    steps: list[Lineage] = []
    for step in checkpoint.lineage.chain():
        if step.kind == "surgery":
            steps.append(step)
        if step.parents and step.parents[0].digest == base.digest:
            return tuple(reversed(steps))
    raise _not_the_base(checkpoint.lineage, name, base_name)


def _not_the_base(lineage: Lineage, name: str, base_name: str) -> SurgeonError:
    parents = [step.parents[0] for step in lineage.chain() if step.parents]
    if any(parent.name == base_name for parent in parents):
        return SurgeonError(
            f"{name} descends from a {base_name} whose files had another digest: one of the two has changed since",
            f"{name}/surgeon.json",
            f"give the {base_name} that {name} was made from (weights, config.json and tokenizer unchanged)",
        )
    known = " <- ".join(parent.name for parent in parents) or "no parent"
    return SurgeonError(
        f"the lineage of {name} does not lead to {base_name}",
        f"{name}/surgeon.json: {known}",
        f"give the model that both descend from as the base: {parents[-1].name}" if parents else "check the base",
    )


def _signature(step: Lineage, checkpoint: Checkpoint) -> str:
    folder = checkpoint.path / SURGEON_DIR
    tables = {}
    for name in attachments(map(source_from_json, step.initial.values())):
        if not (folder / name).is_file():
            raise SurgeonError(
                f"the file {SURGEON_DIR}/{name}, which holds initial values of {step.operation}, is missing",
                str(checkpoint.path),
                "restore it from the model's source: the deltas of new rows are relative to it",
            )
        tables[name] = file_digest(folder / name)
    blocks = None if step.blocks is None else [step.blocks.source, [new.block for new in step.blocks.new]]
    rows = None if step.rows is None else [step.rows.old, step.rows.rows]
    return json_digest({"blocks": blocks, "rows": rows, "initial": step.initial, "tables": tables})
