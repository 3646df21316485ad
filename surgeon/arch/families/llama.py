"""Llama 1 to 3 and the many models that use its class."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="llama",
    architectures=("LlamaForCausalLM",),
    parts=ATTENTION | GATED_MLP | PRE_NORMS,
)
