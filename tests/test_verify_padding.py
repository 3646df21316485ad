"""verify where new tokens took padding rows over which the parent itself would have said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import build

from surgeon.ops.execute import execute
from surgeon.verify import verify
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings

TEXT = "Haemoglobin carries oxygen; haemophilia is a disorder of clotting. The haematologist measured haemoglobin. "
GREEDY = "greedy text is the parent's"


@pytest.mark.parametrize("said", [True, False])
def test_a_padding_row_that_the_parent_says_is_no_old_text(stories: Path, tmp_path: Path, said: bool) -> None:
    """Zero rows win wherever all logits are negative, and no token of the parent is behind them."""
    model, out, text = build("llama", tmp_path / "model", vocab_size=520), tmp_path / "out", tmp_path / "text.txt"
    for path in stories.glob("tokenizer*"):
        shutil.copyfile(path, model / path.name)
    text.write_text(TEXT * 20, encoding="utf-8")
    tensors = load_file(model / "model.safetensors")
    rows = tensors["lm_head.weight"]
    # the second is the opposite of the first: where one loses, the other wins
    rows[512:514] = 20 * torch.stack([rows[5], -rows[5]]) if said else 0.01 * rows[5:7]
    rows[514:] = 0.0 if said else 0.01 * rows[7:13]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    settings = ExtendVocabSettings(
        model=str(model), out=out, corpus=[str(text)], add=12, init="convex_hull", use_padding=True
    )
    execute(plan_extend_vocab(settings), out)
    result = verify(out, function=True, data=[str(text)], parent=model)
    assert result["holds"], [c for c in result["checks"] if not c["holds"]]
    (detail,) = (c["detail"] for c in result["checks"] if c["check"] == GREEDY)
    expected = "0 of 0 prompts, 32 tokens each; 1 more go on with" if said else "1 of 1 prompts, 32 tokens each"
    assert detail.startswith(expected)
