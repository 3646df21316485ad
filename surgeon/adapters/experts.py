"""Updates of experts, which PEFT keeps for all experts of a block together, as sources of the checkpoint's tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surgeon.adapters.peft_format import PREFIX, Adapter, Touched, open_adapter
from surgeon.arch.family import Family
from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.ops.plan import Apply, Copy, Source


@dataclass(frozen=True)
class Experts:
    """sources: of the tensors that the updates change. names: tensors of the adapter that are spoken for, of these
    modules."""

    sources: dict[str, Source]
    names: frozenset[str]
    modules: frozenset[str]

    def without(self, adapter: Adapter) -> Adapter:
        """The adapter without what is spoken for."""
        kept = {}
        for module, touched in adapter.touched.items():
            rest = Touched(
                module,
                {k: n for k, n in touched.factors.items() if n not in self.names},
                touched.rows,
                touched.saved,
                {k: n for k, n in touched.others.items() if n not in self.names},
            )
            if rest.factors or rest.rows or rest.saved or rest.others:
                kept[module] = rest
        return replace(adapter, touched=kept)


def expert_sources(checkpoint: Checkpoint, family: Family, folder: Path, role: str) -> Experts:
    """What target_parameters of the adapter's configuration comes to, asked of PEFT on a model without memory: which
    wrapper is for which parameter, its scale, and which way round the parameter is stored."""
    from surgeon.arch.stored_parts import StoredParts

    adapter = open_adapter(folder)
    stored = StoredParts(dict(checkpoint.config), set(checkpoint.tensors), str(checkpoint.path))
    sources: dict[str, Source] = {}
    names, modules = set(), set()
    for path, layer in _wrappers(checkpoint, adapter).items():
        module = path.replace(".base_layer", "")
        a, b = (f"{PREFIX}{path}.lora_{letter}.weight" for letter in "AB")
        if a not in adapter.tensors or b not in adapter.tensors:
            raise SurgeonError(
                f"the adapter holds no update of {module}.{layer.parameter_name}", str(folder), "restore its files"
            )
        names |= {a, b}
        modules.add(module)
        _check(adapter, a, b, layer, module)
        options: dict[str, Any] = {"scaling": float(layer.scaling["default"])}
        if layer.num_experts == 1:
            name = stored.of(f"{module}.{layer.parameter_name}")[0].name
            inputs = (Copy("model", name), Copy(role, a), Copy(role, b))
            sources[name] = Apply("kernel:add_lora", inputs, options)
            continue
        options["experts"] = layer.num_experts
        for part in stored.of(f"{module}.{layer.parameter_name}"):
            own = {"expert": part.expert, "start": part.start} if part.expert is not None else {}
            if part.expert is None and not layer._did_swap_in_out_features:
                own["transposed"] = True
            inputs = (Copy("model", part.name), Copy(role, a), Copy(role, b))
            sources[part.name] = Apply("kernel:add_expert_lora", inputs, options | own)
    return Experts(sources, frozenset(names), frozenset(modules))


def _wrappers(checkpoint: Checkpoint, adapter: Checkpoint) -> dict[str, Any]:
    """Path in the model -> PEFT's wrapper of a parameter."""
    from peft import LoraConfig

    from surgeon.adapters.planned_start import on_meta

    known = LoraConfig.__dataclass_fields__
    keys = {k: v for k, v in adapter.config.items() if k in known and k not in ("peft_type", "auto_mapping")}
    wrapped = on_meta(checkpoint, LoraConfig(**keys))
    found = {}
    for path, layer in wrapped.named_modules():
        if type(layer).__name__ == "ParamWrapper":
            found[path.removeprefix(PREFIX)] = layer
    return found


def _check(adapter: Checkpoint, a: str, b: str, layer: Any, module: str) -> None:
    wanted = tuple(layer.lora_A["default"].weight.shape), tuple(layer.lora_B["default"].weight.shape)
    held = adapter.tensors[a].shape, adapter.tensors[b].shape
    if held != wanted:
        raise SurgeonError(
            f"{module}: the adapter's factors are {held[0]}, {held[1]}, this model takes {wanted[0]}, {wanted[1]}",
            str(adapter.path),
            "give the model that the adapter was made for",
        )
