"""A module with an adapter of any kind merged into it, by PEFT itself, one module at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.errors import SurgeonError

COMPUTE = "stored"
ROWWISE = False


def CHANGES(options: Mapping[str, Any]) -> int:  # noqa: N802 - a trait that depends on the options
    """Which input is changed: the weight, or the bias behind it."""
    return int(options.get("leaf") == "bias")


def peft_merge(
    inputs: list[Tensor], *, config: dict[str, Any], module: str, names: list[str], leaf: str = "weight",
    layer: str = "linear",
) -> Tensor:  # fmt: skip
    """The `leaf` (weight or bias) of `module` after PEFT merged the adapter into it, float64.

    inputs: [weight, bias if the module has one, and the adapter's tensors by `names`, as its file calls them]. layer:
    linear, conv1d (stored [in, out]) or embedding. Arithmetic in float64, but where PEFT starts from a decomposition
    of the weight (pissa, olora, osf): that is in float32. Raises SurgeonError for a kind that PEFT does not merge, or
    whose modules need one another.
    """
    try:
        return _merged(inputs, config, module, names, leaf, layer)
    except (NotImplementedError, ValueError, TypeError, RuntimeError, KeyError, IndexError, AttributeError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise SurgeonError(
            f"PEFT does not merge {config['peft_type']} into a matrix by itself: {said}",
            module,
            "use the adapter with peft, or merge it there with the whole model in memory",
        ) from error


def _merged(
    inputs: list[Tensor], config: dict[str, Any], module: str, names: list[str], leaf: str, layer: str
) -> Tensor:
    from peft import get_peft_model, set_peft_model_state_dict

    with_bias = len(inputs) - len(names) == 2
    weight, bias, tensors = inputs[0], inputs[1] if with_bias else None, inputs[1 + with_bias :]
    chosen = _config(config, module)
    root = nn.Module()
    _put(root, module, _layer(layer, weight.float(), None if bias is None else bias.float()))
    wrapped = get_peft_model(root, chosen)
    shape = weight.shape[::-1] if layer == "conv1d" else weight.shape
    state = {name: _fit(name, tensor, shape) for name, tensor in zip(names, tensors, strict=True)}
    loaded = set_peft_model_state_dict(wrapped, state)
    if loaded.unexpected_keys:
        raise ValueError(f"{module}: PEFT does not know {loaded.unexpected_keys[0]!r}")
    if not _decomposes(config):  # float32 held what is stored; the rest is done in float64
        held = wrapped.double()
        _restore(held, module, leaf, weight, bias)
    merged = wrapped.merge_and_unload().get_submodule(module)
    found: Tensor = getattr(merged, leaf).detach().double()
    return found


def _config(values: dict[str, Any], module: str) -> Any:
    """The configuration for this module alone."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = PEFT_TYPE_TO_CONFIG_MAPPING[values["peft_type"]]
    fields = known.__dataclass_fields__
    alone = {key: value for key, value in values.items() if key in fields and key not in _OF_THE_MODEL}
    if "feedforward_modules" in fields:
        named = values.get("feedforward_modules") or []  # names that modules end with, or a regular expression
        inputs = re.fullmatch(named, module) if isinstance(named, str) else any(module.endswith(n) for n in named)
        alone["feedforward_modules"] = [module] if inputs else []
    alone |= {"target_modules": [module], "task_type": None, "inference_mode": True, "base_model_name_or_path": None}
    return known(**alone)


def _fit(name: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """VeRA's shared matrices are as large as the largest module: PEFT uses their first columns and rows."""
    if name.endswith("vera_A"):
        return tensor[:, : shape[1]]
    return tensor[: shape[0]] if name.endswith("vera_B") else tensor


# what says where in a model an adapter goes, or speaks of other tensors than the module's
_OF_THE_MODEL = (
    "target_modules", "layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save", "peft_type",
    "trainable_token_indices", "target_parameters", "ensure_weight_tying", "auto_mapping", "eva_config",
    "corda_config", "runtime_config", "peft_version", "feedforward_modules",
)  # fmt: skip


def _decomposes(config: dict[str, Any]) -> bool:
    init = str(config.get("init_lora_weights", ""))
    return config["peft_type"] == "OSF" or init.startswith("pissa") or init == "olora"


def _layer(kind: str, weight: Tensor, bias: Tensor | None) -> nn.Module:
    if kind == "embedding":
        return nn.Embedding.from_pretrained(weight, freeze=False)
    if kind == "conv1d":
        from transformers.pytorch_utils import Conv1D

        conv = Conv1D(weight.shape[1], weight.shape[0])
        conv.weight = nn.Parameter(weight)
        conv.bias = nn.Parameter(torch.zeros(weight.shape[1]) if bias is None else bias)
        return conv
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def _put(root: nn.Module, path: str, leaf: nn.Module) -> None:
    *parents, last = path.split(".")
    for name in parents:
        child = nn.Module()
        root.add_module(name, child)
        root = child
    root.add_module(last, leaf)


def _restore(wrapped: Any, module: str, leaf: str, weight: Tensor, bias: Tensor | None) -> None:
    """The base values in float64, where they are stored in that or in a type that float32 does not hold."""
    layer = wrapped.base_model.model.get_submodule(module).get_base_layer()
    layer.weight.data = weight.double()
    if bias is not None:
        layer.bias.data = bias.double()
