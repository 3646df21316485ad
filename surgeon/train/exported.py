"""What an exporter is given, and what it makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgeon.errors import UsageError
from surgeon.model_ref import ModelRef
from surgeon.registry import Method
from surgeon.train.corpora import Data
from surgeon.train.export_settings import ExportSettings
from surgeon.train.shape import Shape


@dataclass(frozen=True)
class ToExport:
    """A run that is not made here: settings resolved, corpora read, trainable set chosen on the model's names.

    names: of all parameters in the model's order (without the adapter's). trained: those that move; empty with an
    adapter, whose trained set is PEFT's own. rows: row ids by name, where only some rows of a matrix move.
    multipliers: of the learning rate, by name; grouped: those of them that --group asks for; decays: weight decays by
    name that it asks for. vectors: names of parameters with one dimension. decayed: names that
    transformers' Trainer decays. adapter: its folder, with its adapter_config.json. dtype: of the arithmetic.
    """

    settings: ExportSettings
    ref: ModelRef
    shape: Shape
    data: Data
    tokenizer: Any
    depth: int
    names: tuple[str, ...]
    trained: tuple[str, ...]
    rows: Mapping[str, tuple[int, ...]]
    multipliers: Mapping[str, float]
    decays: Mapping[str, float]
    grouped: frozenset[str]
    vectors: frozenset[str]
    decayed: frozenset[str]
    adapter: Path | None
    adapter_config: Mapping[str, Any]
    chosen: Mapping[str, list[tuple[Method, dict[str, Any]]]]
    dtype: str

    def micro_batch(self, at_most: int | None = None) -> int:
        """Rows of a forward pass on one rank. Every pass of a step has as many: the greatest number up to the one
        that `cpt` would take that divides a rank's rows; one that a person has set must divide them.

        Raises UsageError where the ranks cannot share the rows of a step.
        """
        rows, ranks = self.shape.rows, self.settings.ranks
        if rows % ranks:
            raise UsageError(
                f"{ranks} ranks cannot share the {rows} rows of a step",
                "--ranks",
                f"give a divisor of {rows}, or another --batch-tokens",
            )
        share, given = rows // ranks, self.settings.micro_batch
        limit = self.shape.micro_batch if at_most is None else min(at_most, self.shape.micro_batch)
        if given is not None and (share % given or given > limit):
            raise UsageError(
                f"micro-batches of {given} rows do not make up the {share} rows of a rank",
                "--micro-batch",
                f"give a divisor of {share}" + ("" if at_most is None else f" up to {at_most}"),
            )
        return given or next(n for n in range(min(limit, share), 0, -1) if share % n == 0)

    def accumulation(self, micro_batch: int) -> int:
        """Forward passes of a step on one rank."""
        return self.shape.rows // self.settings.ranks // micro_batch


@dataclass(frozen=True)
class Exported:
    """name: the file of the configuration, in YAML. config: what is in it, in order. files: what lies beside it, each
    written by a function of its path. notes: what differs from `cpt`, for people. command: starts the trainer in
    the folder."""

    name: str
    config: dict[str, Any]
    notes: list[str]
    command: str
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
