"""What is said of a run before it begins, once: of its model, and by methods: functions of (run, options) that their
modules name in NOTE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeon.registry import Method
from surgeon.train.hook import Run


def notes(chosen: Mapping[str, list[tuple[Method, dict[str, Any]]]], run: Run) -> list[str]:
    """One of the model's routers, where there is something to say, and one of each method that has."""
    said = []
    balanced = chosen["objective"][0][0].name == "load_balancing"
    if getattr(run.model.config.get_text_config(), "output_router_logits", False) and not balanced:
        said.append(
            "the model's configuration asks for a loss that balances its routers (output_router_logits), which is not "
            "added: the loss is that of the objective alone; --objective load_balancing has one"
        )
    for held in chosen.values():
        for method, options in held:
            note = method.trait("NOTE")
            if note is not None and (text := note(run, options)):
                said.append(f"{method.name}: {text}")
    return said
