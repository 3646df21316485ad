"""Mistral 7B and its successors; the sliding window is the same in every block."""

from surgeon.arch.declaration import ATTENTION, GATED_MLP, PRE_NORMS, Declaration

FAMILY = Declaration(
    model_type="mistral",
    architectures=("MistralForCausalLM",),
    parts=ATTENTION | GATED_MLP | PRE_NORMS,
)
