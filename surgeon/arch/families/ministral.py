"""Ministral 8B: as Mistral, with kinds of attention by block."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="ministral",
    architectures=("MinistralForCausalLM",),
    parts=ATTENTION | GATED_MLP | PRE_NORMS,
    derived_lists=("layer_types",),
    plain_shapes=False,
)
