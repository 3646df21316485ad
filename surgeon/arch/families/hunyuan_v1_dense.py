"""HunYuan, dense: norms on queries and keys behind the rotation."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="hunyuan_v1_dense",
    architectures=("HunYuanDenseV1ForCausalLM",),
    parts=ATTENTION | GATED_MLP | PRE_NORMS | {"self_attn.key_layernorm": "norm", "self_attn.query_layernorm": "norm"},
    plain_shapes=False,
)
