"""expand-layers without a model object: no torch, little memory, at any size; and digests as if all were read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from surgeon.checkpoint.header import encode_header
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.tree_digest import weight_digests

Tiny = Callable[..., Path]
HEAVY = ("torch", "transformers", "tokenizers", "scipy", "mergekit", "peft", "huggingface_hub", "pandas", "matplotlib")
SCRIPT = """
import json, sys
from surgeon.cli.app import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert done.code == 0, done.code
from surgeon.ops.memory import peak_rss_bytes
print(json.dumps({"heavy": [m for m in HEAVY if m in sys.modules], "rss": peak_rss_bytes()}))
""".replace("HEAVY", repr(HEAVY))


def run(cache: Path, *words: str) -> dict[str, object]:
    env = os.environ | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "expand-layers", *words, "--quiet"], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout.split("\n")[-2])
    return result


@pytest.mark.parametrize(
    "words",
    [
        ("--add", "2"),
        ("--at", "1,3", "--fill", "zero", "--link"),
        ("--select", "range", "--option", "start=1", "--option", "stop=3", "--layout", "block", "--fill", "copy"),
    ],
)
def test_no_library_of_models_is_imported(stories: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert run(tmp_path / "cache", str(stories), str(tmp_path / "out"), *words)["heavy"] == []
    assert run(tmp_path / "cache", str(tmp_path / "out"), str(tmp_path / "again"), *words)["heavy"] == []


@pytest.mark.parametrize("family", ["gemma2", "olmo3", "qwen2", "smollm3", "mixtral", "qwen3_moe", "gpt2", "gpt_neox"])
def test_nor_for_other_families_with_old_configurations(tiny: Tiny, tmp_path: Path, family: str) -> None:
    """Constants of post-norms, and lists by block that an old config.json leaves to its class."""
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny(family, dtype="bfloat16").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text())
    for key in ("layer_types", "no_rope_layers"):
        config.pop(key, None)
    (model / "config.json").write_text(json.dumps(config))
    assert run(tmp_path / "cache", str(model), str(tmp_path / "out"), "--add", "2")["heavy"] == []
    out = Checkpoint.open(tmp_path / "out")
    assert out.lineage is not None and out.lineage.initial
    found = weight_digests(out.shards)
    assert {s.name: d.digest for s, d in zip(out.shards, found, strict=True)} == {
        name: digest for name, digest in out.lineage.files.items() if name.endswith(".safetensors")
    }


def test_memory_stays_small_at_any_size(tmp_path: Path) -> None:
    """A Llama of 0.7 GB (its file is a hole, which is read as any other bytes) needs less than 100 MB."""
    model, width, blocks = tmp_path / "model", 2048, 4
    model.mkdir()
    shapes = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width, width),
        "self_attn.v_proj": (width, width),
    }
    shapes |= {"self_attn.o_proj": (width, width), "mlp.gate_proj": (5504, width), "mlp.up_proj": (5504, width)}
    shapes |= {"mlp.down_proj": (width, 5504)}
    norms = ("input_layernorm", "post_attention_layernorm")
    entries = [("model.embed_tokens.weight", "BF16", (32000, width)), ("lm_head.weight", "BF16", (32000, width))]
    for block in range(blocks):
        prefix = f"model.layers.{block}."
        entries += [(f"{prefix}{part}.weight", "BF16", shape) for part, shape in shapes.items()]
        entries += [(f"{prefix}{norm}.weight", "BF16", (width,)) for norm in norms]
    entries.append(("model.norm.weight", "BF16", (width,)))
    header = encode_header(entries, {})
    size = len(header) + sum(2 * s[0] * (s[1] if len(s) > 1 else 1) for _, _, s in entries)
    with (model / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(size)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": width, "vocab_size": 32000,
        "intermediate_size": 5504, "num_hidden_layers": blocks, "num_attention_heads": 16,
    }  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    assert size > 650_000_000
    result = run(tmp_path / "cache", str(model), str(tmp_path / "out"), "--add", "2")
    assert result["heavy"] == [] and result["rss"] < 100_000_000  # type: ignore[operator]
    out = tmp_path / "out" / "model.safetensors"
    assert out.stat().st_size > size and out.stat().st_blocks * 512 < 1_000_000
    (kept,) = [
        json.loads(p.read_text())
        for p in (tmp_path / "cache").glob("**/*.json")
        if str(out.stat().st_size) in p.read_text()
    ]
    assert kept["digest"] == weight_digests([out])[0].digest
