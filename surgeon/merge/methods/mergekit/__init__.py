"""mergekit's own methods by their names there, mergekit:NAME, called as a library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.errors import UsageError, did_you_mean
from surgeon.merge.methods.mergekit.call import Call
from surgeon.registry import Method, Option

if TYPE_CHECKING:
    from mergekit.merge_methods.base import MergeMethodSpec, ParameterSpec

# what it does is another operation of surgeon's
ELSEWHERE = {"passthrough": "surgeon expand-layers places layers; it keeps config.json and the layer types in step"}

WHOLE_COPIES = 10  # as measured: deltas are stacked, and masks, sorted and scaled copies held beside them


def members() -> list[str]:
    """The names that `named` knows, sorted. Imports mergekit."""
    from mergekit.merge_methods import registered_methods

    return sorted(m.spec.name for m in registered_methods() if m.spec.name not in ELSEWHERE)


def named(name: str) -> Method:
    """mergekit's method as one of surgeon's, with the options that its parameters are. Raises UsageError.

    Parameters that mergekit takes for every model are one value for all; `weight` is that of the model. Where there
    is a `lambda`, `scale` is a second name of it. A method that needs a base gets base + delta as the tuned models.
    """
    from mergekit.merge_methods import get

    if name in ELSEWHERE:
        raise UsageError(f"mergekit:{name} changes the depth of a model", f"mergekit:{name}", ELSEWHERE[name])
    if name not in members():
        raise UsageError(f"mergekit has no method {name!r}", "surgeon methods merge", did_you_mean(name, members()))
    spec = get(name).spec
    based = spec.contract.base.value in ("required", "optional")
    weighted = any(p.name == "weight" for p in spec.input_parameters)
    options = {p.name: _option(p) for p in spec.parameters if p.name != "weight"}
    if "lambda" in options:
        options["scale"] = Option("scale", float, 1.0)
    call = Call(name, weighted)
    function = call.with_base if based else call.without_base
    return Method(
        kind="merge",
        name=f"mergekit:{name}",
        function=_documented(function, spec),
        supplied=("base", "deltas", "weights", "seed") if based else ("tensors", "weights", "seed"),
        options=options,
        # a model that has no change somewhere equals the base there: mergekit counts it
        traits={
            "BASE_OPTIONAL": spec.contract.base.value == "optional",
            "EVERY_DELTA": based,
            "WHOLE_COPIES": WHOLE_COPIES,
        },
    )


def _option(parameter: ParameterSpec) -> Option:
    return Option(parameter.name, parameter.value_type, Option.REQUIRED if parameter.required else parameter.default)


def _documented(function: Any, spec: MergeMethodSpec) -> Any:
    """A function of its own, with what mergekit says of the method as its docstring."""

    def merge(*supplied: Any, **options: Any) -> Any:
        return function(*supplied, **options)

    merge.__doc__ = f"mergekit's {spec.pretty_name or spec.name}, in float64 on whole tensors.\n\n"
    merge.__doc__ += f"Source: mergekit, {spec.reference_url or spec.name}"
    return merge
