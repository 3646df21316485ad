"""Nemotron and Minitron: layer norms that multiply by 1 + gain, an MLP without a gate."""

from surgeon.arch.declaration import ATTENTION, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="nemotron",
    architectures=("NemotronForCausalLM",),
    parts=ATTENTION | PRE_NORMS | {"mlp.down_proj": "mlp.down", "mlp.up_proj": "mlp.up"},
    plain_shapes=False,
)
