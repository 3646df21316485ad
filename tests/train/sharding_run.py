"""What is gathered while a block runs: python -m torch.distributed.run --nproc-per-node 2 sharding_run.py OUT"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from surgeon.train.blocks import blocks_of
from surgeon.train.head import head_of
from surgeon.train.parallel import world_of


def gathered(model: Any) -> dict[str, list[bool]]:
    """Of the embeddings, the second block's own tensors and the head: in the forward pass and on the way back."""
    seen: dict[str, list[bool]] = {"embeddings": [], "block": [], "head": []}
    parts = {
        "embeddings": model.model.embed_tokens,
        "block": model.model.layers[1].mlp.up_proj,
        "head": model.get_output_embeddings(),
    }

    def look(*_: Any) -> None:
        for name, part in parts.items():
            seen[name].append(not isinstance(part.weight, DTensor))

    handles = [
        model.model.layers[1].mlp.register_forward_pre_hook(look),
        model.model.layers[1].mlp.register_full_backward_hook(look),
    ]
    ids = torch.arange(8)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    for handle in handles:
        handle.remove()
    return seen


def main(target: Path) -> None:
    torch.set_num_threads(1)
    world, _ = world_of("cpu")
    found = {}
    for tied in (False, True):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=96, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
            tie_word_embeddings=tied,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        world.shard(model, blocks_of(model), torch.float32)
        found[f"{tied}"] = gathered(model) | {"loss in the head": head_of(model) is model.get_output_embeddings()}
    if world.is_main:
        target.write_text(json.dumps(found))
    world.close()


main(Path(sys.argv[1]))
