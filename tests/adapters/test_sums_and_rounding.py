"""Weighted sums of adapters, what rounding leaves of an update, and rounding at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from adapter_models import attach, close, fold, logits, plain, trained, with_peft
from safetensors.torch import load_file

from surgeon.adapters.fold import FoldSettings, plan_fold
from surgeon.adapters.inspect import inspect_on_model
from surgeon.adapters.load import put_on
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.rounding import round_once, round_stochastically, uniform_at
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.execute import execute

NAME = "model.layers.1.mlp.up_proj"


def adapter_of(model: Path, folder: Path, seed: int, size: float = 0.05, **settings: Any) -> Path:
    """Attached and moved by chance, with the lineage that cpt would leave."""
    import shutil

    fresh = attach(model, folder / "fresh", seed=seed, **settings)
    moved = with_peft(model, fresh)
    with torch.no_grad():
        for name, parameter in sorted(moved.named_parameters()):
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * size)
    moved.save_pretrained(folder / "moved")
    shutil.copy(fresh / "surgeon.json", folder / "moved")
    return folder / "moved"


def update(adapter: Path, scaling: float) -> torch.Tensor:
    held = load_file(adapter / "adapter_model.safetensors")
    a, b = (held[f"base_model.model.{NAME}.lora_{x}.weight"].double() for x in "AB")
    return scaling * (b @ a)


def test_a_sum_is_exact_in_float64(tmp_path: Path) -> None:
    """Of a rank-stabilised and a standard adapter of other ranks: W + 0.7 d1 - 0.4 d2, rounded once."""
    model = tiny.build("llama", tmp_path / "model", dtype="bfloat16")
    one = adapter_of(model, tmp_path / "one", 1, rank=4, alpha=8, scaling="rank-stabilized")
    two = adapter_of(model, tmp_path / "two", 2, rank=2, alpha=6, targets="mlp.up")
    fold(model, one, tmp_path / "out", weight=0.7, add=[f"{two}=-0.4"])
    weight = load_file(model / "model.safetensors")[f"{NAME}.weight"].double()
    exact = weight + 0.7 * update(one, 4.0) - 0.4 * update(two, 3.0)
    found = load_file(tmp_path / "out" / "model.safetensors")[f"{NAME}.weight"]
    off = (found.view(torch.int16).int() - round_once(exact, torch.bfloat16).view(torch.int16).int()).abs()
    assert int(off.max()) <= 1 and int(off.sum()) <= 1, "a tie of the last rounding may fall to either side"


def test_weights_of_sums(tmp_path: Path) -> None:
    model = tiny.build("llama", tmp_path / "model")
    one = adapter_of(model, tmp_path / "one", 1, rank=4)
    two = adapter_of(model, tmp_path / "two", 2, rank=2, targets="attention.q")
    fold(model, one, tmp_path / "alone")
    fold(model, one, tmp_path / "with-nothing", add=[f"{two}=0"])
    alone, with_nothing = (Checkpoint.open(tmp_path / n).digest for n in ("alone", "with-nothing"))
    assert alone == with_nothing
    fold(model, one, tmp_path / "nothing", weight=0.0)
    assert Checkpoint.open(tmp_path / "nothing").digest == Checkpoint.open(model).digest
    fold(model, one, tmp_path / "halves", weight=0.5, add=[f"{one}=0.5"])
    assert close(logits(plain(tmp_path / "halves")), logits(plain(tmp_path / "alone")))
    fold(model, one, tmp_path / "back", add=[f"{one}=-1"])
    held, base = (load_file(p / "model.safetensors") for p in (tmp_path / "back", model))
    assert all(torch.allclose(held[n], base[n], rtol=0, atol=1e-12) for n in base)


def test_the_report_says_what_rounding_leaves(tmp_path: Path) -> None:
    model = tiny.build("llama", tmp_path / "model", dtype="bfloat16")
    adapter = adapter_of(model, tmp_path / "small", 1, size=2e-4, rank=4, targets="mlp.up")
    weight = load_file(model / "model.safetensors")
    result = fold(model, adapter, tmp_path / "out").to_json()["rounding"]
    folded = load_file(tmp_path / "out" / "model.safetensors")
    delta = update_of_all(adapter, 8.0)
    kept = {n: folded[f"{n}.weight"].double() - weight[f"{n}.weight"].double() for n in delta}
    moved = sum(int((d != 0).sum()) for d in delta.values())
    unmoved = sum(int(((d != 0) & (kept[n] == 0)).sum()) for n, d in delta.items())
    dd = sum(float((d * d).sum()) for d in delta.values())
    dk = sum(float((d * kept[n]).sum()) for n, d in delta.items())
    assert result["elements"] == sum(d.numel() for d in delta.values()) and result["changed"] == moved
    assert result["unmoved"] == unmoved / moved and 0.3 < result["unmoved"] < 1
    assert result["kept"] == pytest.approx(dk / dd, rel=1e-5)
    assert list(result["parts"]) == ["model.layers.{n}.mlp.up_proj.weight"]
    wide = fold(model, adapter, tmp_path / "float32", dtype="float32").to_json()["rounding"]
    assert wide["unmoved"] < 0.01 and wide["kept"] == pytest.approx(1, abs=1e-4)


def update_of_all(adapter: Path, scaling: float) -> dict[str, torch.Tensor]:
    held = load_file(adapter / "adapter_model.safetensors")
    names = [n.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for n in held if "lora_A" in n]
    factors = {n: [held[f"base_model.model.{n}.lora_{x}.weight"].double() for x in "AB"] for n in names}
    return {n: scaling * (b @ a) for n, (a, b) in factors.items()}


def test_rounding_at_random_keeps_the_update_on_average(tmp_path: Path) -> None:
    model = tiny.build("llama", tmp_path / "model", dtype="bfloat16")
    adapter = adapter_of(model, tmp_path / "small", 1, size=2e-4, rank=4)
    nearest = fold(model, adapter, tmp_path / "nearest").to_json()["rounding"]
    kept = []
    for seed in range(8):
        out = tmp_path / f"random{seed}"
        kept.append(fold(model, adapter, out, rounding="stochastic", seed=seed).to_json()["rounding"]["kept"])
    # the update is below half a step of most weights: to nearest loses some of it, at random loses none on average
    assert abs(np.mean(kept) - 1) < 4 * np.std(kept) / np.sqrt(len(kept)) + 0.01
    assert abs(nearest["kept"] - 1) > 0.02
    again = tmp_path / "again"
    fold(model, adapter, again, rounding="stochastic", seed=3)
    assert Checkpoint.open(again).digest == Checkpoint.open(tmp_path / "random3").digest
    assert Checkpoint.open(tmp_path / "random4").digest != Checkpoint.open(again).digest


def test_the_bytes_do_not_depend_on_threads_or_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from surgeon.ops import rowwise

    model = tiny.build("llama", tmp_path / "model", dtype="bfloat16")
    adapter = adapter_of(model, tmp_path / "one", 1, rank=4)
    digests = set()
    for number, (threads, elements) in enumerate([(1, 1 << 21), (3, 1 << 21), (2, 100), (2, 33)]):
        monkeypatch.setattr(rowwise, "CHUNK_ELEMENTS", elements)
        out = tmp_path / f"out{number}"
        settings = FoldSettings(model=f"{model}+{adapter}", out=out, rounding="stochastic", weight=0.9)
        execute(plan_fold(settings), out, threads=threads)
        digests.add(Checkpoint.open(out).digest)
    assert len(digests) == 1


def test_round_stochastically_goes_to_a_neighbour_with_the_odds_of_the_distance() -> None:
    values = torch.full((40_000,), 1.0 + 0.3 * 2**-7, dtype=torch.float64)  # bfloat16 has 7 bits behind the first
    drawn = uniform_at(5, 0, len(values))
    found = round_stochastically(values, torch.bfloat16, drawn).double()
    assert set(found.tolist()) == {1.0, 1.0 + 2**-7}
    assert abs(float((found > 1).double().mean()) - 0.3) < 0.01
    exact = torch.tensor([0.0, -1.5, 2.0**-130, -(2.0**-133), 3.0e38], dtype=torch.bfloat16).double()
    assert torch.equal(round_stochastically(exact, torch.bfloat16, torch.rand(5).double()).double(), exact)
    negative = round_stochastically(-values, torch.bfloat16, drawn).double()
    assert set(negative.tolist()) == {-1.0, -1.0 - 2**-7}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        scattered = torch.randn(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        low, high = (round_stochastically(scattered, dtype, torch.full((10_000,), d)) for d in (1 - 1e-16, 0.0))
        assert bool((low.double() <= scattered).all()) and bool((high.double() >= scattered).all())
        steps = high.view(torch.int16 if high.element_size() == 2 else torch.int32).int()
        steps = steps - low.view(torch.int16 if low.element_size() == 2 else torch.int32).int()
        assert int(steps.abs().max()) == 1


def test_the_draw_belongs_to_the_place() -> None:
    whole = uniform_at(7, 0, 1000)
    for start, count in ((0, 1), (1, 5), (3, 1), (4, 8), (997, 3)):
        assert torch.equal(uniform_at(7, start, count), whole[start : start + count])
    assert not torch.equal(uniform_at(8, 0, 1000), whole)


def test_an_adapter_of_another_base_is_refused_by_its_lineage(stories: Path, tmp_path: Path) -> None:
    """Same shapes, other weights: only the digest tells."""
    model, other = (tiny.build("llama", tmp_path / name, seed=seed) for name, seed in (("model", 0), ("other", 1)))
    adapter = adapter_of(model, tmp_path / "one", 1, rank=2)
    for use in (
        lambda: fold(other, adapter, tmp_path / "out"),
        lambda: put_on(plain(other), other, adapter),
    ):
        with pytest.raises(SurgeonError, match="was made for model"):
            use()
    fold(other, adapter, tmp_path / "out", any_base=True)
    assert inspect_on_model(other, adapter)["relative_update"]["mlp.up"] > 0
    (adapter / "surgeon.json").unlink()
    fold(other, adapter, tmp_path / "without-lineage")


def test_wrong_weights_are_refused(stories: Path, tmp_path: Path) -> None:
    adapter = attach(stories, tmp_path / "adapter", rank=2)
    for add, message in (([f"{adapter}=half"], "not a weight"), ([f"{adapter}=inf"], "not finite")):
        with pytest.raises(UsageError, match=message):
            plan_fold(FoldSettings(model=f"{stories}+{adapter}", out=tmp_path / "out", add=add))


def test_a_sum_is_verified_by_folding_it_again(tmp_path: Path) -> None:
    from surgeon.verify import verify

    model = tiny.build("llama", tmp_path / "model")
    one = adapter_of(model, tmp_path / "one", 1, rank=4)
    two = adapter_of(model, tmp_path / "two", 2, rank=2)
    fold(model, one, tmp_path / "out", weight=0.25, add=[f"{two}=0.5"], rounding="stochastic", dtype="bfloat16")
    report = verify(tmp_path / "out", function=True)
    assert report["holds"], report


def test_what_was_trained_of_a_moved_adapter_is_trained(tmp_path: Path) -> None:
    model = tiny.build("llama", tmp_path / "model")
    fresh = attach(model, tmp_path / "fresh", rank=2)
    moved = trained(put_on(plain(model), model, fresh, trainable=True))
    assert all(p.requires_grad == ("lora_" in n) for n, p in moved.named_parameters())
