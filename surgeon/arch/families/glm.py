"""GLM-4 9B as first released: gate and up in one matrix."""

from surgeon.arch.declaration import ATTENTION, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="glm",
    architectures=("GlmForCausalLM",),
    parts=ATTENTION | PRE_NORMS | {"mlp.down_proj": "mlp.down", "mlp.gate_up_proj": "mlp.gate_up"},
    plain_shapes=False,
)
