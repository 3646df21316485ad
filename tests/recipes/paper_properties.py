"""What the method of each paper promises, shown on its recipe carried out at the scale tiny."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from recipe_run import TEXTS, Ran, differ, double, same_but_rounding
from safetensors.torch import load_file

from surgeon.checkpoint.lineage import read_lineage
from surgeon.recipe import load, recipes_dir, stage_settings
from surgeon.train.settings import CptSettings
from surgeon.verify import verify


def old_blocks(ran: Ran, deeper: str, trained: str) -> None:
    """Every tensor of the base is in the trained model, byte for byte; a new block has moved."""
    lineage = read_lineage(ran.out(deeper))
    assert lineage is not None and lineage.blocks is not None
    new = {b.block for b in lineage.blocks.new}
    base, held = ran.tensors("base"), ran.tensors(trained)
    places = [n for n in range(len(lineage.blocks.source)) if n not in new]
    assert len(places) == 5
    for name, tensor in base.items():
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            parts[2] = str(places[int(parts[2])])
        assert torch.equal(tensor, held[".".join(parts)]), name
    assert all(held[f"model.layers.{n}.{w}.weight"].any() for n in new for w in ("self_attn.o_proj", "mlp.down_proj"))


def llama_pro(ran: Ran) -> None:
    assert ran.config("pro")["num_hidden_layers"] == 5 + 2
    assert verify(ran.out("deep"), function=True, data=[str(TEXTS / "general.valid.jsonl")])["holds"]
    old_blocks(ran, "deep", "pro")


def adept(ran: Ran) -> None:
    lineage = read_lineage(ran.out("deep"))
    assert lineage is not None and lineage.blocks is not None and lineage.blocks.probe is not None
    least = min(lineage.blocks.probe.scores, key=lambda s: s.score)
    assert [b.source for b in lineage.blocks.new] == [least.block]
    old_blocks(ran, "deep", "adept")
    lines = ran.lines("adept")
    assert all(line["decoupled_min"] == line["decoupled_max"] == 1 for line in lines[:4])
    assert all(line["decoupled_min"] == 0 and line["decoupled_max"] == 2 for line in lines[4:]) and len(lines) > 4


def solar(ran: Ran) -> None:
    source = [0, 1, 2, 3, 1, 2, 3, 4]
    base, stack = ran.tensors("base"), ran.tensors("stack")
    for place, block in enumerate(source):
        name = "mlp.up_proj.weight"
        assert torch.equal(stack[f"model.layers.{place}.{name}"], base[f"model.layers.{block}.{name}"])
    assert ran.config("solar")["num_hidden_layers"] == len(source)
    loss = {m["model"]: m["corpora"][0]["nats_per_token"] for m in ran.result("table")["models"]}
    assert loss["base"] < loss["solar"] < loss["stack"]  # no identity, and training gives some of it back


def yi_9b(ran: Ran) -> None:
    lineage = read_lineage(ran.out("deep"))
    assert lineage is not None and lineage.blocks is not None and lineage.blocks.source == [0, 1, 2, 3, 2, 3, 4]
    for stage in ("like_before", "more_code"):
        assert set(ran.rates(stage)) == {1e-3}
    seen = [0, *(line["tokens"] for line in ran.lines("like_before"))]
    batches = [b - a for a, b in itertools.pairwise(seen)]
    assert batches == sorted(batches) and set(batches) == {128, 256, 512}


def finance_instruct_merge(ran: Ran) -> None:
    base, instruct, domain, merged = (ran.tensors(n) for n in ("base", "instruct", "domain", "merged"))
    for name, tensor in base.items():
        exact = double(tensor) + (double(domain[name]) - double(tensor)) + (double(instruct[name]) - double(tensor))
        assert same_but_rounding(merged[name], exact), name
    assert differ(merged, domain) and differ(merged, instruct)


def instruction_residual(ran: Ran) -> None:
    base, instruct, domain, merged = (ran.tensors(n) for n in ("base", "instruct", "domain", "merged"))
    for name, tensor in base.items():
        exact = double(domain[name]) + (double(instruct[name]) - double(tensor))
        assert same_but_rounding(merged[name], exact), name
    assert differ(merged, domain) and differ(merged, instruct)


def buehler_slerp(ran: Ran) -> None:
    instruct, tuned, merged = (ran.tensors(n) for n in ("instruct", "tuned", "merged"))
    attention, mlp = "model.layers.{}.self_attn.q_proj.weight", "model.layers.{}.mlp.up_proj.weight"
    for name, whose in (
        (attention.format(0), instruct),
        (attention.format(4), tuned),
        (mlp.format(0), tuned),
        (mlp.format(4), instruct),
    ):
        assert torch.equal(merged[name], whose[name]) and not torch.equal(instruct[name], tuned[name]), name
    assert not torch.equal(merged[attention.format(2)], instruct[attention.format(2)])


def h2loop_rslora(ran: Ran) -> None:
    config = json.loads((ran.out("trained") / "adapter_config.json").read_text())
    assert config["r"] == 16 and config["use_rslora"] and config["lora_alpha"] == 16
    adapter = load_file(ran.out("trained") / "adapter_model.safetensors")
    base, folded = ran.tensors("base"), ran.tensors("folded")
    touched = set()
    for key, a in adapter.items():
        if ".lora_A." in key:
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            touched.add(name)
            b = adapter[key.replace("lora_A", "lora_B")]
            exact = double(base[name]) + 16 / math.sqrt(16) * (double(b) @ double(a))
            assert same_but_rounding(folded[name], exact) and not torch.equal(folded[name], base[name]), name
    assert len(touched) == 5 * 7
    assert all(torch.equal(folded[name], base[name]) for name in base if name not in touched)


def rewarm(ran: Ran) -> None:
    rates = ran.rates("rewarmed")
    assert rates.index(max(rates)) == 1 and max(rates) == 1e-3  # a quarter of eight steps
    assert rates[0] == 0.5e-3 and rates[-1] == 0.1 * 1e-3 and rates[1:] == sorted(rates[1:], reverse=True)


def infinite_lr(ran: Ran) -> None:
    peak, level = 1e-3, 0.55 * 1e-3
    first = ran.rates("one")
    assert max(first) == peak and first[0] == peak and first[-1] == level  # one step of warm-up out of twenty
    assert first.count(level) >= 17 and first[:3] == sorted(first[:3], reverse=True)
    assert set(ran.rates("two")) == set(ran.rates("three")) == {level}  # nothing is re-warmed
    fall = ran.rates("annealed")
    assert fall == sorted(fall, reverse=True) and fall[0] < level and fall[-1] == 0.1 * peak
    assert differ(ran.tensors("annealed"), ran.tensors("three"))


def curriculum_averaging(ran: Ran) -> None:
    held = ran.result("averaged")["checkpoints"]
    weights = [0.32768, 0.08192, 0.1024, 0.128, 0.16, 0.2]
    assert np.allclose([c["weight"] for c in held], weights, rtol=1e-12, atol=0)
    assert [c["step"] for c in held] == [2, 4, 6, 8, 10, 12]
    models = [load_file(Path(c["path"]) / "model.safetensors") for c in held]
    averaged = ran.tensors("averaged")
    for name, tensor in averaged.items():
        exact = sum(c["weight"] * double(m[name]) for c, m in zip(held, models, strict=True))
        assert same_but_rounding(tensor, np.asarray(exact)), name
    rates = ran.rates("ordered")
    assert rates[-1] == 1e-3 / 3 and max(rates) == 1e-3


def mer(ran: Ran) -> None:
    for stage in ("french", "german"):
        lines = ran.lines(stage)
        assert [line["step"] for line in lines if "reptile_distance" in line] == [4, 8]
        assert all(line["reptile_distance"] > 0 for line in lines if "reptile_distance" in line)
        assert lines[-1]["lr"] == 0.22727 * 1e-3 and max(line["lr"] for line in lines) == 1e-3
        # a quarter of all tokens on top of the 3,000 new ones, in whole batches
        assert lines[-1]["step"] == 8 == math.ceil(3000 / 0.75 / 512)


def mix_cpt(ran: Ran) -> None:
    """The loss of the first step is the cross-entropy, which a run without the teacher has, and a KL above zero."""
    from surgeon.train.run import run_cpt

    stage = load(recipes_dir() / "mix-cpt.yaml", ["scale=tiny"]).recipe.stages["knowledge"]
    settings = stage_settings(stage, lambda name: str(ran.base)) | {
        "objective": "next_token",
        "tokens": 512,
        "eval": [],
    }
    run_cpt(CptSettings(**settings, out=str(ran.folder / "plain")))
    plain = next((ran.folder / "plain" / "surgeon").glob("metrics-*.jsonl")).read_text().splitlines()
    entropy = next(line["loss"] for line in map(json.loads, plain) if line["step"] == 1)
    assert ran.lines("knowledge")[0]["loss"] > entropy + 0.01
    assert differ(ran.tensors("aligned"), ran.tensors("knowledge"))


def osf(ran: Ran) -> None:
    """At least floor(mrr * 64) = 6 of a matrix's largest directions stand still on both sides; the matrix moves."""
    for before, after in (("base", "one"), ("one", "two")):
        start, end = ran.tensors(before), ran.tensors(after)
        for name, tensor in start.items():
            if ".q_proj." not in name:
                continue
            w, moved = double(tensor), double(end[name]) - double(tensor)
            left, _, right = np.linalg.svd(w)
            bound = 4 * 2.0**-23 * np.linalg.norm(w)
            assert np.linalg.norm(left[:, :6].T @ moved) <= bound, name
            assert np.linalg.norm(moved @ right[:6].T) <= bound, name
            assert np.linalg.norm(moved) > 100 * bound, name


def long_context(ran: Ran) -> None:
    for stage in ("reach", "long"):
        config = ran.config(stage)
        assert config["max_position_embeddings"] == 1024 and config["rope_parameters"]["rope_theta"] == 500_000
    assert not differ(ran.tensors("base"), ran.tensors("reach")) and differ(ran.tensors("base"), ran.tensors("long"))
    assert verify(ran.out("reach"), function=True)["holds"]
    by_position = ran.result("table")["models"][0]["corpora"][0]["by_position"]
    assert by_position["buckets"][-1]["stop"] == 256


def sequential_merge(ran: Ran) -> None:
    models = [ran.tensors(n) for n in ("base", "one", "two", "three")]
    for count, name in ((2, "after_one"), (3, "after_two"), (4, "after_three")):
        weights = [0.5 ** (count - 1), *(0.5 ** (count - i) for i in range(1, count))]
        assert sum(weights) == 1
        merged = ran.tensors(name)
        for key in merged:
            exact = sum(w * double(m[key]) for w, m in zip(weights, models[:count], strict=True))
            assert same_but_rounding(merged[key], np.asarray(exact)), (name, key)
    peaks = [max(ran.rates(stage)) for stage in ("one", "two", "three")]
    assert peaks == sorted(peaks, reverse=True) and peaks[0] > 1.5 * peaks[1] > 1.5 * peaks[2]


PROPERTIES: dict[str, Callable[[Ran], None]] = {
    f.__name__.replace("_", "-"): f
    for f in (
        adept, buehler_slerp, curriculum_averaging, finance_instruct_merge, h2loop_rslora, infinite_lr,
        instruction_residual, llama_pro, long_context, mer, mix_cpt, osf, rewarm, sequential_merge, solar, yi_9b,
    )
}  # fmt: skip
