"""OLMo 1: norms without parameters, so the checkpoint holds none."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, Declaration

FAMILY = Declaration(
    model_type="olmo",
    architectures=("OlmoForCausalLM",),
    parts=ATTENTION | GATED_MLP,
    final_norm=None,
)
