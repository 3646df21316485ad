"""What an adapter goes on, by role and block, and how PEFT is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgeon.arch.family import Family
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError, did_you_mean

ALL, EXPERTS = "all-linear", "experts"
OUTSIDE = ("embedding", "head")


@dataclass(frozen=True, slots=True)
class Target:
    """A linear module: its name in the module tree of transformers, where it stands, how many inputs and outputs."""

    module: str
    tensor: str
    block: int
    part: str
    role: str
    num_in: int
    num_out: int


@dataclass(frozen=True)
class Chosen:
    """linear: modules of the blocks. experts: full names of parameters that hold the experts of a block, as
    transformers has them in memory. outside: the modules of embedding and head."""

    linear: tuple[Target, ...] = ()
    experts: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    blocks: tuple[int, ...] = ()

    @property
    def roles(self) -> list[str]:
        more = [EXPERTS] if self.experts else []
        return sorted({t.role for t in self.linear}) + more + list(self.outside)

    @property
    def modules(self) -> list[str]:
        return [t.module for t in self.linear] + list(self.experts) + list(self.outside)


def chosen_targets(checkpoint: Checkpoint, family: Family, words: str, blocks: Sequence[int]) -> Chosen:
    """What the words name in these blocks, in the order of the checkpoint.

    all-linear: every attention and MLP matrix of the blocks; in a model with experts, of attention only. experts: the
    routed experts of a block, which are no linear modules in transformers 5. Roles (attention.q), embedding and head
    by name. Refused: what the model or the chosen blocks do not have.
    """
    asked = [word.strip() for word in words.split(",")]
    linear = [t for block in range(family.depth) for t in _targets(checkpoint, family, block)]
    present = sorted({t.role for t in linear})
    wanted = set(present) if ALL in asked else set()
    for word in asked:
        if word in present:
            wanted.add(word)
        elif word not in (ALL, EXPERTS, *OUTSIDE):
            raise _no_such_role(word, present, words, family)
    here = tuple(t for t in linear if t.role in wanted and t.block in blocks)
    for word in asked:
        if word in present and word not in {t.role for t in here}:
            raise _absent(word, checkpoint)
    if ALL in asked and not here:
        raise _absent("linear modules", checkpoint)
    experts = _expert_parameters(checkpoint, family, blocks) if EXPERTS in asked else ()
    if EXPERTS in asked and not experts:
        raise _absent("experts", checkpoint)
    outside = {"embedding": family.embedding, "head": f"{family.declaration.head}.weight"}
    names = tuple(module_name(family, outside[word]) for word in OUTSIDE if word in asked)
    return Chosen(here, experts, names, tuple(blocks))


def has_experts(family: Family) -> bool:
    return any(role.startswith("moe.expert") for role in family.declaration.parts.values())


def module_name(family: Family, tensor: str) -> str:
    """The module in transformers' tree: a checkpoint may lack the prefix of its base model (GPT-2)."""
    return family.declaration.base.removeprefix(family.base) + tensor.removesuffix(".weight")


def peft_targets(family: Family, chosen: Chosen, fields: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT's keys target_modules, layers_to_transform (unless all blocks), target_parameters.

    Names that modules end with; full names where the configuration class (`fields`: its own) cannot say which blocks,
    or where modules outside of the blocks are chosen too. Not a regular expression: where experts are fused PEFT
    reduces one to the last names it matches, in all blocks.
    """
    found: dict[str, Any] = {}
    parts = {t.part for t in chosen.linear}
    everywhere = len({t.block for t in chosen.linear}) == family.depth
    if chosen.linear and (everywhere or ("layers_to_transform" in fields and not chosen.outside)):
        # a last name (q_proj) where it names no other part, else the whole part (attn.c_proj)
        others = {_last(part) for block in range(family.depth) for part in family.parts(block) if part not in parts}
        found["target_modules"] = sorted({t.part if _last(t.part) in others else _last(t.part) for t in chosen.linear})
        if not everywhere:
            found["layers_to_transform"] = sorted({t.block for t in chosen.linear})
    else:
        found["target_modules"] = [t.module for t in chosen.linear]
    found["target_modules"] += list(chosen.outside)
    if chosen.experts:
        found["target_parameters"] = list(chosen.experts)
    return found


def _last(part: str) -> str:
    return part.rpartition(".")[2]


def _targets(checkpoint: Checkpoint, family: Family, block: int) -> list[Target]:
    # beside experts PEFT takes whatever is called gate_proj, up_proj and down_proj for theirs: of dense blocks and of
    # shared experts too, and under any longer name
    linear = ("attention.",) if has_experts(family) else ("attention.", "mlp.")
    found = []
    for name in family.blocks[block]:
        unit, role, shape = family.unit(name), family.role(name), checkpoint.tensors[name].shape
        if unit.leaf == "weight" and len(shape) == 2 and role.startswith(linear):
            num_out, num_in = reversed(shape) if family.transposed else shape
            found.append(Target(module_name(family, name), name, block, unit.part, role, num_in, num_out))
    return found


def _expert_parameters(checkpoint: Checkpoint, family: Family, blocks: Sequence[int]) -> tuple[str, ...]:
    """The matrices of experts as transformers holds them: one tensor of three dimensions for all of a block."""
    from surgeon.arch.meta import model_tensors

    shapes = model_tensors(dict(checkpoint.config), str(checkpoint.path), in_memory=True)
    start = family.declaration.base + family.declaration.blocks
    inside = [n for n, s in shapes.items() if len(s) == 3 and n.startswith(start) and "experts." in n]
    return tuple(n for n in inside if int(n.removeprefix(start).partition(".")[0]) in blocks)


def _absent(what: str, checkpoint: Checkpoint) -> SurgeonError:
    return SurgeonError(
        f"the chosen blocks have no {what}", str(checkpoint.path), "choose other --blocks or --targets"
    )


def _no_such_role(role: str, present: list[str], words: str, family: Family) -> SurgeonError:
    known = [*present, ALL, *([EXPERTS] if has_experts(family) else []), *OUTSIDE]
    if role in family.declaration.parts.values() or role in ("final_norm", "position"):
        hint = f"write {EXPERTS}" if role.startswith("moe.expert") else "choose from " + ", ".join(known)
        return UsageError(
            f"an adapter does not go on {role}: it is no linear module of its own inside the blocks",
            f"--targets {words}",
            hint,
        )
    return UsageError(f"{family.name} has no role {role!r}", f"--targets {words}", did_you_mean(role, known))
