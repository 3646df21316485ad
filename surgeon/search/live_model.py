"""A transformers model from tensors in memory, under the names of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgeon.arch.configuration import settings_of
from surgeon.errors import SurgeonError
from surgeon.loading import quiet

if TYPE_CHECKING:
    from torch import Tensor


def model_of(config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> Any:
    """The causal language model of this configuration in float32 and eval mode, with these weights.

    They go through the library's own loading, which renames and fuses what it holds otherwise than its files do and
    ties what is tied; tensors that it takes as they are become parameters without a copy. Raises SurgeonError where
    names or shapes are not those of the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with quiet():
        try:
            settings = settings_of(config)
            with torch.device("meta"):
                kind = type(AutoModelForCausalLM.from_config(settings))
            model, info = kind.from_pretrained(
                None, config=settings, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise SurgeonError(
                f"transformers cannot build the merged model: {str(error).strip().split(chr(10))[0]}",
                where,
                "compare config.json with that of the model's source",
            ) from error
    for what in ("missing_keys", "mismatched_keys"):
        if info[what]:
            first = sorted(map(str, info[what]))[0]
            raise SurgeonError(
                f"the merged tensors do not fit the configuration: {what.split('_')[0]} tensor {first}",
                where,
                "restore config.json and the shards from one source",
            )
    model.config.name_or_path = where
    return model.eval()


def float_tensors(model: Any) -> dict[str, Tensor]:
    """Parameters and stored buffers in floating point by name; what is tied once, under its first name."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def stored_name(name: str, model: Any, stored: Mapping[str, Any]) -> str | None:
    """The checkpoint's name of a tensor that the library takes as it is; None of one that it makes of several."""
    prefix = f"{model.base_model_prefix}."
    return next((n for n in (name, name.removeprefix(prefix), prefix + name) if n in stored), None)
