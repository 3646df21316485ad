"""How a model came from the base: the surgery between them, oldest first, found in a lineage by digest."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from surgeon.arch.family import Family, family_of
from surgeon.checkpoint.digest import file_digest, json_digest
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import ContextChange, Lineage
from surgeon.checkpoint.sidecars import SURGEON_DIR
from surgeon.errors import SurgeonError
from surgeon.merge.pieces import attachments
from surgeon.merge.vocabulary import Met
from surgeon.ops.plan import Source, source_from_json


@dataclass(frozen=True)
class Member:
    """A model of a merge.

    role: its checkpoint's name in the plan's sources. name: for people. steps: the surgery since the base, oldest
    first (training changes values, not positions, so it does not count). tables: the folder of the values that the
    steps refer to. adapter: digest of an adapter on it, adapter_role: the adapter's name in the plan's sources,
    folder: where that is; changed: the tensors that the adapter changes, by what they become. met: where the base's
    rows are in this model, for one without lineage whose tokens stand elsewhere. context: how positions turn, where
    that has changed since the base. twice: tokens that it learned beside the target's history and that the target has
    from another model, with that one's rows.
    """

    role: str
    name: str
    checkpoint: Checkpoint
    steps: tuple[Lineage, ...] = ()
    tables: Path | None = None
    adapter: str | None = None
    adapter_role: str | None = None
    folder: Path | None = None
    changed: Mapping[str, Source] = field(default_factory=dict)
    met: Met | None = None
    context: ContextChange | None = None
    twice: tuple[str, ...] = ()

    @cached_property
    def family(self) -> Family:
        return family_of(self.checkpoint)

    @cached_property
    def signature(self) -> tuple[str, ...]:
        """One digest a step, of all that decides shapes and initial values; equal steps meet even if run twice."""
        return tuple(_signature(step, self) for step in self.steps)

    @property
    def label(self) -> str:
        """Of the plan's roles the one that tells this model from the others: models may share a checkpoint, and differ
        by their adapters."""
        return self.adapter_role or self.role

    @property
    def level(self) -> int:
        return len(self.steps)

    @property
    def digest(self) -> str:
        """Of the model, with its adapter where it has one."""
        plain = self.checkpoint.digest
        return plain if self.adapter is None else json_digest({"model": plain, "adapter": self.adapter})

    def tables_folder(self) -> Path:
        return self.tables if self.tables is not None else self.checkpoint.path / SURGEON_DIR

    def is_tied(self) -> bool:
        """Whether its head is its embedding; an adapter may have made two matrices of the one."""
        return self.family.tied and f"{self.family.declaration.head}.weight" not in self.changed


_BEGINS = "extract-language-model"


def begins(lineage: Lineage) -> bool:
    """Whether the model was taken out of a multimodal one: what was done to it there is not among its steps."""
    return lineage.operation == _BEGINS


def surgery_since(lineage: Lineage | None, checkpoint: Checkpoint, name: str, base: Member) -> tuple[Lineage, ...]:
    """The surgery steps from `base` to `checkpoint` that move tensors or set values, oldest first, as `lineage` tells;
    empty for a model without one, and for one that was taken out of a multimodal model: that is where it begins.

    Raises SurgeonError where the lineage does not lead to the base.
    """
    if checkpoint.digest == base.checkpoint.digest or lineage is None or begins(lineage):
        return ()
    steps: list[Lineage] = []
    for step in lineage.chain():
        if step.kind == "surgery" and step.moves:
            steps.append(step)
        if step.parents and step.parents[0].digest == base.checkpoint.digest:
            return tuple(reversed(steps))
    raise _not_the_base(lineage, name, base.name)


def extends_one_of(lineage: Lineage, digests: Container[str]) -> bool:
    """Whether all that is told is how a model with one of these digests got tokens and was trained."""
    steps = list(lineage.chain())
    first = steps[-1].parents
    moved = [step for step in steps if step.kind == "surgery" and step.moves]
    return bool(first) and first[0].digest in digests and all(s.operation == "extend-vocab" for s in moved)


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


def _signature(step: Lineage, member: Member) -> str:
    folder = member.tables_folder()
    tables = {}
    for name in attachments(map(source_from_json, step.initial.values())):
        if not (folder / name).is_file():
            raise SurgeonError(
                f"the file {SURGEON_DIR}/{name}, which holds initial values of {step.operation}, is missing",
                str(folder.parent),
                "restore it from the model's source: the deltas of new rows are relative to it",
            )
        tables[name] = file_digest(folder / name)
    blocks = None if step.blocks is None else [step.blocks.source, [new.block for new in step.blocks.new]]
    rows = None if step.rows is None else [step.rows.old, step.rows.rows]
    return json_digest({"blocks": blocks, "rows": rows, "initial": step.initial, "tables": tables})
