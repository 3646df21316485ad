"""Helium 1."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="helium",
    architectures=("HeliumForCausalLM",),
    parts=ATTENTION | GATED_MLP | PRE_NORMS,
    plain_shapes=False,
)
