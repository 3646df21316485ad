"""OSF: what it protects is where it was, in float64, after Adam with weight decay; nothing protected is AdamW."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import check_new_rows, check_resume, cpt, same, weights
from torch import Tensor, nn

from surgeon.errors import SurgeonError, UsageError
from surgeon.train.optimizers.osf import Osf, adaptive_ratios
from surgeon.train.settings import CptSettings

Tiny = Callable[..., Path]
BOUND = 4 * 2.0**-24  # of the norm of a matrix, as the docstring of `osf` says


def drift(before: Tensor, after: Tensor, rank: int) -> tuple[float, float, float]:
    """How far U_h^T W, W V_h^T and U_h^T W V_h^T moved, in parts of the norm of W; float64."""
    before, after = before.double(), after.double()
    left, _, right = torch.linalg.svd(before, full_matrices=False)
    left, right = left[..., :rank].mT, right[..., :rank, :].mT
    moved = after - before
    found = (left @ moved, moved @ right, left @ moved @ right)
    return tuple(float(t.norm() / after.norm()) for t in found)  # type: ignore[return-value]


def in_blocks(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name, t in tensors.items() if ".layers." in name and t.ndim >= 2]


@pytest.mark.parametrize(("shape", "rank"), [((48, 32), 16), ((32, 48), 3), ((32, 32), 31), ((3, 24, 16), 8)])
@pytest.mark.parametrize("protect", ["space", "block"])
def test_a_thousand_steps_of_adam_with_decay(shape: tuple[int, ...], rank: int, protect: str) -> None:
    """Gradients that point into the protected space, a large rate: the rounding of the steps does not add up."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(shape) * 0.2)
    start, pull = p.detach().clone(), torch.randn(shape)
    groups = [{"params": [p], "names": ["w"], "lr": 1e-2, "weight_decay": 0.1}]
    optimizer = Osf(groups, (0.9, 0.95), 1e-8, lambda: {"w": rank / min(shape[-2:])}, protect)
    for _ in range(1000):
        p.grad = pull + torch.randn(shape)
        optimizer.step()
    by_left, by_right, by_both = drift(start, p.detach(), rank)
    assert by_both < BOUND
    assert (p.detach() - start).norm() > 0.4 * start.norm(), "what is not protected has gone far"
    if protect == "space":
        assert by_left < BOUND and by_right < BOUND
    else:
        assert by_left > 0.01 and by_right > 0.01


def test_a_run_leaves_the_protected_space_where_it_was(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    model = tiny("llama")
    chosen = {"optimizer": "osf:keep_ratio=0.5", "weight_decay": 0.1, "tokens": 1280}
    before, after = weights(model), weights(cpt(model, tmp_path / "osf", corpus, **chosen))
    plain = weights(cpt(model, tmp_path / "adamw", corpus, **chosen | {"optimizer": "adamw"}))
    names = in_blocks(before)
    assert len(names) == 3 * 7
    for name in names:
        rank = min(before[name].shape) // 2
        assert max(drift(before[name], after[name], rank)) < BOUND
        assert min(drift(before[name], plain[name], rank)) > 0.01, "AdamW moves it"
        assert (before[name] - after[name]).norm() > 0.01 * before[name].norm()
    assert all(not torch.equal(before[n], after[n]) for n in before), "embeddings and norms are trained, too"


@pytest.mark.parametrize("meta", ["reptile:every=2", "nexus", "proximal_l2:strength=10"])
def test_what_moves_a_matrix_as_a_whole_behind_the_step_keeps_the_space(
    tiny: Tiny, corpus: Path, tmp_path: Path, meta: str
) -> None:
    model = tiny("llama")
    before = weights(model)
    after = weights(cpt(model, tmp_path / "osf", corpus, optimizer="osf:keep_ratio=0.5", meta=[meta]))
    for name in in_blocks(before):
        assert max(drift(before[name], after[name], min(before[name].shape) // 2)) < BOUND
        assert not torch.equal(before[name], after[name])


def test_what_moves_each_element_by_itself_is_refused(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    """It would leave the space again: by 6e-4 of the norm in six steps of this run."""
    meta = [f"proximal_ewc:probe={corpus},strength=1000"]
    model = tiny("llama")
    for optimizer in ("osf", "osf:keep_ratio=0.5", f"coso:history={tmp_path / 'past'}"):
        with pytest.raises(UsageError, match="moves each element by itself"):
            cpt(model, tmp_path / "out", corpus, optimizer=optimizer, meta=meta)
    for number, optimizer in enumerate(("osf:keep_ratio=0", "coso:rank=2,sketch=4", "adamw")):  # these hold nothing
        cpt(model, tmp_path / f"out{number}", corpus, optimizer=optimizer, meta=meta)


def test_a_ratio_of_0_is_adamw_byte_for_byte(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    model = tiny("llama", "bfloat16", tie_word_embeddings=True)
    runs = [cpt(model, tmp_path / o[:5], corpus, optimizer=o) for o in ("adamw", "osf:keep_ratio=0")]
    assert same(*runs)


def test_a_ratio_of_1_leaves_the_matrices_alone(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    model = tiny("llama")
    before = weights(model)
    after = weights(cpt(model, tmp_path / "out", corpus, optimizer="osf:keep_ratio=1"))
    assert [n for n in before if torch.equal(before[n], after[n])] == in_blocks(before)


def test_a_rate_of_0_leaves_its_tensors_alone(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    model = tiny("llama")
    out = cpt(model, tmp_path / "out", corpus, optimizer="osf:keep_ratio=0.5", group=["mlp:lr=0"])
    before, after = weights(model), weights(out)
    assert {n for n in before if torch.equal(before[n], after[n])} == {n for n in before if ".mlp." in n}


@pytest.mark.parametrize(
    "options", ["keep_ratio=0.5", "mrr=0.2,trr=0.6", "keep_ratio=1", "keep_ratio=0.3,protect=block"]
)
def test_a_run_that_goes_on_ends_with_the_same_bytes(tiny: Tiny, corpus: Path, tmp_path: Path, options: str) -> None:
    check_resume(tiny("llama"), tmp_path, corpus, optimizer=f"osf:{options}", train=r"layers\.[12]\.|embed")


def test_ranks_follow_the_cosines_of_the_blocks(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    from surgeon.train.block_cosine import block_cosines
    from surgeon.train.job import prepare

    model = tiny("llama")
    options: dict[str, Any] = {"optimizer": "osf:mrr=0.2,trr=0.6", "keep_state": True}
    cpt(model, tmp_path / "out", corpus, **options)
    state = torch.load(next((tmp_path / "out.run" / "state").iterdir()))["optimizer"]
    ranks = {n: k for g in state["param_groups"] for n, k in zip(g["names"], g["ranks"], strict=True)}
    job = prepare(
        CptSettings(model=str(model), out=str(tmp_path / "o"), data=[str(corpus)], tokens=384, seq_len=16,
                    batch_tokens=64, device="cpu")
    )  # fmt: skip
    ratios = adaptive_ratios(block_cosines(job), 0.2, 0.6)
    assert sum(ratios) / 3 == pytest.approx(0.6) and len(set(ratios)) == 3
    for name, parameter in job.model.named_parameters():
        inside = ".layers." in name and parameter.ndim == 2
        assert ranks[name] == (int(ratios[int(name.split(".")[2])] * min(parameter.shape)) if inside else 0)


def test_cosines_are_those_that_the_selector_io_cosine_sees(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    from surgeon.arch.family import family_of
    from surgeon.checkpoint.index import Checkpoint
    from surgeon.data.pack import IGNORED
    from surgeon.expand.selectors.io_cosine import cosines
    from surgeon.expand.stack import Stack
    from surgeon.train.batch import by_segment, collate
    from surgeon.train.block_cosine import block_cosines
    from surgeon.train.job import prepare

    model = tiny("llama")
    job = prepare(
        CptSettings(model=str(model), out=str(tmp_path / "o"), data=[str(corpus)], tokens=64, seq_len=16,
                    batch_tokens=64, micro_batch=3, device="cpu")
    )  # fmt: skip
    found = block_cosines(job)
    batch = by_segment(collate(job.data.mixture.batch(0), job.device))
    by_row, _ = cosines(Stack(job.model, family_of(Checkpoint.open(model))), batch.ids, batch.labels)
    expected = by_row.sum(0) / (batch.labels != IGNORED).sum()
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=1e-6, atol=0)


def test_ratios_by_hand() -> None:
    assert adaptive_ratios([0.5, 0.5], 0.1, 0.8) == pytest.approx([0.8, 0.8])
    assert adaptive_ratios([0.9, 0.3], 0.1, 0.8) == pytest.approx([1.0, 0.1 + 0.5 * 0.7])  # 1.15 is at most 1
    assert adaptive_ratios([1.0, -0.5], 0.1, 0.8)[1] == 0.1
    with pytest.raises(SurgeonError, match="points away"):
        adaptive_ratios([0.1, -0.2], 0.1, 0.8)


def test_fused_experts_are_matrices_of_their_own(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    model = tiny("qwen3_moe", **sizes)
    out = cpt(model, tmp_path / "out", corpus, optimizer="osf:keep_ratio=0.5", lr=1e-3)
    before, after = weights(model), weights(out)
    experts = [n for n in before if ".experts." in n]
    assert len(experts) == 3 * 4 * 3
    for name in experts:
        if "down" in name:  # gate and up are one matrix while they are trained
            assert drift(before[name], after[name], 12)[2] < BOUND
            assert not torch.equal(before[name], after[name])


def test_new_rows_alone_move(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    check_new_rows(tiny("llama"), tmp_path, corpus, optimizer="osf:keep_ratio=0.5")


def test_an_adapter_is_refused(adapted: str, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="an adapter has none to keep"):
        cpt(adapted, tmp_path / "out", corpus, optimizer="osf", train="adapter")
    assert not (tmp_path / "out").exists()
