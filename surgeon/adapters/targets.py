"""The linear modules that an adapter goes on, by role and block, and how PEFT is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgeon.adapters.parts import Target
from surgeon.arch.family import Family
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError, did_you_mean


def chosen_targets(checkpoint: Checkpoint, family: Family, roles: str, blocks: Sequence[int]) -> list[Target]:
    """The modules of these roles ("all-linear", or roles with commas) in these blocks, in the order of the checkpoint.

    all-linear is every attention and MLP matrix of the blocks; in a model with experts, of attention only (the
    experts of a block are one tensor in transformers 5, no linear module). Naming another role is refused.
    """
    linear = [t for block in range(family.depth) for t in _targets(checkpoint, family, block)]
    present = sorted({t.role for t in linear})
    wanted = present if roles == "all-linear" else [role.strip() for role in roles.split(",")]
    for role in wanted:
        if role not in present:
            raise _no_such_role(role, present, roles, family)
    chosen = [t for t in linear if t.role in wanted and t.block in blocks]
    absent = [role for role in wanted if role not in {t.role for t in chosen}] if roles != "all-linear" else []
    if absent or not chosen:
        raise SurgeonError(
            f"the chosen blocks have no {absent[0] if absent else 'linear modules'}",
            str(checkpoint.path),
            "choose other --blocks or --targets",
        )
    return chosen


def has_experts(family: Family) -> bool:
    return any(role.startswith("moe.") for role in family.declaration.parts.values())


def module_name(family: Family, tensor: str) -> str:
    """The module in transformers' tree: a checkpoint may lack the prefix of its base model (GPT-2)."""
    return family.declaration.base.removeprefix(family.base) + tensor.removesuffix(".weight")


def peft_targets(checkpoint: Checkpoint, family: Family, targets: Sequence[Target]) -> dict[str, Any]:
    """PEFT's keys target_modules (names that modules end with) and, unless all blocks, layers_to_transform.

    Not a regular expression: where experts are fused PEFT reduces one to the last names it matches, in all blocks.
    """
    parts = {t.part for t in targets}
    # a last name (q_proj) where it names no other part, else the whole part (attn.c_proj)
    others = {_last(part) for block in range(family.depth) for part in family.parts(block) if part not in parts}
    names = sorted({t.part if _last(t.part) in others else _last(t.part) for t in targets})
    blocks = sorted({t.block for t in targets})
    return {"target_modules": names} | ({} if len(blocks) == family.depth else {"layers_to_transform": blocks})


def _last(part: str) -> str:
    return part.rpartition(".")[2]


def _targets(checkpoint: Checkpoint, family: Family, block: int) -> list[Target]:
    # beside experts PEFT takes gate_proj, up_proj and down_proj for theirs, in dense blocks too
    linear = ("attention.",) if has_experts(family) else ("attention.", "mlp.")
    found = []
    for name in family.blocks[block]:
        unit, role, shape = family.unit(name), family.role(name), checkpoint.tensors[name].shape
        if unit.leaf == "weight" and len(shape) == 2 and role.startswith(linear):
            num_out, num_in = reversed(shape) if family.transposed else shape
            found.append(Target(module_name(family, name), name, block, unit.part, role, num_in, num_out))
    return found


def _no_such_role(role: str, present: list[str], roles: str, family: Family) -> SurgeonError:
    if role in family.declaration.parts.values() or role in ("embedding", "head", "final_norm", "position"):
        return UsageError(
            f"an adapter does not go on {role}: it is no linear module of its own inside the blocks",
            f"--targets {roles}",
            "choose from " + ", ".join(present),
        )
    return UsageError(f"{family.name} has no role {role!r}", f"--targets {roles}", did_you_mean(role, present))
