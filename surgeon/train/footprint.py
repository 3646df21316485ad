"""How much memory a training run takes, by item."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import nn

from surgeon.train.linear_loss import chunk_tokens
from surgeon.train.trainable import block_prefix

if TYPE_CHECKING:
    from surgeon.train.job import Job

_CHANGE_LOGITS = ("logit_scale", "lm_head_multiplier", "logits_scaling", "final_logit_softcapping")


def memory_bytes(job: Job, *, checkpointed: bool = False) -> dict[str, int]:
    """An estimate by part. Weights: float32. Training: gradient of what is trained and what the optimizer keeps (two
    moments in float32, unless it declares STATE_BYTES). Activations: of one micro-batch, 16 hidden and 4 intermediate
    vectors a block with a graph, 2 where blocks are compiled, which make the others again (checkpointed: one hidden
    vector, and one block in full); logits: of what is made at a time, with their gradient, and what the head's own
    takes. Copies: of the blocks' trained matrices in the type of the products, which autocast holds from a block's
    pass to the end of the loss, checkpointed or not (what compiled blocks took on a GPU is met without them, and of
    several processes each gathers in that type). What methods keep: a copy of the trained tensors for each name in
    their modules' KEEPS (one for all that share it); a teacher of its own. Of one process, where several share the
    model."""
    config = job.model.config.get_text_config()
    tokens = job.shape.micro_batch * job.shape.seq_len
    lowest = config.num_hidden_layers if job.trainable.lowest_block is None else job.trainable.lowest_block
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    inner = inner if isinstance(inner, int) else max(inner)  # one for each block
    width = 4 if str(job.dtype) == "torch.float32" else 2
    with_graph = config.num_hidden_layers - lowest
    block = (16 * config.hidden_size + (2 if job.compiles else 4) * inner) * width
    held = with_graph * config.hidden_size * width + min(1, with_graph) * block if checkpointed else with_graph * block
    state = job.chosen["optimizer"][0][0].trait("STATE_BYTES", 8)
    parts = {
        "weights": 4 * sum(p.numel() for p in job.model.parameters()) // job.world.size,
        "training": (4 + state) * sum(p.numel() for p in job.trainable.parameters.values()) // job.world.size,
        "activations": tokens * held,
        "logits": _logits(job, tokens, config, width),
    }
    if width == 2 and not job.compiles and job.world.size == 1:
        inside = block_prefix(job.model)
        matrices = [p for n, p in job.trainable.parameters.items() if n.startswith(inside) and p.ndim >= 2]
        parts["copies"] = width * sum(p.numel() for p in matrices)
    own = {"anchors"} if job.other is not None else set()  # a teacher of its own needs no copies
    kept = {n for m, _ in job.chosen["objective"] for n in m.trait("KEEPS", ())} - own
    if kept and job.world.size > 1:  # the teacher's head, while the student's is gathered
        parts["logits"] += config.vocab_size * config.hidden_size * width
    kept |= {n for kind in ("regularizer", "meta") for m, _ in job.chosen[kind] for n in m.trait("KEEPS", ())}
    if kept:
        parts["kept"] = 4 * len(kept) * sum(p.numel() for p in job.trainable.parameters.values()) // job.world.size
    if job.other is not None:
        parts["teacher"] = 4 * sum(math.prod(t.shape) for t in job.other.checkpoint.tensors.values())
    return parts | {"total": sum(parts.values())}


def _logits(job: Job, tokens: int, config: Any, width: int) -> int:
    vocab, supplied = config.vocab_size, set(job.chosen["objective"][0][0].supplied)
    if supplied & {"logits", "hidden_states"} or not _loss_in_head(job.model, config):
        return tokens * vocab * (8 + width)
    narrow = job.compiles and "nats" in supplied and width == 2
    tokens = min(tokens, chunk_tokens(vocab, job.device, narrow=narrow))
    found = tokens * vocab * (2 * width if narrow else 8 + width)
    weight = job.model.get_output_embeddings().weight
    # the weight in the type of the products; its gradient, and that times the loss's own
    return found + weight.numel() * (width + (8 if weight.requires_grad else 0))


def _loss_in_head(model: Any, config: Any) -> bool:
    """What the configuration lets expect of `head_of`, which asks the model."""
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        return False
    return all(getattr(config, name, None) in (None, 1, 1.0) for name in _CHANGE_LOGITS)
