"""Tiny multimodal models, built once for a file of tests, and a text to learn from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import multimodal_models
import pytest

Model = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, stories: Path) -> Model:
    built: dict[str, Path] = {}

    def of(kind: str, **whole: Any) -> Path:
        key = f"{kind}{whole or ''}"
        if key not in built:
            built[key] = multimodal_models.build(kind, tmp_path_factory.mktemp(kind) / "model", stories, **whole)
        return built[key]

    return of


@pytest.fixture
def corpus(stories: Path) -> Path:
    return stories.parent / "domain.train.jsonl"
