"""A recipe that was carried out: its models, configurations and lines of metrics; and exact comparisons of tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from surgeon.recipe import recipes_dir

TEXTS = recipes_dir() / "quickstart"
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Ran:
    """A recipe that was carried out."""

    folder: Path
    record: dict[str, Any]
    base: Path

    def out(self, stage: str) -> Path:
        return self.folder / next(s["out"] for s in self.record["stages"] if s["name"] == stage)

    def result(self, stage: str) -> dict[str, Any]:
        found: dict[str, Any] = next(s["result"] for s in self.record["stages"] if s["name"] == stage)
        return found

    def tensors(self, stage: str) -> Tensors:
        """Of a stage's output, or of the input `base`."""
        return load_file((self.base if stage == "base" else self.out(stage)) / "model.safetensors")

    def config(self, stage: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out(stage) / "config.json").read_text())
        return found

    def lines(self, stage: str) -> list[dict[str, Any]]:
        """A line for every step that the stage itself took (its output carries the files of the stages before)."""
        last = self.result(stage)["steps"]
        files = sorted((self.out(stage) / "surgeon").glob("metrics-*.jsonl"))
        newest = [
            p
            for p in files
            if not any((self.out(s["name"]) / "surgeon" / p.name).exists() for s in self.before(stage))
        ]
        found = [json.loads(line) for path in newest for line in path.read_text().splitlines()]
        steps = [line for line in found if "lr" in line]
        assert steps[-1]["step"] == last
        return steps

    def before(self, stage: str) -> list[dict[str, Any]]:
        names = [s["name"] for s in self.record["stages"]]
        return [s for s in self.record["stages"][: names.index(stage)] if s["out"] is not None]

    def rates(self, stage: str) -> list[float]:
        return [line["lr"] for line in self.lines(stage)]


def differ(one: Tensors, other: Tensors) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


def double(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.double().numpy()


def same_but_rounding(found: torch.Tensor, exact: NDArray[np.float64]) -> bool:
    """Whether `found`, float32, is `exact` rounded once, up to the rounding of float64 in `exact` itself."""
    nearest = exact.astype(np.float32).astype(np.float64)
    return bool((np.abs(double(found) - exact) <= np.abs(nearest - exact) + 1e-15).all())
