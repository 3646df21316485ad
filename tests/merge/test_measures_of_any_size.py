"""Norms and cosines of values whose squares float32 does not hold are those of float64; the others are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_models import tensors, trained
from safetensors.torch import save_file

from surgeon.errors import SurgeonError
from surgeon.measure.vectors import vectors
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.execute import execute


def scaled(model: Path, out: Path, by: float, dtype: torch.dtype = torch.float32) -> Path:
    shutil.copytree(model, out)
    (out / "surgeon.json").unlink(missing_ok=True)
    save_file({n: (t.double() * by).to(dtype) for n, t in tensors(out).items()}, out / "model.safetensors")
    return out


@pytest.fixture(scope="module")
def plain(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("plain")
    return [stories, trained(stories, root / "one", 1), trained(stories, root / "two", 2)]


def expected(models: list[Path]) -> dict[str, Any]:
    base, *tuned = ({n: t.double() for n, t in tensors(m).items()} for m in models)
    one, two = (torch.cat([(held[n] - base[n]).flatten() for n in sorted(base)]) for held in tuned)
    whole = torch.cat([base[n].flatten() for n in sorted(base)]).norm()
    product = one * two
    return {
        "norms": [one.norm().item(), two.norm().item()],
        "relative": [(one.norm() / whole).item(), (two.norm() / whole).item()],
        "cosine": (one @ two / one.norm() / two.norm()).item(),
        "conflicts": (product[product < 0].abs().sum() / product.abs().sum()).item(),
    }


def same(found: dict[str, Any], wanted: dict[str, Any], turned: bool = False) -> None:
    step = -1 if turned else 1
    assert found["norms"][::step] == pytest.approx(wanted["norms"], rel=1e-6, abs=0)
    assert found["relative"][::step] == pytest.approx(wanted["relative"], rel=1e-6)
    pair = found["pairs"][0]
    assert pair["cosine"] == pytest.approx(wanted["cosine"], abs=1e-7)
    assert pair["sign_conflicts"] == pytest.approx(wanted["conflicts"], abs=1e-6)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])  # without torch, and with it
@pytest.mark.parametrize(
    ("by", "dtype"),
    [(1e20, torch.float32), (3e36, torch.bfloat16), (1e-24, torch.float32), (1e-36, torch.bfloat16),
     (1e60, torch.float64), (1e-60, torch.float64), (1.0, torch.float32)],
)  # fmt: skip
def test_any_size(plain: list[Path], tmp_path: Path, by: float, dtype: torch.dtype, method: str) -> None:
    models = [scaled(m, tmp_path / str(n), by, dtype) for n, m in enumerate(plain)]
    wanted = expected(models)
    found = vectors(*(models[0], models[1:]))
    same(found["total"], wanted)
    add = [f"{m}=0.3" for m in models[1:]]
    plan = plan_merge(MergeSettings(base=str(models[0]), out=tmp_path / "out", add=add, method=method))
    told = execute(plan, tmp_path / "out").to_json()
    same(told["vectors"]["total"], wanted, told["vectors"]["models"] == ["2", "1"])
    lost = 0.05 if dtype is torch.bfloat16 else 1e-5
    assert told["rounding"]["kept"] == pytest.approx(1, abs=lost)
    assert 0 < told["rounding"]["changed"] <= told["rounding"]["elements"]
    assert (told["rounding"]["relative_error"] < 1e-12) == (dtype is torch.float64)
    assert told["rounding"]["relative_error"] < 0.2


def with_norm(model: Path, out: Path, value: float, dtype: torch.dtype) -> Path:
    shutil.copytree(model, out)
    held = {n: t.to(dtype) for n, t in tensors(out).items()}
    save_file(held | {"model.norm.weight": torch.full((64,), value, dtype=dtype)}, out / "model.safetensors")
    return out


def test_deltas_that_the_type_cannot_add_up(stories: Path, tmp_path: Path) -> None:
    values = (40000, 65000, 60000)  # together 85000, beyond float16
    models = [with_norm(stories, tmp_path / str(n), v, torch.float16) for n, v in enumerate(values)]
    found = next(u for u in vectors(models[0], models[1:])["units"] if u["unit"] == "model.norm")
    held = [torch.tensor(v, dtype=torch.float16).item() for v in values]
    assert found["norms"] == pytest.approx([(v - held[0]) * 8 for v in held[1:]])


def test_a_delta_that_float32_does_not_hold(stories: Path, tmp_path: Path) -> None:
    models = [with_norm(stories, tmp_path / str(n), v, torch.float32) for n, v in enumerate((-3e38, 3e38))]
    found = next(u for u in vectors(models[0], models[1:])["units"] if u["unit"] == "model.norm")
    assert found["norms"] == pytest.approx([6e38 * 8], rel=1e-6)


def test_squares_beyond_float64_are_refused_by_name(stories: Path, tmp_path: Path) -> None:
    models = [with_norm(stories, tmp_path / str(n), v, torch.float64) for n, v in enumerate((1e160, 2e160))]
    with pytest.raises(SurgeonError, match=r"'model.norm.weight' has values above about 1e154"):
        vectors(models[0], models[1:])
