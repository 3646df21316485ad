"""CoDyRA: the hook beside a module with gates of its own; zero gates are columns that simplify-adapter drops."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import check_resume, cpt, same, weights
from torch import Tensor, nn

from surgeon.errors import SurgeonError, UsageError
from surgeon.train.hook import Hook, Run
from surgeon.train.meta.codyra import codyra, soft_threshold

BETAS, DECAY, LR = (0.9, 0.95), 0.1, 1e-2


def run_of(parameters: dict[str, nn.Parameter], total: int, seed: int = 0) -> Run:
    groups = [{"params": list(parameters.values()), "lr": LR, "weight_decay": DECAY}]
    optimizer = torch.optim.AdamW(groups, betas=BETAS)
    nothing: Any = None
    return Run(
        nothing, parameters, {}, optimizer, torch.device("cpu"), nothing, seed, total, 0, LR, nothing, nothing,
        forward=nothing, anchors=nothing,
    )  # fmt: skip


def stepped(run: Run, hook: Hook, step: int, loss: Callable[[], Tensor]) -> None:
    """As the loop does it."""
    loss().backward()
    hook.after_backward(step)
    hook.before_update(step)
    run.optimizer.step()
    run.optimizer.zero_grad()
    hook.after_update(step)


def test_the_hook_is_a_lora_with_gates_of_its_own() -> None:
    """Against autograd through B diag(w) A with torch's own AdamW, and the proximal step by hand."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 12), torch.randn(64, 10)
    a, b = torch.randn(4, 12) / 4, torch.randn(10, 4) / 4
    ours = {"m.lora_A.default.weight": nn.Parameter(a.clone()), "m.lora_B.default.weight": nn.Parameter(b.clone())}
    run = run_of(ours, total=60)
    hook = codyra(run, kappa=0.04, dense=0.25)
    theirs = [nn.Parameter(t.clone()) for t in (a, b, torch.ones(4))]
    plain = {"lr": LR, "betas": BETAS}
    reference = torch.optim.AdamW([
        {"params": theirs[:2], "weight_decay": DECAY} | plain, {"params": theirs[2:], "weight_decay": 0.0} | plain,
    ])  # fmt: skip
    zeros = set()
    for step in range(1, 61):
        own_a, own_b = ours.values()
        stepped(run, hook, step, lambda a=own_a, b=own_b: (x @ a.T @ b.T - y).square().mean())
        reference.zero_grad()
        (x @ theirs[0].T @ torch.diag(theirs[2]) @ theirs[1].T - y).square().mean().backward()
        reference.step()
        with torch.no_grad():
            w = theirs[2]
            k = 0.04 * max(0.0, step - 15) / 45
            w.copy_(torch.where(w > k, w - k, torch.where(w < -k, w + k, 0)))
        torch.testing.assert_close(own_a.detach(), theirs[0].detach(), rtol=0, atol=1e-5)
        torch.testing.assert_close(own_b.detach(), (theirs[1] * theirs[2]).detach(), rtol=0, atol=1e-5)
        assert hook.metrics()["codyra_ranks"] == int(theirs[2].count_nonzero())
        zeros.add(4 - int(theirs[2].count_nonzero()))
    assert max(zeros) > 0, "some gates did become zero"


def test_ranks_stay_where_a_shift_was_planted() -> None:
    """Two modules, a shift of rank 2 to be learned in one of them: the other one keeps nothing."""
    torch.manual_seed(0)
    target = torch.randn(10, 2) @ torch.randn(2, 12)
    parameters = {}
    for name in ("planted", "empty"):
        parameters[f"{name}.lora_A.default.weight"] = nn.Parameter(torch.randn(6, 12) / 12**0.5)
        parameters[f"{name}.lora_B.default.weight"] = nn.Parameter(torch.zeros(10, 6))
    run = run_of(parameters, total=600)
    hook = codyra(run, kappa=0.02, dense=0.5)

    def loss() -> Tensor:
        x = torch.randn(32, 12)
        planted, empty = (
            x @ parameters[f"{n}.lora_A.default.weight"].T @ parameters[f"{n}.lora_B.default.weight"].T
            for n in ("planted", "empty")
        )
        return (planted - x @ target.T).square().mean() + (empty - torch.randn(32, 10)).square().mean()

    for step in range(1, 601):
        stepped(run, hook, step, loss)
    live = {n: int(p.any(0).sum()) for n, p in parameters.items() if "lora_B" in n}
    assert live["planted.lora_B.default.weight"] >= 2
    assert live["empty.lora_B.default.weight"] == 0


def test_the_defaults_are_those_of_the_authors_code() -> None:
    """main.py: max_kappa 7e-4, dense_iters 0.5; one optimizer group, so gates learn at the rate of B."""
    parameters = inspect.signature(codyra).parameters
    assert {name: parameters[name].default for name in ("kappa", "dense", "rate")} == {
        "kappa": 7e-4, "dense": 0.5, "rate": 1.0
    }  # fmt: skip


def test_the_soft_threshold() -> None:
    found = soft_threshold(torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]), 1.0)
    assert found.tolist() == [-2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]


def test_a_kappa_of_0_is_the_plain_run_byte_for_byte(adapted: str, corpus: Path, tmp_path: Path) -> None:
    runs = [
        cpt(adapted, tmp_path / f"{len(meta)}", corpus, train="adapter", meta=meta)
        for meta in ([], ["codyra:kappa=0"])
    ]
    assert same(*runs)


@pytest.mark.parametrize(("start", "kappa"), [("ones", 0.38), ("normal", 0.3)])
def test_a_run_that_goes_on_ends_with_the_same_bytes(
    adapted: str, corpus: Path, tmp_path: Path, start: str, kappa: float
) -> None:
    """And its zero gates are ranks that simplify-adapter takes out; the model computes the same without them."""
    from surgeon.adapters.simplify import SimplifySettings, plan_simplify
    from surgeon.ops.execute import execute

    meta = [f"codyra:kappa={kappa},dense=0.3,start={start}"]
    out = check_resume(adapted, tmp_path, corpus, train="adapter", meta=meta)
    columns = [t.any(0) for n, t in weights(out).items() if ".lora_B." in n]
    live = sum(int(c.sum()) for c in columns)
    lines = [json.loads(x) for x in next((out / "surgeon").glob("metrics-*.jsonl")).read_text().splitlines()]
    assert 0 < lines[-1]["codyra_ranks"] == live < lines[0]["codyra_ranks"] == sum(len(c) for c in columns)
    smaller = tmp_path / "smaller"
    execute(plan_simplify(SimplifySettings(adapter=str(out), out=smaller)), smaller)
    held = weights(smaller)
    assert sum(t.shape[1] for n, t in held.items() if ".lora_B." in n) == live
    base = Path(adapted.split("+")[0])
    torch.testing.assert_close(logits(base, smaller), logits(base, out), rtol=0, atol=1e-5)


def logits(base: Path, adapter: Path) -> Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.arange(3, 20)[None]).logits
    return found


def test_what_has_no_ranks_is_refused(tiny: Callable[..., Path], adapted: str, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="no LoRA"):
        cpt(tiny("llama"), tmp_path / "out", corpus, meta=["codyra"])
    moved = cpt(adapted, tmp_path / "moved", corpus, train="adapter")
    with pytest.raises(SurgeonError, match="would change"):
        cpt(
            f"{adapted.split('+')[0]}+{moved}", tmp_path / "out", corpus, train="adapter", meta=["codyra:start=normal"]
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("behind", ["nexus", "reptile:every=1", "codyra"])
def test_what_would_act_behind_it_is_refused(adapted: str, corpus: Path, tmp_path: Path, behind: str) -> None:
    """With nexus behind it no B would move: all of them are zero at the start, and are put back there."""
    with pytest.raises(UsageError, match="would be lost"):
        cpt(adapted, tmp_path / "out", corpus, train="adapter", meta=["codyra:kappa=0.001", behind])
    assert not (tmp_path / "out").exists()


def test_it_sees_what_is_done_before_it(adapted: str, corpus: Path, tmp_path: Path) -> None:
    """Reptile that keeps nothing of a step leaves every B at zero, nexus moves them."""
    moved = []
    for before in ("reptile:every=1,eps=0", "nexus"):
        out = cpt(adapted, tmp_path / before[:5], corpus, train="adapter", meta=[before, "codyra:kappa=0.001"])
        moved.append(any(bool(t.any()) for n, t in weights(out).items() if ".lora_B." in n))
    assert moved == [False, True]


def test_a_denominator_of_nothing_is_refused(adapted: str, corpus: Path, tmp_path: Path) -> None:
    """The first gradient of a gate is zero, because B is: 0 / (0 + eps)."""
    with pytest.raises(UsageError, match="eps"):
        cpt(adapted, tmp_path / "out", corpus, train="adapter", meta=["codyra:eps=0"])
