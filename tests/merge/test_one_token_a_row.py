"""Two models that gave one row of padding to different tokens: refused, or the tokens get rows of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from merge_models import merged, trained
from test_own_tokens import extended

from surgeon.errors import SurgeonError
from surgeon.merge.models import MergeModelsSettings, plan_merge_models


def named(base: Path, out: Path, seed: int, tokens: list[str], special: bool = True) -> Path:
    """`base`, trained, with names for its rows of padding."""
    from transformers import AddedToken, AutoTokenizer

    trained(base, out, seed, lineage=False)
    tokenizer = AutoTokenizer.from_pretrained(out)
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
    tokenizer.save_pretrained(out)
    return out


@pytest.fixture
def base(stories: Path, tmp_path: Path) -> Path:
    wide = extended(stories, tmp_path / "wide", ["lantern"], pad_to_multiple_of=64)
    return trained(wide, tmp_path / "base", 9, lineage=False)


@pytest.mark.parametrize("special_tokens", ["taken", "merged"])
def test_different_tokens_in_one_row_are_not_mixed(base: Path, tmp_path: Path, special_tokens: str) -> None:
    """The lighter model's token was gone without a word, and the row of the other one the sum of both deltas."""
    from transformers import AutoTokenizer

    one = named(base, tmp_path / "one", 1, ["<|one|>"])
    two = named(base, tmp_path / "two", 2, ["<|two|>", "<|more|>"])
    weights = {one: 0.4, two: 0.6}
    with pytest.raises(SurgeonError, match=r"'<\|.*\|>' and to '<\|.*\|>': the merge would mix them") as told:
        merged(tmp_path / "out", base, weights, special_tokens=special_tokens)
    assert "--onto two" in told.value.hint and not (tmp_path / "out").exists()
    if special_tokens == "taken":
        out = AutoTokenizer.from_pretrained(merged(tmp_path / "out", base, weights, onto=str(two)))
        ids = [out.convert_tokens_to_ids(token) for token in ("<|two|>", "<|more|>", "<|one|>")]
        assert ids == list(range(ids[0], ids[0] + 3))
    three = named(base, tmp_path / "three", 3, ["<|three|>"])
    with pytest.raises(SurgeonError, match="would mix them") as told:
        merged(tmp_path / "none", base, {one: 0.4, three: 0.6}, special_tokens=special_tokens)
    assert "to an id that the other does not use" in told.value.hint


def test_a_sequence_is_told_as_the_merge_that_has_the_flag(base: Path, tmp_path: Path) -> None:
    """`merge sequence` has no --onto; its refusals named it as if it had. The words that are told do that merge."""
    one = named(base, tmp_path / "one", 1, ["<|one|>"])
    two = named(base, tmp_path / "two", 2, ["<|two|>", "<|more|>"])
    words = {"models": [str(m) for m in (base, one, two)], "policy": "ema", "weight": 0.5}
    with pytest.raises(SurgeonError, match="the merge would mix them") as told:
        plan_merge_models(MergeModelsSettings(method="sequence", out=tmp_path / "out", **words))
    assert told.value.hint.endswith(f"(of merge-task-vectors, where this merge is --add {one}=0.25 --add {two}=0.5)")
    assert "--onto two" in told.value.hint
    assert merged(tmp_path / "out", base, {one: 0.25, two: 0.5}, onto=str(two)).is_dir()


def test_one_token_of_two_models_is_one(base: Path, tmp_path: Path) -> None:
    """Special in one of them, and not in the other."""
    one = named(base, tmp_path / "one", 1, ["<|note|>"])
    two = named(base, tmp_path / "two", 2, ["<|note|>"], special=False)
    assert merged(tmp_path / "out", base, {one: 0.4, two: 0.6}).is_dir()


def test_a_row_that_another_model_has_named_is_not_given_away(base: Path, stories: Path, tmp_path: Path) -> None:
    """A model with more rows than the base has its own tokens behind: they took ids that were named already."""
    import torch
    from safetensors.torch import load_file, save_file

    one = named(base, tmp_path / "one", 1, ["<|one|>", "<|other|>"])
    two = named(base, tmp_path / "two", 2, ["<|two|>"])
    held = load_file(two / "model.safetensors")
    matrix = held["model.embed_tokens.weight"]
    held["model.embed_tokens.weight"] = torch.cat([matrix, matrix[:8]])
    save_file(held, two / "model.safetensors", metadata={"format": "pt"})
    config = (two / "config.json").read_text()
    (two / "config.json").write_text(config.replace(f": {len(matrix)}", f": {len(matrix) + 8}"))
    with pytest.raises(SurgeonError, match=r"and '<\|two\|>' of two would get it") as told:
        merged(tmp_path / "out", base, {one: 0.4, two: 0.6}, onto=str(base))
    assert "--onto two" in told.value.hint
    assert merged(tmp_path / "out", base, {one: 0.4, two: 0.6}, onto=str(two)).is_dir()


def test_a_tokenizer_of_another_library_goes_with_the_names_of_rows(base: Path, tmp_path: Path) -> None:
    """Of the model that gave the names; not where the output has tokens of two."""
    for folder, text in ((base, "old"), (named(base, tmp_path / "one", 1, ["<|one|>", "<|more|>"]), "new")):
        (folder / "tekken.json").write_text(text)
    domain = trained(base, tmp_path / "domain", 3, lineage=False)
    out = merged(tmp_path / "out", base, {tmp_path / "one": 0.4, domain: 0.6})
    assert (out / "tekken.json").read_text() == "new"
    two = named(base, tmp_path / "two", 2, ["<|two|>"])
    both = merged(tmp_path / "both", base, {tmp_path / "one": 0.4, two: 0.6}, onto=str(tmp_path / "one"))
    assert not (both / "tekken.json").exists()


def test_without_a_base_names_of_rows_are_not_lost(base: Path, tmp_path: Path) -> None:
    """The output has the tokenizer of the first model: the token of the other was merged, and had no name."""
    from surgeon.merge.models import MergeModelsSettings
    from surgeon.operations import perform

    one = named(base, tmp_path / "one", 1, ["<|one|>"])
    settings = {"method": "slerp", "out": tmp_path / "out", "option": {"t": 0.5}}
    with pytest.raises(SurgeonError, match=r"one has 1 tokens that base lacks, such as '<\|one\|>'") as told:
        perform("merge", MergeModelsSettings(models=[str(base), str(one)], **settings))
    assert "give one as the first" in told.value.hint
    perform("merge", MergeModelsSettings(models=[str(one), str(base)], **settings))
    assert "<|one|>" in (tmp_path / "out" / "tokenizer.json").read_text()


@pytest.mark.parametrize("method", ["linear", "slerp"])
@pytest.mark.parametrize("padding", [False, True])  # more names in the first one, so that it refines the other
def test_without_a_base_two_tokens_of_one_row_are_not_mixed(
    base: Path, tmp_path: Path, method: str, padding: bool
) -> None:
    """The row of the second token was mixed into that of the first, and the token gone, without a word."""
    from surgeon.merge.models import MergeModelsSettings
    from surgeon.operations import perform

    one = named(base, tmp_path / "one", 1, ["<|note|>", "<|one|>", *(["<|more|>"] if padding else [])])
    two = named(base, tmp_path / "two", 2, ["<|note|>", "<|two|>"])
    words = {"option": {"t": 0.5}} if method == "slerp" else {}
    for models in ([one, two], [two, one]):
        settings = MergeModelsSettings(method=method, out=tmp_path / "out", models=[*map(str, models)], **words)
        with pytest.raises(SurgeonError, match=r"row \d+ is '<.*>' in .* and '<.*>' in .*: .* mix them") as told:
            perform("merge", settings)
        assert "merge-task-vectors" in told.value.hint and not (tmp_path / "out").exists()
    file = two / "tokenizer.json"
    file.write_text(file.read_text().replace("<|two|>", "<|one|>"))
    perform("merge", MergeModelsSettings(method=method, out=tmp_path / "out", models=[str(one), str(two)], **words))
