"""A checkpoint's tensors by block, part and role: the declared architecture bound to the names that are there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from surgeon.arch.catalogue import declaration_of, quantised
from surgeon.arch.declaration import WRITING_ROLES, Branches, Declaration
from surgeon.arch.one_matrix import check_one_matrix
from surgeon.checkpoint.header import DTYPE_BYTES, FLOATS
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import EXTRACT, SurgeonError

LEAVES = ("weight", "bias")
# element types that nobody computes in: those of quantised weights, of masks and of tables
CODES = tuple(dtype for dtype in DTYPE_BYTES if dtype not in (*FLOATS, "C64"))


@dataclass(frozen=True, slots=True)
class Unit:
    """Where a tensor belongs. block: its number, None outside the blocks. part: the module, such as
    "mlp.down_proj". leaf: "weight" or "bias"; empty for a tensor that is named otherwise ("self_attn.sinks", fused
    experts, a buffer), whose part is its whole name."""

    block: int | None
    part: str
    leaf: str = "weight"


@dataclass(frozen=True)
class Family:
    """The architecture of one checkpoint.

    block_prefix: "model.layers." . embedding, head, head_bias, final_norm, position: names of tensors, None where
    there is none; head is None where the embedding serves as the head, and names a tensor beside tied=True where a
    checkpoint stores the same matrix twice. transposed: matrices of the blocks are stored [in, out] (GPT-2).
    """

    declaration: Declaration
    base: str
    depth: int
    embedding: str
    head: str | None
    head_bias: str | None
    final_norm: str | None
    position: str | None
    tied: bool
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.declaration.model_type

    @property
    def model_type(self) -> str:
        return self.declaration.model_type

    @property
    def block_prefix(self) -> str:
        return self.base + self.declaration.blocks

    @property
    def depth_key(self) -> str:
        return self.declaration.depth_key

    @property
    def transposed(self) -> bool:
        return self.declaration.transposed

    @property
    def post_norms(self) -> Mapping[str, float]:
        """Part -> the stored gain at which the norm gives zero and so silences its branch; empty if pre-norm, or if
        only some branches end in a norm (`branches` says which)."""
        return self.declaration.post_norms

    def branches(self, block: int) -> Branches:
        """How the branches of this block end."""
        declared = self.declaration
        if declared.branches:
            return declared.branches[block]
        return Branches(declared.post_norms, () if declared.post_norms else self.residual_writers)

    @property
    def residual_writers(self) -> tuple[str, ...]:
        """Part patterns (`{n}`: an expert's number) of what is added to the residual stream."""
        return tuple(part for part, role in self.declaration.parts.items() if role in WRITING_ROLES)

    @cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        return tuple(
            (re.compile(re.escape(part).replace(r"\{n\}", r"\d+")), role)
            for part, role in self.declaration.parts.items()
        )

    @cached_property
    def _in_block(self) -> re.Pattern[str]:
        # anchored at the container of the blocks: experts are numbered too
        return re.compile(re.escape(self.block_prefix) + r"(\d+)\.(.+)")

    def unit(self, name: str) -> Unit:
        """The block, part and leaf of a tensor's name."""
        found = self._in_block.fullmatch(name)
        block, rest = (int(found[1]), found[2]) if found else (None, name)
        if rest in self.declaration.buffers:
            return Unit(block, rest, "")
        part, _, leaf = rest.rpartition(".")
        if leaf not in LEAVES:
            return Unit(block, rest, "")
        return Unit(block, part, leaf)

    def role(self, name: str) -> str:
        """embedding, head, final_norm, position, norm, attention.q|k|v|o|qkv, mlp.gate|up|down|gate_up, moe.router,
        moe.expert|shared.gate|up|down|gate_up, mixer.in|out|conv (of a block without attention), other, or buffer.
        A bias has the role of its part. Raises SurgeonError on any other name."""
        unit = self.unit(name)
        if unit.block is not None:
            if unit.part in self.declaration.buffers:
                return "buffer"
            role = self.part_role(unit.part)
        else:
            role = self._outside.get(name)
        if role is None:
            raise SurgeonError(
                f"the tensor {name!r} has no place in the architecture {self.name!r}",
                name,
                "quantised or adapter weights are not operated on: give the plain model in safetensors",
            )
        return role

    @cached_property
    def _outside(self) -> dict[str, str]:
        roles = {"embedding": self.embedding, "final_norm": self.final_norm, "position": self.position}
        found = {name: role for role, name in roles.items() if name is not None}
        if self.final_norm is not None:
            found[self.final_norm.removesuffix("weight") + "bias"] = "final_norm"
        found |= {f"{self.declaration.head}.{leaf}": "head" for leaf in LEAVES}
        return found | dict(self.declaration.outside)

    def part_role(self, part: str) -> str | None:
        """The role of a part of a block, None for an unknown one."""
        return next((role for pattern, role in self._patterns if pattern.fullmatch(part)), None)

    def is_residual_writer(self, part: str) -> bool:
        """Whether the part's output is added to the residual stream."""
        return self.writer(part) is not None

    def writer(self, part: str) -> str | None:
        """The pattern among `residual_writers` that this part is of, None for another part."""
        return next(
            (name for name, (pattern, role) in zip(self.declaration.parts, self._patterns, strict=True)
             if role in WRITING_ROLES and pattern.fullmatch(part)),
            None,
        )  # fmt: skip

    def block_tensor(self, block: int, part: str, leaf: str = "weight") -> str:
        """The name that this part's tensor has in a block of this number, whether the checkpoint has it or not."""
        return f"{self.block_prefix}{block}.{part}" + (f".{leaf}" if leaf else "")

    def rename(self, name: str, block: int) -> str:
        """The name of the same part in another block."""
        unit = self.unit(name)
        return self.block_tensor(block, unit.part, unit.leaf)

    @cached_property
    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """The names of the tensors of each block, in the order of the checkpoint."""
        found: list[list[str]] = [[] for _ in range(self.depth)]
        for name in self.names:
            block = self.unit(name).block
            if block is not None:
                found[block].append(name)
        return tuple(map(tuple, found))

    def parts(self, block: int) -> tuple[str, ...]:
        """The parts that a block of this checkpoint has, each once, in the order of the checkpoint."""
        return tuple(dict.fromkeys(self.unit(name).part for name in self.blocks[block]))

    def outside(self) -> tuple[str, ...]:
        """The names of the tensors that belong to no block."""
        return tuple(name for name in self.names if self.unit(name).block is None)


def family_of(checkpoint: Checkpoint) -> Family:
    """The family of an open checkpoint; every tensor has a role, or SurgeonError names the one that has none, or the
    one that holds codes."""
    family = family_of_names(checkpoint.config, checkpoint.tensors, str(checkpoint.path))
    check_plain(family, {name: stored.dtype for name, stored in checkpoint.tensors.items()}, str(checkpoint.path))
    if family.tied and family.head is not None:
        check_one_matrix(checkpoint, family.embedding, family.head)
    return family


def check_plain(family: Family, dtypes: Mapping[str, str], where: str) -> None:
    """Raise SurgeonError on a parameter that holds codes. dtypes: name -> element type of every tensor."""
    for name, dtype in dtypes.items():
        if dtype in CODES and _is_multiplied(family, name, dtype):
            raise quantised(f"{where}: {name} is {dtype}")


def _is_multiplied(family: Family, name: str, dtype: str) -> bool:
    """Whether it is a parameter: masks, positions and the tables of a router are whole numbers by right."""
    role = family.role(name)
    by_name = role not in ("other", "moe.router") or family.unit(name).leaf == "weight"
    return role != "buffer" and (by_name or dtype.startswith("F8"))


def family_of_names(config: Mapping[str, Any], names: Iterable[str], where: str = "config.json") -> Family:
    """The family for a configuration and the names of all tensors."""
    names = tuple(names)
    declared = declaration_of(config, where, names)
    base = declared.base
    if declared.base_optional and not any(name.startswith(base) for name in names):
        base = ""
    depth = _depth(config, declared, where)
    embedding = f"{base}{declared.embedding}.weight"
    if embedding not in names:
        inside = any(name.endswith(f".{declared.embedding}.weight") for name in names)
        raise SurgeonError(
            f"the checkpoint has no {embedding!r}", where, EXTRACT if inside else "give a complete checkpoint"
        )
    tied = bool(config.get("tie_word_embeddings", declared.tied))
    head = f"{declared.head}.weight"
    if head not in names and not tied:
        raise SurgeonError(
            f"the checkpoint has no {head!r} and its config.json does not tie it to the embedding",
            where,
            "give a complete checkpoint, or one whose config.json says tie_word_embeddings: true",
        )
    family = Family(
        declaration=declared,
        base=base,
        depth=depth,
        embedding=embedding,
        head=head if head in names else None,
        head_bias=f"{declared.head}.bias" if f"{declared.head}.bias" in names else None,
        final_norm=f"{base}{declared.final_norm}.weight" if declared.final_norm else None,
        position=f"{base}{declared.position}.weight" if declared.position else None,
        tied=tied,
        names=names,
    )
    _check_names(family, where, bool(config.get("num_nextn_predict_layers")))
    return family


def _depth(config: Mapping[str, Any], declared: Declaration, where: str) -> int:
    depth = config.get(declared.depth_key)
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
        raise SurgeonError(
            f"config.json does not say how many blocks there are ({declared.depth_key} is {depth!r})",
            where,
            "restore config.json from the model's source",
        )
    return depth


def _check_names(family: Family, where: str, mtp: bool) -> None:
    """Every tensor has a role, and every block from 0 to depth - 1 writes to the residual stream.

    mtp: config.json speaks of blocks behind the last one, which predict further tokens.
    """
    writes = [0] * family.depth
    for name in family.names:
        unit = family.unit(name)
        if unit.block is not None and unit.block >= family.depth:
            raise SurgeonError(
                f"the tensor {name!r} belongs to a block that config.json does not count "
                f"({family.depth_key} is {family.depth})",
                where,
                "blocks that predict further tokens (MTP) are not operated on: save the model with transformers, "
                "which leaves them out"
                if mtp
                else "restore config.json and the weights from one revision",
            )
        try:
            family.role(name)
        except SurgeonError as error:
            raise SurgeonError(error.problem, f"{where}: {name}", error.hint) from error
        if unit.block is not None:
            writes[unit.block] += family.is_residual_writer(unit.part)
    if 0 in writes:
        raise SurgeonError(
            f"block {writes.index(0)} is missing or incomplete: it holds nothing that writes to the residual stream",
            where,
            "restore config.json and the weights from one revision",
        )
