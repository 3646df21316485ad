"""What is written down of an architecture: names as they stand in its checkpoints, roles, per-block configuration.

Names are relative to `base` ("model.") except `head`. A part is a module inside a block without its leaf
("mlp.down_proj", of which ".weight" and ".bias" are leaves); `{n}` stands for an expert's number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# roles of parts that many families share, by the names they have there
ATTENTION: dict[str, str] = {
    "self_attn.q_proj": "attention.q",
    "self_attn.k_proj": "attention.k",
    "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.o",
}
GATED_MLP: dict[str, str] = {
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.down",
}
QK_NORMS: dict[str, str] = {"self_attn.q_norm": "norm", "self_attn.k_norm": "norm"}
PRE_NORMS: dict[str, str] = {"input_layernorm": "norm", "post_attention_layernorm": "norm"}
# experts, one matrix each as most checkpoints hold them, or those of a block in one tensor as transformers 5 does
EXPERTS: dict[str, str] = {
    "mlp.gate": "moe.router",
    "mlp.experts.{n}.gate_proj": "moe.expert.gate",
    "mlp.experts.{n}.up_proj": "moe.expert.up",
    "mlp.experts.{n}.down_proj": "moe.expert.down",
    "mlp.experts.gate_up_proj": "moe.expert.gate_up",
    "mlp.experts.down_proj": "moe.expert.down",
}
# experts that every token passes
SHARED_EXPERTS: dict[str, str] = {
    "mlp.shared_experts.gate_proj": "moe.shared.gate",
    "mlp.shared_experts.up_proj": "moe.shared.up",
    "mlp.shared_experts.down_proj": "moe.shared.down",
}
# compressed queries, keys and values
LATENT_ATTENTION: dict[str, str] = {
    "self_attn.q_proj": "attention.q",
    "self_attn.q_a_proj": "attention.q_a",
    "self_attn.q_a_layernorm": "norm",
    "self_attn.q_b_proj": "attention.q_b",
    "self_attn.kv_a_proj_with_mqa": "attention.kv_a",
    "self_attn.kv_a_layernorm": "norm",
    "self_attn.kv_b_proj": "attention.kv_b",
    "self_attn.o_proj": "attention.o",
}
# the roles of what a block adds to the residual stream
WRITING_ROLES = ("attention.o", "mixer.out", "mlp.down", "moe.expert.down", "moe.shared.down")


@dataclass(frozen=True)
class Branches:
    """How the branches of one block end. post_norms: part -> the stored gain at which the norm silences its branches.
    bare: the writers (part patterns) whose output is added to the residual stream as it is."""

    post_norms: Mapping[str, float]
    bare: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declaration:
    """One model_type of transformers.

    tied: what the configuration class takes for tie_word_embeddings where config.json does not say.
    post_norms: part -> the gain at which the norm gives zero (0, or -1 where the model multiplies by 1 + gain), of
    norms behind every branch of every block. branches: by block, where some branches end in a norm and others do not.
    derived_lists: per-block lists that the configuration class derives from the block's index where absent.
    index_lists: keys that hold block numbers. boundaries: keys that hold a number of leading blocks; its list key
    (in `derived_lists`) takes precedence in transformers. sparse_step: "every n-th block has experts".
    buffers: names inside a block that old checkpoints hold and that models do not read.
    refuse_if: configuration key -> why a true value makes a block depend on its number.
    refuse_unless: configuration key -> the only value (or absence) at which a block does not, and why.
    last_blocks: keys that hold the number of the last block of a kind.
    defaults: what the class takes for such keys where config.json does not name them, if that is not "none".
    depth_scales: keys that the model divides by the root of its depth. neutral: part -> the value at which it leaves
    what passes through a block as it is (a factor on the block's whole output).
    outside: names of further tensors outside of the blocks -> role. derived: by `surgeon.arch.generic`, so that an
    operation on the blocks has to prove it. plain_shapes: the matrices have the sizes that their roles say.
    """

    model_type: str
    architectures: tuple[str, ...]
    parts: Mapping[str, str]
    base: str = "model."
    base_optional: bool = False
    blocks: str = "layers."
    embedding: str = "embed_tokens"
    head: str = "lm_head"
    final_norm: str | None = "norm"
    position: str | None = None
    depth_key: str = "num_hidden_layers"
    tied: bool = False
    transposed: bool = False
    post_norms: Mapping[str, float] = field(default_factory=dict)
    branches: tuple[Branches, ...] = ()
    derived_lists: tuple[str, ...] = ()
    index_lists: tuple[str, ...] = ()
    boundaries: Mapping[str, str] = field(default_factory=dict)
    sparse_step: bool = False
    buffers: tuple[str, ...] = ("self_attn.rotary_emb.inv_freq",)
    refuse_if: Mapping[str, str] = field(default_factory=dict)
    refuse_unless: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    last_blocks: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    depth_scales: tuple[str, ...] = ()
    neutral: Mapping[str, float] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)
    derived: bool = False
    plain_shapes: bool = True
