"""Fixtures: the small real model of the quickstart, the shared material where it is, tiny random models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # how fast it is, other work decides as well
settings.load_profile("any machine")
pytest.register_assert_rewrite("paper_properties")  # its asserts say what they compare, as those of tests do

ROOT = Path(__file__).resolve().parent.parent
MATERIAL = ROOT.parent / "shared" / "material"


@pytest.fixture(scope="session")
def stories() -> Path:
    """The 260K-parameter story model that ships with the quickstart (Llama architecture, tied, 512 tokens)."""
    return ROOT / "recipes" / "quickstart" / "model"


@pytest.fixture(scope="session")
def material() -> Path:
    """Real models, corpora and tokenizers beside the repository."""
    if not MATERIAL.is_dir():
        pytest.skip("needs ../shared/material, which is not here")
    return MATERIAL


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _nobody_waits_for_the_disk() -> Iterator[None]:
    """Files are handed to it as ever, but no test cuts the power: a short run waited for it as long as it computed.
    Processes of their own wait as they do elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: os.fstat(handle) and None)
        yield


@pytest.fixture(autouse=True)
def _same_chance() -> None:
    """What a library draws without being asked for a seed is the same in every order of the tests."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """`tiny(family, dtype="float32", **config)`: the folder of a tiny random model, built once a session; a test that
    wants other files changes a copy."""
    import tiny as builders

    built: dict[str, Path] = {}
    files: dict[Path, dict[Path, tuple[int, int]]] = {}

    def of(family: str, dtype: str = "float32", seed: int = 0, **config: Any) -> Path:
        key = repr((family, dtype, seed, sorted(config.items())))
        if key not in built:
            folder = tmp_path_factory.mktemp(family) / "model"
            built[key] = builders.build(family, folder, dtype, seed, **config)
            files[folder] = _written(folder)
        return built[key]

    yield of
    assert [folder for folder, held in files.items() if _written(folder) != held] == []


def _written(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())}
