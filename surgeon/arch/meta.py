"""The derived check: transformers builds the model without memory, and its names and shapes are compared with ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from surgeon.arch.configuration import settings_of
from surgeon.arch.family import Family, family_of_names
from surgeon.errors import SurgeonError


def check_config(config: dict[str, Any], tensors: Mapping[str, tuple[int, ...]], where: str = "config.json") -> None:
    """Refuse a configuration that transformers refuses, and tensors that are not those of the model it describes.

    The expected names are the ones that save_pretrained would write: where transformers keeps experts in one
    tensor, its own conversion splits them again (on the meta device, so that nothing is allocated). A name that a
    tensor has in memory is taken as well where the conversion writes another one: transformers reads both.
    """
    family = family_of_names(config, tensors, where)
    model = _meta_model(config, where)
    expected = _stored_shapes(model)
    foreign = [name for name in tensors if name not in expected and not _may_be_absent(name, family)]
    if foreign:
        in_memory = _shapes(model.state_dict())
        if all(name in in_memory for name in tensors if not _may_be_absent(name, family)):
            expected = in_memory  # a checkpoint may hold the experts of a block as one tensor, as transformers does
        else:
            for stored, name in names_in_memory(model, foreign).items():
                expected[name] = expected.pop(stored)
    if not family.base:
        expected = {name.removeprefix(family.declaration.base): shape for name, shape in expected.items()}
    if family.tied:
        expected = {n: s for n, s in expected.items() if n != f"{family.declaration.head}.weight" or n in tensors}
    for name, shape in tensors.items():
        if family.role(name) == "buffer":
            continue
        if name not in expected:
            raise _difference(f"the tensor {name!r} is not part of the model that config.json describes", where)
        if expected[name] != tuple(shape):
            raise _difference(
                f"the tensor {name!r} has the shape {list(shape)}, config.json makes it {list(expected[name])}", where
            )
    absent = [name for name in expected if name not in tensors and not _may_be_absent(name, family)]
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise _difference(f"config.json describes a tensor that is not there: {absent[0]!r}{more}", where)


def check_multimodal(
    config: dict[str, Any], tensors: Mapping[str, tuple[int, ...]], where: str = "config.json"
) -> None:
    """The same for a model with other parts beside its language model, by the class that config.json names. Tensors
    that this class says it does not read (blocks that predict further tokens) may be there."""
    import re

    import torch
    import transformers

    named = (config.get("architectures") or [None])[0]
    kind = getattr(transformers, named, None) if isinstance(named, str) else None
    if kind is None:
        raise SurgeonError(
            f"transformers has no class {named!r}" if named else "config.json names no class (architectures)",
            where,
            "restore config.json from the model's source",
        )
    try:
        with torch.device("meta"):
            model = kind._from_config(settings_of(config))
    except _refusals() as error:
        raise _unbuilt(where, error) from error
    state = model.state_dict()
    untied = {name: tensor for name, tensor in state.items() if name not in model.all_tied_weights_keys}
    needed = [_written(model, untied), _shapes(untied)]  # as save_pretrained names them, or as they are in memory
    known = _written(model, state) | _shapes(state)
    unread = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    for name, shape in tensors.items():
        if name not in known and not any(pattern.search(name) for pattern in unread):
            raise _difference(f"the tensor {name!r} is not part of the model that config.json describes", where)
        if name in known and known[name] != tuple(shape):
            raise _difference(
                f"the tensor {name!r} has the shape {list(shape)}, config.json makes it {list(known[name])}", where
            )
    absent = [[name for name in held if name not in tensors] for held in needed]
    if all(absent):
        raise _difference(f"config.json describes a tensor that is not there: {absent[0][0]!r}", where)


def model_tensors(
    config: dict[str, Any], where: str = "config.json", *, in_memory: bool = False
) -> dict[str, tuple[int, ...]]:
    """Names and shapes that transformers writes for a causal language model of this configuration, or those that it
    has in memory (and reads as well)."""
    model = _meta_model(config, where)
    return _shapes(model.state_dict()) if in_memory else _stored_shapes(model)


def written_names(model: Any, names: Iterable[str]) -> list[str]:
    """How save_pretrained would call these tensors, which have the names that they have in memory."""
    state = model.state_dict()
    return list(_written(model, {name: state[name] for name in names if name in state}))


def names_in_memory(model: Any, names: Iterable[str]) -> dict[str, str]:
    """The name that transformers writes -> the one of `names` that the same whole tensor has in memory."""
    from transformers.core_model_loading import revert_weight_conversion

    state = model.state_dict()
    found = {}
    for name in names:
        written = revert_weight_conversion(model, {name: state[name]}) if name in state else {}
        if len(written) == 1 and next(iter(written.values())).shape == state[name].shape:
            found[next(iter(written))] = name
    return {stored: name for stored, name in found.items() if stored != name}


def _meta_model(config: dict[str, Any], where: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        settings = settings_of(config)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(settings)
    except _refusals() as error:
        raise _unbuilt(where, error) from error


def _refusals() -> tuple[type[Exception], ...]:
    """What transformers raises on a configuration that it does not take."""
    from huggingface_hub.errors import StrictDataclassError

    return (StrictDataclassError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError)


def _unbuilt(where: str, error: Exception) -> SurgeonError:
    reason = str(error).strip().split("\n")[0]
    return SurgeonError(
        f"transformers cannot build a model from this config.json: {reason}",
        where,
        "compare it with the config.json of the model's source",
    )


def _stored_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return _written(model, model.state_dict())


def _written(model: Any, state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    from transformers.core_model_loading import revert_weight_conversion

    return _shapes(revert_weight_conversion(model, dict(state)))


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _may_be_absent(name: str, family: Family) -> bool:
    return family.unit(name).part in family.declaration.buffers


def _difference(problem: str, where: str) -> SurgeonError:
    return SurgeonError(problem, where, "restore config.json and the weights from one revision")
