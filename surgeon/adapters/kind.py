"""What a kind of adapter says of itself: PEFT's configuration, and how its first values come about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Scaling = Literal["standard", "rank-stabilized"]
# (model, PEFT's configuration, token ids [1, tokens] of the probe): runs PEFT's own preparation, in place
Hook = Callable[[Any, Any, "Sequence[Tensor]"], None]


@dataclass(frozen=True)
class Kind:
    """peft_type: a key of peft's mapping ("LORA", "VERA"). config: keywords of its configuration class.

    planned: the first values are A uniform and B zero, which need no weights and no model. Otherwise PEFT makes them
    on the loaded model; before, after: what has to be done to the bare and to the wrapped model, on texts where
    reads_text. changes_base: PEFT takes the first update out of the model's own weights (base - s B A), so the
    adapter means nothing without knowing its first values.
    """

    peft_type: str
    config: Mapping[str, Any] = field(default_factory=dict)
    planned: bool = False
    reads_text: bool = False
    changes_base: bool = False
    before: Hook | None = None
    after: Hook | None = None


def lora_keys(rank: int, alpha: float, scaling: Scaling, dropout: float) -> dict[str, Any]:
    """The keys that LoRA and its variants share. The update is s B A, s = alpha / rank or alpha / sqrt(rank).

    Source: Hu et al. 2021 (arXiv 2106.09685); rank-stabilized: Kalajdzievski 2023 (arXiv 2312.03732).
    """
    whole = int(alpha) if float(alpha).is_integer() else alpha
    return {"r": rank, "lora_alpha": whole, "lora_dropout": dropout, "use_rslora": scaling == "rank-stabilized"}
