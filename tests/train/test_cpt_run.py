"""A run end to end: what is trained moves, what is not stays byte for byte, and the output is a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import BlockMap, Lineage, NewBlock, NewRow, Parent, RowMap, dump_lineage
from surgeon.checkpoint.reader import read, to_bytes
from surgeon.train import export
from surgeon.train.describe import describe_cpt
from surgeon.train.run import CptResult, run_cpt
from surgeon.train.settings import CptSettings

Tiny = Callable[..., Path]


def cpt(model: Path | str, corpus: Path, **changes: Any) -> tuple[CptResult, Path]:
    out = Path(corpus).parent / changes.pop("out", "trained")
    options: dict[str, Any] = {"tokens": 192, "seq_len": 16, "batch_tokens": 64, "lr": 1e-2, "device": "cpu"}
    settings = CptSettings(model=str(model), out=str(out), data=(str(corpus),), **(options | changes))
    return run_cpt(settings), out


def changed(before: Path, after: Path) -> set[str]:
    """Names of the tensors whose bytes differ; names, types and shapes must not."""
    a, b = Checkpoint.open(before).tensors, Checkpoint.open(after).tensors
    assert {n: (t.dtype, t.shape) for n, t in a.items()} == {n: (t.dtype, t.shape) for n, t in b.items()}
    return {n for n in a if to_bytes(read(a[n])) != to_bytes(read(b[n]))}


def loads(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_full_run(tiny: Tiny, corpus: Path, dtype: str) -> None:
    model = tiny("llama", dtype, tie_word_embeddings=True)
    result, out = cpt(model, corpus, eval=(f"own={corpus}",), eval_every=2, replay=(f"old={corpus}",))
    assert changed(model, out) == set(Checkpoint.open(model).tensors)
    loads(out)
    assert (out / "config.json").read_bytes() == (model / "config.json").read_bytes()
    assert (out / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert not out.with_name("trained.run").exists()
    lines = [json.loads(x) for x in next((out / "surgeon").glob("metrics-*.jsonl")).read_text().splitlines()]
    assert [x["step"] for x in lines] == [0, 1, 2, 3]
    assert lines[3]["tokens"] == 192 == result.tokens
    assert lines[3]["loss"] == result.final_loss < lines[1]["loss"]
    assert [e["step"] for e in result.eval] == [0, 2, 3]
    assert result.eval[-1]["bits_per_byte"] < result.eval[0]["bits_per_byte"]
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.kind == "training" and lineage.training is not None
    assert [(d["name"], d["share"]) for d in lineage.training["data"]] == [("texts", 0.95), ("old", 0.05)]
    assert str(corpus.parent) not in (out / "surgeon.json").read_text()
    assert result.to_json().keys() >= {"plan_digest", "verified", "tokens_per_second", "mfu", "bytes_written"}


def test_a_second_run_adds_its_metrics(tiny: Tiny, corpus: Path) -> None:
    _, first = cpt(tiny("llama"), corpus, tokens=64)
    _, second = cpt(first, corpus, tokens=64, out="again")
    assert len(list((second / "surgeon").glob("metrics-*.jsonl"))) == 2


def test_only_the_named_tensors_move(tiny: Tiny, corpus: Path) -> None:
    model = tiny("llama", "bfloat16")
    _, out = cpt(model, corpus, train=r"layers\.1\.mlp\.down_proj", weight_decay=0.5)
    assert changed(model, out) == {"model.layers.1.mlp.down_proj.weight"}


def test_bfloat16_arithmetic_keeps_float32_master_weights(tiny: Tiny, corpus: Path) -> None:
    model = tiny("llama")
    result, out = cpt(model, corpus, dtype="bfloat16", lr=1e-4, tokens=640)
    plain, _ = cpt(model, corpus, lr=1e-4, tokens=640, out="plain")
    assert result.final_loss == pytest.approx(plain.final_loss, rel=2e-2)
    assert changed(model, out) == set(Checkpoint.open(model).tensors)  # updates far below bfloat16's resolution


def test_no_learning_rate_no_change(tiny: Tiny, corpus: Path) -> None:
    model = tiny("qwen3", "bfloat16")
    _, out = cpt(model, corpus, lr=0.0)
    assert changed(model, out) == set()


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_that_the_library_fuses_keep_their_names(tiny: Tiny, corpus: Path, family: str) -> None:
    model = tiny(
        family, "bfloat16", num_local_experts=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
    )
    assert any(".experts.0." in name for name in Checkpoint.open(model).tensors)
    _, out = cpt(model, corpus, train=r"layers\.1\.")
    assert changed(model, out) == {n for n in Checkpoint.open(model).tensors if ".layers.1." in n}
    loads(out)


def test_the_index_counts_as_before(tiny: Tiny, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output's index says what the input's says, which save_pretrained wrote."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny("llama")).save_pretrained(tmp_path / "m", max_shard_size="40KB")
    for path in tiny("llama").glob("tokenizer*"):
        shutil.copy(path, tmp_path / "m")
    before = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert before["metadata"]["total_parameters"] > 0
    monkeypatch.setattr(export, "DEFAULT_SHARD_BYTES", 40_000)
    _, out = cpt(tmp_path / "m", corpus)
    found = json.loads((out / "model.safetensors.index.json").read_text())
    assert found["metadata"] == before["metadata"]
    assert found["weight_map"].keys() == before["weight_map"].keys()


def test_a_bare_gpt2_with_old_buffers(tiny: Tiny, corpus: Path) -> None:
    """Old GPT-2 checkpoints have no `transformer.` prefix and hold their causal masks."""
    from safetensors.torch import load_file, save_file

    model = tiny("gpt2")
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(model / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    _, out = cpt(model, corpus)
    assert changed(model, out) == set(tensors) - {"h.0.attn.bias"}


def test_a_head_stored_beside_its_tied_embedding_follows(tiny: Tiny, corpus: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny("llama", tie_word_embeddings=True)
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    _, out = cpt(model, corpus)
    after = load_file(out / "model.safetensors")
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(after["lm_head.weight"], tensors["lm_head.weight"])


def _with_lineage(model: Path, **record: Any) -> Path:
    """A surgery, and a training run behind it: the sets look through the latter."""
    surgery = Lineage(operation="surgery", kind="surgery", **record)
    parent = Parent(role="model", name="x", path="../x", digest="sha256:0", lineage=surgery)
    (model / "surgeon.json").write_text(dump_lineage(Lineage(operation="cpt", kind="training", parents=[parent])))
    return model


def test_new_rows_move_and_old_ones_do_not(tiny: Tiny, corpus: Path) -> None:
    new = [300, 511]
    rows = RowMap(
        old=510, rows=512, new=[NewRow(id=i, token="x", pieces=[5]) for i in new], method="m", method_output="m"
    )
    model = _with_lineage(tiny("llama", "bfloat16"), rows=rows)
    _, out = cpt(model, corpus, train="new-rows", weight_decay=0.9)
    assert changed(model, out) == {"model.embed_tokens.weight", "lm_head.weight"}
    before, after = Checkpoint.open(model).tensors, Checkpoint.open(out).tensors
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        moved = (read(before[name]) != read(after[name])).any(1)
        assert set(torch.nonzero(moved).flatten().tolist()) <= set(new)


def test_new_blocks_with_their_own_rates(tiny: Tiny, corpus: Path) -> None:
    from surgeon.train.job import prepare

    fill = NewBlock(block=2, source=1, fill="norm_gain", lr_multipliers={"post_attention_layernorm": 0.25})
    blocks = BlockMap(source=[0, 1, 1], new=[fill])
    model = _with_lineage(tiny("llama"), blocks=blocks)
    _, out = cpt(model, corpus, train="new-blocks")
    assert changed(model, out) == {n for n in Checkpoint.open(model).tensors if ".layers.2." in n}
    job = prepare(
        CptSettings(model=str(model), out=str(out) + "2", data=(str(corpus),), tokens=64, train="new-blocks")
    )
    assert job.trainable.lowest_block == 2
    assert job.trainable.multipliers == {"model.layers.2.post_attention_layernorm.weight": 0.25}
    rates = {g["lr"] for g in job.optimizer().param_groups}
    assert rates == {1e-4, 0.25e-4}
    job.model.train()
    hidden = job.model.model.layers[1](
        torch.ones(1, 2, 32), position_embeddings=(torch.ones(1, 2, 8), torch.zeros(1, 2, 8))
    )
    assert not hidden.requires_grad  # no graph below the lowest trained block


def test_an_adapter(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base, adapter = tiny("llama", "bfloat16"), tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"])).save_pretrained(adapter)
    result, out = cpt(f"{base}+{adapter}", corpus, train="adapter")
    before, after = load_file(adapter / "adapter_model.safetensors"), load_file(out / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert {before[n].dtype for n in before} == {after[n].dtype for n in after}
    assert not any(torch.equal(before[n], after[n]) for n in before if "lora_B" in n)
    assert result.tensors == len(before)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out)
    assert [p.role for p in (Lineage.model_validate_json((out / "surgeon.json").read_text())).parents] == [
        "model",
        "adapter",
    ]


def test_instruction_records_learn_answers_only(tiny: Tiny, questions: Path) -> None:
    result, _ = cpt(tiny("llama"), questions, seq_len=64, batch_tokens=128, tokens=512, eval=(f"q={questions}",))
    assert result.eval[-1]["nats_per_token"] < result.eval[0]["nats_per_token"]


def test_the_packed_loss_is_that_of_the_documents(tiny: Tiny, corpus: Path) -> None:
    """One step over one epoch: the mean over all targets, as transformers gives it document by document."""
    from surgeon.train.job import prepare
    from surgeon.train.loop import Loop

    model = tiny("llama")
    options: dict[str, Any] = {"tokens": 64, "seq_len": 64, "packing": "whole", "lr": 0.0}
    job = prepare(
        CptSettings(model=str(model), out=str(model) + "-out", data=(str(corpus),), batch_tokens=64, **options)
    )
    held = job.data.sources[0].packed
    windows = [held.window(k) for k in range(round(held.tokens.num_tokens / held.tokens_per_window))]
    loss = float(Loop(job)._step(1, windows).loss)
    nats = count = 0.0
    for begin, stop in zip(held.tokens.offsets, held.tokens.offsets[1:], strict=False):
        ids = torch.tensor(held.tokens.ids[begin:stop], dtype=torch.int64)[None]
        with torch.no_grad():
            nats += float(job.model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert loss == pytest.approx(nats / count, rel=1e-6)


def test_the_pull_to_the_base_is_zero_there_and_holds_back(tiny: Tiny, corpus: Path) -> None:
    model = tiny("llama")
    distances = []
    for strength in (0.0, 50.0):
        _, out = cpt(
            model, corpus, regularize=("l2_to_base",), option={"strength": strength}, out=f"o{strength}",
            weight_decay=0.0, tokens=640, clip=0.0,
        )  # fmt: skip
        before, after = Checkpoint.open(model).tensors, Checkpoint.open(out).tensors
        distances.append(sum(float((read(after[n]) - read(before[n])).square().sum()) for n in before))
    assert distances[1] < distances[0]


def test_a_description_says_what_is_trained_and_what_it_costs(tiny: Tiny, corpus: Path) -> None:
    model = tiny("llama", tie_word_embeddings=True)
    options: dict[str, Any] = {"seq_len": 16, "batch_tokens": 64, "tokens": "1k"}
    full = describe_cpt(CptSettings(model=str(model), out=str(model) + "-o", data=(str(corpus),), **options))
    assert (full["steps"], full["tokens"]) == (16, 1024)
    matrices = sum(p for n, p in _sizes(model) if "layers" in n) + 512 * 32
    assert full["flops_per_token"] == 6 * matrices + 12 * 3 * 4 * 8 * 16  # 6 N + 12 L n_h d_h s
    top = describe_cpt(
        CptSettings(model=str(model), out=str(model) + "-o", data=(str(corpus),), train=r"layers\.2\.", **options)
    )
    assert top["lowest_trained_block"] == 2
    assert top["flops_per_token"] < 0.6 * full["flops_per_token"]
    assert not Path(str(model) + "-o").exists()


def _sizes(model: Path) -> list[tuple[str, int]]:
    tensors = Checkpoint.open(model).tensors.values()
    return [(t.name, t.shape[0] * t.shape[1]) for t in tensors if len(t.shape) == 2]


def test_the_result_says_what_was_lost_on_the_way(tiny: Tiny, corpus: Path) -> None:
    """Of the same numbers as "eval"; with a learning rate of 0 nothing is lost, exactly."""
    from surgeon.measure.stability import of_evaluations
    from surgeon.operations import perform

    options: dict[str, Any] = {"tokens": 192, "seq_len": 16, "batch_tokens": 64, "device": "cpu", "eval_every": 1}
    for name, lr in (("moved", 0.5), ("still", 0.0)):
        settings = CptSettings(
            model=str(tiny("llama")), out=str(corpus.parent / name), data=[str(corpus)], lr=lr,
            eval=[f"own={corpus}"], **options,
        )  # fmt: skip
        found = perform("cpt", settings)
        assert found["stability"] == of_evaluations(found["eval"]) and found["stability"][0]["name"] == "own"
        assert (found["stability"][0]["depth"] > 0) == (lr > 0)
