"""What is written down of an architecture: names as they stand in its checkpoints, roles, per-block configuration.

Names are relative to `base` ("model.") except `head`. A part is a module inside a block without its leaf
("mlp.down_proj", of which ".weight" and ".bias" are leaves); `{n}` stands for an expert's number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
# the roles of what a block adds to the residual stream
WRITING_ROLES = ("attention.o", "mlp.down", "moe.expert.down")


@dataclass(frozen=True)
class Declaration:
    """One model_type of transformers.

    tied: what the configuration class takes for tie_word_embeddings where config.json does not say.
    post_norms: part -> the gain at which the norm gives zero (0, or -1 where the model multiplies by 1 + gain).
    derived_lists: per-block lists that the configuration class derives from the block's index where absent.
    index_lists: keys that hold block numbers. boundaries: keys that hold a number of leading blocks; its list key
    (in `derived_lists`) takes precedence in transformers. sparse_step: "every n-th block has experts".
    buffers: names inside a block that old checkpoints hold and that models do not read.
    refuse_if: configuration key -> why a true value makes a block depend on its number.
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
    derived_lists: tuple[str, ...] = ()
    index_lists: tuple[str, ...] = ()
    boundaries: Mapping[str, str] = field(default_factory=dict)
    sparse_step: bool = False
    buffers: tuple[str, ...] = ("self_attn.rotary_emb.inv_freq",)
    refuse_if: Mapping[str, str] = field(default_factory=dict)
