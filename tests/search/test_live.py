"""The live model at any weights is the model that the merge with these weights writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from search_models import expanded, extended, loaded, logits, opened, parameters, tensors, trained, written
from test_merge_inputs import with_adapter
from test_rows_by_token import CHAT, reserved, with_chat, words

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.merge.plan import align, plan_merge
from surgeon.search.scores import live_model

ONE = [(0.0,), (1.0,), (0.37,), (1.25,), (-0.4,), (0.0,)]
TWO = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.7, 0.9), (0.0, 0.6), (1.25, -0.3), (0.7, 0.9)]


def same_everywhere(
    base: Path, add: Sequence[str | Path], tmp_path: Path, points: Sequence[Sequence[float]], **settings: Any
) -> Any:
    """Every parameter and logit, bit by bit, in this order in one model; gives it."""
    live, vectors, asked = opened(base, add, tmp_path / "none", **settings)
    for number, weights in enumerate(points):
        live.at(vectors.weights(weights))
        model = loaded(written(vectors, asked, weights, tmp_path / f"at{number}"))
        found, expected = parameters(live.model), parameters(model)
        assert found.keys() == expected.keys()
        different = [name for name in found if not torch.equal(found[name], expected[name])]
        assert not different, (weights, different)
        assert torch.equal(logits(live.model), logits(model))
    return live.model


def test_one_model_and_a_tied_head_that_stays_tied(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1)
    model = same_everywhere(stories, [instruct], tmp_path, ONE)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, tensors(stories)["model.embed_tokens.weight"])  # the last point is 0


def test_weights_0_and_1_are_the_models_themselves(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1)
    live, _, _ = opened(stories, [instruct], tmp_path / "none")
    for weight, folder in ((1.0, instruct), (0.0, stories)):
        live.at([weight])
        expected = tensors(folder)
        assert all(torch.equal(p, expected[name]) for name, p in live.model.named_parameters())


def test_a_deeper_target_with_an_instruct_delta(stories: Path, tmp_path: Path) -> None:
    deep = expanded(stories, tmp_path / "deep", [1, 4])
    domain = trained(deep, tmp_path / "domain", 3)
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    same_everywhere(stories, [instruct, domain], tmp_path, TWO)


@pytest.mark.parametrize("new_blocks", ["none", "source"])
def test_a_deeper_target_with_more_tokens_and_a_scale(stories: Path, tmp_path: Path, new_blocks: str) -> None:
    wide = words(expanded(stories, tmp_path / "deep", [2]), tmp_path / "wide", ["dragonfly", "windmill"])
    domain = trained(wide, tmp_path / "domain", 3)
    instruct = trained(stories, tmp_path / "instruct", 1)
    points = [(0.0, 0.0), (1.0, 0.0), (0.7, 0.9)]
    same_everywhere(stories, [instruct, domain], tmp_path, points, new_blocks=new_blocks, scale=0.9)


def test_new_rows_computed_from_a_table(stories: Path, tmp_path: Path) -> None:
    """Their reference is computed in float64: the live model begins at it rounded to float32."""
    domain = trained(extended(stories, tmp_path / "wide", 6, 4), tmp_path / "domain", 3)
    live, vectors, asked = opened(stories, [domain], tmp_path / "none")
    for number, weight in enumerate((0.0, 1.0, 0.4)):
        live.at([weight])
        found = logits(live.model)
        expected = logits(loaded(written(vectors, asked, [weight], tmp_path / f"at{number}")))
        assert torch.equal(found, expected) if weight in (0, 1) else (found - expected).abs().max() <= 1e-5
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_the_residual_onto_a_domain_model(stories: Path, tmp_path: Path) -> None:
    domain = trained(expanded(stories, tmp_path / "deep", [1]), tmp_path / "domain", 3)
    instruct = trained(stories, tmp_path / "instruct", 1)
    same_everywhere(stories, [instruct], tmp_path, ONE, method="residual", onto=str(domain))


def test_weights_that_are_given_are_kept(stories: Path, tmp_path: Path) -> None:
    first, second, third = (trained(stories, tmp_path / f"m{n}", n) for n in (1, 2, 3))
    same_everywhere(stories, [first, f"{second}=0.7", third], tmp_path, [(0.0, 0.0), (1.0, 0.0), (0.3, -0.2)])


def test_what_is_stored_in_bfloat16_is_rounded_so(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1)
    model = same_everywhere(stories, [instruct], tmp_path, ONE, dtype="bfloat16")
    held = dict(model.named_parameters())
    assert all(torch.equal(p, p.bfloat16().float()) for p in held.values())


def test_a_head_of_its_own_for_the_output(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    untied = trained(stories, tmp_path / "untied", 2, lineage=False)
    held = tensors(untied)
    save_file(held | {"lm_head.weight": held["model.embed_tokens.weight"] * 1.1}, untied / "model.safetensors")
    path = untied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": False}))
    model = same_everywhere(stories, [instruct, untied], tmp_path, TWO[:4], untie=True)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3_text", "phi3", "mixtral", "qwen3_moe"])
def test_families_that_the_library_renames_fuses_or_ties(
    family: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny(family)
    one, other = (trained(base, tmp_path / f"m{n}", n) for n in (1, 2))
    same_everywhere(base, [one, other], tmp_path, [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.7, 0.4)])


def test_rows_of_special_tokens_follow_the_weights_as_in_the_merge(stories: Path, tmp_path: Path) -> None:
    """Taken whole from the instruct model where both count, merged where one does."""
    base, instruct, domain = reserved(stories, tmp_path)
    points = [(0.5, 0.8), (0.0, 0.8), (0.5, 0.0), (-0.2, 0.8), (0.5, 0.8), (0.0, 0.0), (0.5, -0.2)]
    first = min([instruct, domain], key=lambda folder: Checkpoint.open(folder).digest)
    points = points if first == instruct else [(b, a) for a, b in points]
    same_everywhere(base, [instruct, domain], tmp_path, points)


def test_tokens_that_only_one_model_brings_stand_in_the_live_model_at_every_weight(
    stories: Path, tmp_path: Path
) -> None:
    instruct = with_chat(trained(stories, tmp_path / "instruct", 1, lineage=False), CHAT, 7)
    domain = trained(expanded(stories, tmp_path / "deep", [1]), tmp_path / "domain", 2)
    live, vectors, asked = opened(stories, [instruct, domain], tmp_path / "none")
    first = [v.text for v in vectors.all].index(str(instruct))
    for number, (a, b) in enumerate([(0.5, 0.8), (0.0, 0.8), (1.0, 0.0)]):
        weights = (a, b) if first == 0 else (b, a)
        live.at(vectors.weights(weights))
        expected = logits(loaded(written(vectors, asked, weights, tmp_path / f"at{number}")))
        found = logits(live.model)
        assert found.shape[-1] == 514 and torch.equal(found[..., : expected.shape[-1]], expected)
        assert expected.shape[-1] == (514 if a else 512)


def test_memory_that_does_not_suffice_is_refused_with_figures(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1)
    live, vectors, asked = opened(stories, [instruct], tmp_path / "none")
    count = sum(p.numel() for p in live.model.parameters())
    assert live.num_bytes == 3 * 4 * count  # the model, the reference, the instruct model
    ones = vectors.settings(asked, [1.0], None)
    with pytest.raises(SurgeonError) as caught:
        live_model(asked, align(ones), plan_merge(ones), memory=live.num_bytes - 1)
    assert f"{live.num_bytes:,}" in caught.value.problem and f"{live.num_bytes - 1:,}" in caught.value.where
    live_model(asked, align(ones), plan_merge(ones), memory=live.num_bytes)


def test_blocks_that_get_no_delta_take_no_memory_of_their_own(stories: Path, tmp_path: Path) -> None:
    deep = expanded(stories, tmp_path / "deep", [1])
    instruct = trained(stories, tmp_path / "instruct", 1)
    live, _, _ = opened(stories, [instruct], tmp_path / "none", onto=str(deep))
    held = dict(live.model.named_parameters())
    block = sum(p.numel() for name, p in held.items() if ".layers.2." in name)
    assert live.num_bytes == 4 * (3 * sum(p.numel() for p in held.values()) - block)


def test_two_live_models_do_not_share_what_they_change(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1)
    copy = shutil.copytree(stories, tmp_path / "copy")
    one, _, _ = opened(copy, [instruct], tmp_path / "none", any_base=True)
    before = logits(one.model)
    one.at([0.5])
    other, _, _ = opened(copy, [instruct], tmp_path / "none", any_base=True)
    assert torch.equal(before, logits(other.model)) and not torch.equal(before, logits(one.model))


def test_adapters_on_the_base_are_searched_as_what_folding_gives(stories: Path, tmp_path: Path) -> None:
    """An adapter's change is computed in float64: at 0 and 1 the bits are those of the merge, between them its sum
    begins at values rounded to float32."""
    add = [f"{stories}+{with_adapter(stories, tmp_path, name, seed=n)}" for n, name in enumerate(("one", "other"))]
    live, vectors, asked = opened(stories, add, tmp_path / "none")
    for number, weights in enumerate([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.6, 0.9)]):
        live.at(vectors.weights(weights))
        found = logits(live.model)
        expected = logits(loaded(written(vectors, asked, weights, tmp_path / f"at{number}")))
        assert torch.equal(found, expected) or sum(weights) > 1
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
