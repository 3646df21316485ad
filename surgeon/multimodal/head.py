"""What a multimodal class does at the head: whether it ties it, and by what its logits are not scaled or capped."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.loading import quiet

# what a causal class does to its logits, and the value of the key at which it does nothing. A class with a head of its
# own around the same text part need not do it: Aya Vision's logits are not multiplied as those of Cohere 2 are.
_AT_THE_HEAD: dict[str, Any] = {
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
    "final_logit_softcapping": None,
}


@dataclass(frozen=True)
class Head:
    """tied: whether the class ties it to the embedding. neutral: keys of the text part that the class does not read
    at its head -> the value at which the causal class does nothing either."""

    tied: bool
    neutral: Mapping[str, Any] = field(default_factory=dict)


def head_of(whole: Any, text: Any, architectures: Any, where: str) -> Head:
    """Of the class that config.json names; whether it ties by the configuration alone where the class cannot be built
    here (a tower of a library that is missing) or has no head. whole, text: configuration objects. Raises
    SurgeonError where it cannot be built and the part has a scale or a cap, of which only the class tells.

    A class that holds a causal language model (BLIP-2, Qwen2-Audio) leaves tying and logits to it, and to the
    configuration of the part; one with a head of its own (LLaVA, Gemma 3) goes by the configuration of the whole.
    """
    said = getattr(whole, "tie_word_embeddings", None)
    said = getattr(text, "tie_word_embeddings", None) if said is None else said
    model = _on_meta(whole, architectures)
    heads = (
        [name for name, _ in model.named_modules() if name.split(".")[-1] == "lm_head"] if model is not None else []
    )
    left = {key: value for key, value in _AT_THE_HEAD.items() if getattr(text, key, value) != value}
    if model is None or len(heads) != 1:
        if left:
            raise SurgeonError(
                f"whether the multimodal model's logits have the {next(iter(left))} of its text part cannot be told: "
                f"its class {architectures[0] if architectures else None!r} cannot be built, or has no one head",
                where,
                "install what the class needs (its own error on loading says what), and name it in config.json",
            )
        return Head(bool(said))
    tied = f"{heads[0]}.weight" in model.all_tied_weights_keys
    if heads[0] != "lm_head":
        return Head(tied)
    read = inspect.getsource(type(model).forward)
    return Head(tied, {key: value for key, value in left.items() if key not in read})


def _on_meta(whole: Any, architectures: Any) -> Any | None:
    import torch
    import transformers

    named = architectures[0] if isinstance(architectures, list) and architectures else None
    kind: Any = getattr(transformers, named, None) if isinstance(named, str) else None
    if not hasattr(kind, "_from_config"):
        return None
    try:
        with quiet(), torch.device("meta"):
            return kind._from_config(whole)
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AttributeError, ImportError):
        return None  # a tower that cannot be built here (a library that is missing) is no matter of the language model
