"""Arcee (AFM): as Llama, with an MLP without a gate."""

from surgeon.arch.declaration import ATTENTION, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="arcee",
    architectures=("ArceeForCausalLM",),
    parts=ATTENTION | PRE_NORMS | {"mlp.down_proj": "mlp.down", "mlp.up_proj": "mlp.up"},
    plain_shapes=False,
)
