"""The stations of a language model that is taken out, operated on and put back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from surgeon.expand.plan import ExpandSettings
from surgeon.multimodal.extract import ExtractSettings
from surgeon.multimodal.graft import GraftSettings
from surgeon.operations import perform

IDS = torch.arange(3, 60)[None]


def extracted(model: Path, out: Path) -> Path:
    perform("extract-language-model", ExtractSettings(model=str(model), out=out))
    return out


def deeper(model: Path, out: Path, at: list[int]) -> Path:
    perform("expand-layers", ExpandSettings(model=str(model), out=out, at=at))
    return out


def grafted(model: Path, language_model: Path, out: Path) -> Path:
    perform("graft-language-model", GraftSettings(model=str(model), language_model=str(language_model), out=out))
    return out


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found
