"""A model with places for new rows is the model that transformers makes when the rows are really added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgeon.errors import SurgeonError
from surgeon.loading import load_model
from surgeon.vocab.extended import extended

FAMILIES = ["llama", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi3", "olmo2", "qwen3_moe"]
NUM = 97  # rows of the tiny models


def loaded(folder: Path) -> Any:
    return load_model(folder, device=torch.device("cpu"), dtype=torch.float32).requires_grad_(False)


def rows(width: int, seed: int) -> torch.Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("first", [NUM, NUM - 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_model_with_the_rows_added(tiny: Callable[..., Path], family: str, first: int) -> None:
    folder, new = tiny(family), list(range(first, first + 5))
    text = torch.tensor([[5, new[0], 9, new[4], new[1], 30, 31], [new[2], new[3], 7, 8, 8, new[0], 1]])
    reference = loaded(folder)
    reference.resize_token_embeddings(first + 5, mean_resizing=False)
    given = rows(reference.get_input_embeddings().weight.shape[1], 1), rows(32, 2)
    tied = reference.get_input_embeddings().weight is reference.get_output_embeddings().weight
    with torch.no_grad():
        reference.get_input_embeddings().weight[first:] = given[0]
        reference.get_output_embeddings().weight[first:] = given[0 if tied else 1]
        expected = reference(text).logits
    model = loaded(folder)
    with extended(model, new, "here") as found:
        assert (found.old_input is found.old_output) == tied
        found.set(given[0], given[0 if tied else 1])
        with torch.no_grad():
            torch.testing.assert_close(found.logits(text), expected, rtol=1e-5, atol=1e-5)
            hidden, logits = found.both(text)
            assert torch.equal(hidden, found.hidden(text))
            assert torch.equal(logits, found.logits(text))


def test_gradients_are_those_of_the_rows_added(tiny: Callable[..., Path]) -> None:
    folder, new = tiny("gemma2"), list(range(NUM, NUM + 5))
    text = torch.tensor([[5, new[0], 9, new[4], new[0], 30, 31]])
    reference = loaded(folder)
    reference.resize_token_embeddings(NUM + 5, mean_resizing=False)
    weight, given = reference.get_input_embeddings().weight, rows(32, 1).requires_grad_()
    with torch.no_grad():
        weight[NUM:] = given
    weight.requires_grad_()
    reference(text, labels=text).loss.backward()
    model = loaded(folder)
    with extended(model, new, "here") as found:
        found.set(given, given)
        logits = found.logits(text)[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).backward()
    assert weight.grad is not None and given.grad is not None
    torch.testing.assert_close(given.grad, weight.grad[NUM:], rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_model_is_afterwards_as_it_was(tiny: Callable[..., Path]) -> None:
    model = loaded(tiny("llama"))
    text = torch.tensor([[5, 6, 7]])
    modules = model.get_input_embeddings(), model.get_output_embeddings()
    with torch.no_grad():
        before = model(text).logits
        with pytest.raises(ZeroDivisionError), extended(model, [NUM, NUM + 1], "here") as found:
            found.set(rows(32, 1)[:2], rows(32, 2)[:2])
            raise ZeroDivisionError
        assert torch.equal(model(text).logits, before)
    assert model.get_input_embeddings() is modules[0]
    assert model.get_output_embeddings() is modules[1]


def test_a_bias_of_the_head_goes_with_the_rows() -> None:
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    model = PhiForCausalLM(
        PhiConfig(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    model.requires_grad_(False)
    with extended(model, [40, 41], "here") as found:
        assert found.old_bias is model.lm_head.old.bias
        found.set(found.old_input[3:5], found.old_output[3:5], torch.tensor([7.0, -7.0]))
        logits = found.logits(torch.tensor([[1, 2, 40]]))[0]
        expected = logits[:, 3:5] - found.old_bias[3:5] + torch.tensor([7.0, -7.0])
        torch.testing.assert_close(logits[:, 40:], expected)


def test_a_model_that_treats_some_rows_in_its_own_way_is_refused(tiny: Callable[..., Path]) -> None:
    model = loaded(tiny("llama"))
    forward = model.forward

    def other(input_ids: torch.Tensor, **options: Any) -> Any:
        found = forward(input_ids=input_ids, **options)
        found.logits[..., NUM:] *= 2
        return found

    model.forward = other
    with pytest.raises(SurgeonError, match="do not pass through LlamaForCausalLM as old ones do"):  # noqa: SIM117
        with extended(model, [NUM, NUM + 1], "here"):
            pass
    model.set_output_embeddings(torch.nn.Sequential(model.get_output_embeddings()))
    with pytest.raises(SurgeonError, match="no embedding and linear head"):  # noqa: SIM117
        with extended(model, [NUM], "here"):
            pass
