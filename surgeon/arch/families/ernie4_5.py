"""ERNIE 4.5, dense."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="ernie4_5",
    architectures=("Ernie4_5ForCausalLM",),
    parts=ATTENTION | GATED_MLP | PRE_NORMS,
    tied=True,
    plain_shapes=False,
)
