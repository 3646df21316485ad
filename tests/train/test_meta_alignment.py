"""The probe's cosine is that of two gradients taken by hand, and a run with it ends with the same bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgeon.errors import SurgeonError, UsageError
from surgeon.train.gradient import ahead, gradient
from surgeon.train.job import prepare
from surgeon.train.loop import Loop
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

Tiny = Callable[..., Path]


@pytest.fixture
def general(tmp_path: Path) -> Path:
    path = tmp_path / "general.jsonl"
    texts = ("Water is wet, and the sun is hot.", "A king had three sons who could not read.", "Birds sing at dawn.")
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return path


def settings(model: Path, corpus: Path, **changes: Any) -> CptSettings:
    options: dict[str, Any] = {
        "out": str(corpus.parent / "out"), "data": [str(corpus)], "tokens": 384, "seq_len": 16, "batch_tokens": 64,
        "lr": 1e-2, "device": "cpu",
    }  # fmt: skip
    return CptSettings(model=str(model), **options | changes)


def replayed(general: Path) -> dict[str, Any]:
    return {"replay": [str(general)], "replay_ratio": 0.3}


def test_the_cosine_is_that_of_the_gradients(tiny: Tiny, corpus: Path, general: Path) -> None:
    loop = Loop(prepare(settings(tiny("llama"), corpus, meta=["alignment:rows=3"], **replayed(general))))
    vectors = []
    for stream in (1, 0):
        source = loop.job.data.sources[stream].packed
        windows = [source.window(number) for number in range(3)]
        loop.run_view.loss(windows).backward()
        grads = [p.grad.double().flatten() for p in loop.parameters.values() if p.grad is not None]
        vectors.append(torch.cat(grads))
        loop.optimizer.zero_grad()
    found = loop._step(1, loop.job.data.mixture.batch(0)).extra
    one, two = vectors
    assert found["alignment"] == pytest.approx(float(one @ two / one.norm() / two.norm()), rel=1e-5)
    assert found["alignment_general_norm"] == pytest.approx(float(one.norm()), rel=1e-5)
    assert found["alignment_domain_norm"] == pytest.approx(float(two.norm()), rel=1e-5)
    assert found["alignment_chance"] == 1 / math.sqrt(one.numel())


def test_two_probes_on_one_corpus_point_the_same_way(tiny: Tiny, corpus: Path) -> None:
    """Within rounding: g and g."""
    word = f"alignment:general={corpus},domain=again={corpus}"
    loop = Loop(prepare(settings(tiny("llama"), corpus, meta=[word])))
    assert loop._step(1, loop.job.data.mixture.batch(0)).extra["alignment"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("train", ["full", r"layers\.2\."])
def test_a_run_with_the_probe_has_the_bytes_of_one_without(
    tiny: Tiny, corpus: Path, general: Path, tmp_path: Path, train: str
) -> None:
    model = tiny("llama", "bfloat16", attention_dropout=0.1)
    outputs = []
    for number, meta in enumerate(([], ["alignment:every=2"], [f"alignment:every=1,rows=5,general={general}"])):
        made = settings(
            model, corpus, meta=meta, out=str(tmp_path / f"o{number}"), train=train, regularize=["l2_to_base"],
            **replayed(general),
        )  # fmt: skip
        outputs.append(Path(run_cpt(made).out))
    plain, *others = [(o / "model.safetensors").read_bytes() for o in outputs]
    assert others == [plain, plain]
    lines = [json.loads(x) for x in next((outputs[1] / "surgeon").glob("metrics-*")).read_text().splitlines()]
    assert [line["step"] for line in lines if "alignment" in line] == [1, 3, 5]
    assert all(-1 <= line["alignment"] <= 1 for line in lines if "alignment" in line)


def test_gradients_are_put_back_also_where_the_probe_fails(tiny: Tiny, corpus: Path) -> None:
    loop = Loop(prepare(settings(tiny("llama"), corpus)))
    windows = loop.job.data.mixture.batch(0)
    loop.run_view.loss(windows[:1]).backward()
    before = {n: p.grad for n, p in loop.parameters.items()}
    bits = {n: g.clone() for n, g in before.items() if g is not None}
    random = torch.get_rng_state()
    loop.job.model.eval()
    with pytest.raises(ZeroDivisionError), gradient(loop.run_view, windows):
        raise ZeroDivisionError
    assert all(p.grad is before[n] for n, p in loop.parameters.items())
    assert all(torch.equal(before[n], bits[n]) for n in bits)
    assert torch.equal(torch.get_rng_state(), random) and not loop.job.model.training


def test_micro_batches_make_one_gradient(tiny: Tiny, corpus: Path) -> None:
    model, found = tiny("llama"), []
    for micro in (4, 1):
        loop = Loop(prepare(settings(model, corpus, micro_batch=micro)))
        with gradient(loop.run_view, loop.job.data.mixture.batch(0)) as held:
            found.append({n: g.clone() for n, g in held.items()})
    for name in found[0]:
        assert torch.allclose(found[0][name], found[1][name], rtol=1e-5, atol=1e-6 * float(found[0][name].abs().max()))


def test_the_next_windows_of_each_kind(tiny: Tiny, corpus: Path, general: Path) -> None:
    """Those that the batches from the step on hold, in order, and no others."""
    loop = Loop(prepare(settings(tiny("llama"), corpus, **replayed(general))))
    mixture = loop.job.data.mixture
    for step, replay in ((1, True), (4, True), (4, False)):
        held = [w for k in range(step - 1, step + 9) for w in mixture.batch(k)]
        expected = [w.ids.tolist() for w in held if w.replay is replay][:5]
        assert [w.ids.tolist() for w in ahead(loop.run_view, step, 5, replay=replay)] == expected


def test_more_windows_than_the_run_is_long_are_refused(tiny: Tiny, corpus: Path, general: Path) -> None:
    loop = Loop(prepare(settings(tiny("llama"), corpus, **replayed(general))))
    with pytest.raises(SurgeonError, match="90 windows of replay are wanted from step 1 on") as error:
        ahead(loop.run_view, 1, 90, replay=True)
    assert "fewer rows" in error.value.hint


def test_without_general_text_there_is_nothing_to_compare_and_nothing_is_left(tiny: Tiny, corpus: Path) -> None:
    with pytest.raises(UsageError, match="no general text"):
        run_cpt(settings(tiny("llama"), corpus, meta=["alignment"]))
    assert not list(corpus.parent.glob("out*"))
    with pytest.raises(UsageError, match="no general text"):
        Loop(prepare(settings(tiny("llama"), corpus, meta=["alignment"], replay=[f"g={corpus}"], replay_ratio=0)))


def test_a_corpus_that_changed_is_another_run(tiny: Tiny, corpus: Path, general: Path, tmp_path: Path) -> None:
    made = settings(tiny("llama"), corpus, meta=[f"alignment:general={general}"], keep_state=True)
    run_cpt(made)
    (tmp_path / "out.run").rename(tmp_path / "two.run")
    general.write_text(general.read_text() + '{"text": "One more."}\n')
    with pytest.raises(SurgeonError, match=r"this changed: meta .*, probes"):
        run_cpt(made.model_copy(update={"out": str(tmp_path / "two"), "resume": True}))


def test_force_does_not_replace_the_corpus_of_a_probe(tiny: Tiny, corpus: Path, general: Path) -> None:
    folder = general.parent / "holds"
    folder.mkdir()
    held = general.rename(folder / "general.jsonl")
    with pytest.raises(SurgeonError, match="corpus"):
        run_cpt(settings(tiny("llama"), corpus, meta=[f"alignment:general={held}"], out=str(folder)), force=True)
    assert held.is_file()
