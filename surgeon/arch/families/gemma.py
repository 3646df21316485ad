"""Gemma 1: as Llama, gains stored as (gain - 1), scaled embeddings."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="gemma",
    architectures=("GemmaForCausalLM",),
    parts=ATTENTION | GATED_MLP | PRE_NORMS,
    tied=True,
    plain_shapes=False,
)
