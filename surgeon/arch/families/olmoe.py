"""OLMoE: experts in every block."""

from surgeon.arch.declaration import ATTENTION, EXPERTS, PRE_NORMS, QK_NORMS, Declaration

FAMILY = Declaration(
    model_type="olmoe",
    architectures=("OlmoeForCausalLM",),
    parts=ATTENTION | QK_NORMS | EXPERTS | PRE_NORMS,
    plain_shapes=False,
)
