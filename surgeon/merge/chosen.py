"""The method of a merge with a base, by the words that a person gave."""

from __future__ import annotations

from surgeon import registry
from surgeon.errors import UsageError
from surgeon.merge.options import PlacedOptions, placed_options
from surgeon.merge.settings import MergeSettings


def chosen_method(settings: MergeSettings) -> tuple[registry.Method, PlacedOptions]:
    """The method with its options. Raises UsageError."""
    method = registry.get("merge", settings.method)
    if "base" not in method.supplied:
        raise UsageError(
            f"{settings.method} merges models without a base",
            "--method",
            f"use: surgeon merge {settings.method} OUT MODEL ...",
        )
    given = dict(settings.option)
    if "scale" in given:
        raise UsageError("the scale is an option of its own", "--option scale", "use --scale")
    method.check_names(given, but=("scale",))
    if "scale" in method.options:
        given["scale"] = settings.scale
    elif settings.scale != 1:
        raise UsageError(f"{settings.method} takes no scale", f"--scale {settings.scale:g}", "leave --scale out")
    return method, placed_options(method, given)


def check_onto(settings: MergeSettings, method: registry.Method) -> None:
    """Raise UsageError where the method adds to a model that is not given."""
    if method.trait("ONTO_WHOLE", False) and settings.onto is None:
        raise UsageError(f"{settings.method} needs the model that it is added to", "--onto", "give --onto MODEL")
