"""OPT: learned positions; the 350M model, which normalises the sum after each branch, is refused."""

from surgeon.arch.declaration import Declaration

FAMILY = Declaration(
    model_type="opt",
    architectures=("OPTForCausalLM",),
    parts={
        "fc1": "mlp.up",
        "fc2": "mlp.down",
        "final_layer_norm": "norm",
        "self_attn.k_proj": "attention.k",
        "self_attn.out_proj": "attention.o",
        "self_attn.q_proj": "attention.q",
        "self_attn.v_proj": "attention.v",
        "self_attn_layer_norm": "norm",
    },
    base="model.decoder.",
    final_norm="final_layer_norm",
    tied=True,
    position="embed_positions",
    outside={"model.decoder.project_in.weight": "other", "model.decoder.project_out.weight": "other"},
    refuse_unless={"do_layer_norm_before": (True, "the sum is normalised behind each branch, so no branch is silent")},
    plain_shapes=False,
)
