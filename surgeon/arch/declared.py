"""The check by declaration: what a model of a declared family must have, without building it.

It is enough where the tensors are those of a checkpoint in another order: that the declaration fits what transformers
builds is held by the tests, for every family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.arch.catalogue import declarations
from surgeon.arch.declared_shapes import Sizes, matrix_shape, sizes_of
from surgeon.arch.family import Family, family_of_names
from surgeon.errors import SurgeonError

Parts = dict[tuple[str, str], tuple[int, ...]]


def is_declared(config: Mapping[str, Any]) -> bool:
    """Whether the family is declared, and config.json says its sizes and does not leave them to a class."""
    declared = declarations().get(str(config.get("model_type")))
    return declared is not None and declared.plain_shapes and sizes_of(config) is not None


def check_declared(
    config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], where: str = "config.json"
) -> None:
    """Refuse tensors without a place in the architecture, matrices that config.json makes another size, and blocks
    of one kind that do not have the same parts in the same shapes. Only for a config of which is_declared holds."""
    family = family_of_names(config, tensors, where)
    sizes = sizes_of(config)
    assert sizes is not None
    width, rows = sizes.hidden, config.get("vocab_size", tensors[family.embedding][0])
    for name in filter(None, (family.embedding, family.head)):
        if tuple(tensors[name]) != (rows, width):
            raise _difference(
                f"the tensor {name!r} has the shape {list(tensors[name])}, config.json makes it {[rows, width]}", where
            )
    if family.final_norm is not None and tuple(tensors.get(family.final_norm, ())) != (width,):
        found = _phrase(tensors.get(family.final_norm))
        raise _difference(f"the tensor {family.final_norm!r} is {found}, config.json makes it {[width]}", where)
    for name, shape in tensors.items():
        expected = _expected(family, name, sizes)
        if expected is not None and tuple(shape) != expected:
            raise _difference(
                f"the tensor {name!r} has the shape {list(shape)}, config.json makes it {list(expected)}", where
            )
    _check_alike(family, tensors, where)


def _expected(family: Family, name: str, sizes: Sizes) -> tuple[int, ...] | None:
    unit = family.unit(name)
    # without a leaf it is the experts of a block in one tensor
    shape = None if unit.block is None or not unit.leaf else matrix_shape(family.role(name), sizes)
    if shape is None:
        return None
    if unit.leaf == "bias":
        return shape[:1]
    return shape[::-1] if family.transposed else shape


def _check_alike(family: Family, tensors: Mapping[str, tuple[int, ...]], where: str) -> None:
    first: dict[str, tuple[int, Parts]] = {}
    for block in range(family.depth):
        for kind, parts in _parts(family, block, tensors).items():
            other, expected = first.setdefault(kind, (block, parts))
            differing = sorted(key for key in parts.keys() | expected.keys() if parts.get(key) != expected.get(key))
            if differing:
                name = family.block_tensor(block, *differing[0])
                raise _difference(
                    f"the tensor {name!r} is {_phrase(parts.get(differing[0]))}, in block {other} it is "
                    f"{_phrase(expected.get(differing[0]))}",
                    where,
                )


def _parts(family: Family, block: int, tensors: Mapping[str, tuple[int, ...]]) -> dict[str, Parts]:
    """The shapes of a block's tensors by part and leaf: those that every block has, and by themselves those of its
    MLP, which with experts is another one than without. Buffers may be absent anywhere."""
    roles = {name: family.role(name) for name in family.blocks[block]}
    mlp = "experts" if any(role.startswith("moe.") for role in roles.values()) else "mlp"
    found: dict[str, Parts] = {"common": {}, mlp: {}}
    for name, role in roles.items():
        if role != "buffer":
            unit = family.unit(name)
            kind = mlp if role.startswith(("mlp.", "moe.")) else "common"
            found[kind][unit.part, unit.leaf] = tuple(tensors[name])
    return found


def _phrase(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))


def _difference(problem: str, where: str) -> SurgeonError:
    return SurgeonError(problem, where, "restore config.json and the weights from one revision")
