"""Granite 3: as Llama, with multipliers on embeddings, attention, branches and logits."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="granite",
    architectures=("GraniteForCausalLM",),
    parts=ATTENTION | GATED_MLP | PRE_NORMS,
    plain_shapes=False,
)
