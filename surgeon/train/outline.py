"""A run before its weights are read: what methods can refuse by shapes, names and texts alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from surgeon.data.pack import Window
from surgeon.data.tokens import Tokens
from surgeon.registry import Method
from surgeon.train.naming import named
from surgeon.train.settings import CptSettings
from surgeon.train.trainable import Trainable


@dataclass(frozen=True)
class Outline:
    """What is known then, by the names that it has in a Run (see surgeon.train.hook).

    model: on the meta device, with the adapter if there is one; the loaded one where the adapter's kind can only be
    put on that. trainable: of that model. total, seq_len, micro_batch, windows, replays: as in a Run. other: the model
    of --teacher on the meta device. adapter: its folder, for what depends on its values. texts: the tokens of corpora
    that methods read by themselves, by the words in which they were given; the run reads none of them again.
    """

    settings: CptSettings
    model: Any
    trainable: Trainable
    tokenizer: Any
    total: int
    seq_len: int
    micro_batch: int
    windows: Callable[[int], list[Window]]
    replays: bool
    other: Any = None
    adapter: Path | None = None
    texts: dict[str, Tokens] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return self.trainable.parameters

    @property
    def rows(self) -> Mapping[str, Tensor]:
        return self.trainable.rows

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Those that an optimizer is given."""
        return self.trainable.groups(self.settings.lr, self.settings.weight_decay)


def check_fits(outline: Outline, chosen: Mapping[str, Sequence[tuple[Method, dict[str, Any]]]]) -> None:
    """Raise what a method of the run refuses of this model, these texts and this length: FITS(outline, options) of its
    module. It refuses the same, by the same function, when it is made; what needs weights it refuses then alone."""
    for held in chosen.values():
        for method, options in held:
            fits = method.trait("FITS")
            if fits is not None:
                named(method, fits, outline, options)
