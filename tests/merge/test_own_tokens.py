"""Two models that were given tokens separately: one gets the other's, and both are merged onto it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_models import expanded, merged, same_tensors, tensors, trained
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from surgeon.errors import SurgeonError
from surgeon.measure.vectors import vectors
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.merge.special_tokens import Special
from surgeon.ops.execute import execute
from surgeon.progress import Silent
from surgeon.verify import verify
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.vocab.tokenizer_json import TokenizerFile

EMBEDDING = "model.embed_tokens.weight"


def extended(model: Path, out: Path, words: list[str] | None = None, **settings: Any) -> Path:
    if words is not None:
        settings["tokens"] = out.parent / f"{out.name}.txt"
        settings["tokens"].write_text("\n".join(words) + "\n")
    execute(plan_extend_vocab(ExtendVocabSettings(model=str(model), out=out, **settings)), out)
    return out


def pair(base: Path, tmp_path: Path, **other: Any) -> tuple[Path, Path, Path, Path]:
    """(one as extended, one trained, other as extended, other trained), of the same base."""
    one = extended(base, tmp_path / "one-0", ["dragonfly", "windmill"])
    two = extended(base, tmp_path / "two-0", ["marmalade", "helicopter"], **other)
    return one, trained(one, tmp_path / "one", 1), two, trained(two, tmp_path / "two", 2)


def test_old_rows_are_summed_own_rows_kept_and_the_others_taken(stories: Path, tmp_path: Path) -> None:
    one0, one, _, two = pair(stories, tmp_path)
    onto = extended(one, tmp_path / "onto", tokens_of=str(two))
    out = merged(tmp_path / "out", stories, {one: 0.7, two: 0.4}, onto=str(onto))
    b, o0, o, t, found = (tensors(x) for x in (stories, one0, one, two, out))
    for name, tensor in found.items():
        old = slice(0, 512) if name == EMBEDDING else slice(None)
        exact = b[name].double() + 0.7 * (o[name][old].double() - b[name].double())
        exact += 0.4 * (t[name][old].double() - b[name].double())
        torch.testing.assert_close(tensor[old], exact.float(), rtol=0, atol=1e-7)
    own = slice(512, len(o[EMBEDDING]))
    first = o0[EMBEDDING][own].double()
    exact = first + 0.7 * (o[EMBEDDING][own].double() - first)
    torch.testing.assert_close(found[EMBEDDING][own], exact.float(), rtol=0, atol=1e-7)
    ids, theirs = TokenizerFile.open(out).vocab, TokenizerFile.open(two).vocab
    taken = [token for token, i in ids.items() if i >= len(o[EMBEDDING])]
    assert len(taken) > 2
    for token in taken:
        assert torch.equal(found[EMBEDDING][ids[token]], t[EMBEDDING][theirs[token]])
    assert (out / "tokenizer.json").read_bytes() == (onto / "tokenizer.json").read_bytes()
    assert verify(out, function=True)["holds"]


def test_the_other_way_round_gives_the_same_values_at_the_same_tokens(stories: Path, tmp_path: Path) -> None:
    """With both at full weight: old rows are one sum, and a row of either is its own model's."""
    _, one, _, two = pair(stories, tmp_path)
    first = merged(
        tmp_path / "a", stories, {one: 1, two: 1}, onto=str(extended(one, tmp_path / "oa", tokens_of=str(two)))
    )
    other = merged(
        tmp_path / "b", stories, {one: 1, two: 1}, onto=str(extended(two, tmp_path / "ob", tokens_of=str(one)))
    )
    a, b = tensors(first), tensors(other)
    here, there = TokenizerFile.open(first).vocab, TokenizerFile.open(other).vocab
    assert here.keys() == there.keys()
    order = torch.tensor([there[token] for token in here])
    ids = torch.tensor(list(here.values()))
    assert torch.equal(a.pop(EMBEDDING)[ids], b.pop(EMBEDDING)[order])
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_one_that_took_padding_rows_meets_by_the_rows_before_it_did(stories: Path, tmp_path: Path) -> None:
    """Its new ids are rows of padding in the base, which get no delta of it."""
    base = extended(stories, tmp_path / "base", ["lantern"], pad_to_multiple_of=64)
    (base / "surgeon.json").unlink()
    _, one, _, two = pair(base, tmp_path, use_padding=True)
    onto = extended(one, tmp_path / "onto", tokens_of=str(two))
    out = merged(tmp_path / "out", base, {one: 0.0, two: 0.5}, onto=str(onto))
    new = sorted(
        i for token, i in TokenizerFile.open(two).vocab.items() if token not in TokenizerFile.open(base).vocab
    )
    b, t, found = (tensors(x)[EMBEDDING] for x in (base, two, out))
    assert new and new[-1] < len(b)
    old = [i for i in range(len(b)) if i not in new]
    exact = b[old].double() + 0.5 * (t[old].double() - b[old].double())
    torch.testing.assert_close(found[old], exact.float(), rtol=0, atol=1e-7)
    assert torch.equal(found[new], b[new])


def test_after_surgery_that_both_share(stories: Path, tmp_path: Path) -> None:
    """Deepened first, then extended apart: the base is the model before all of it."""
    deep = expanded(stories, tmp_path / "deep", [2])
    _, one, _, two = pair(deep, tmp_path)
    onto = extended(one, tmp_path / "onto", tokens_of=str(two))
    out = merged(tmp_path / "out", stories, {one: 0.5, two: 0.5}, onto=str(onto))
    straight = merged(tmp_path / "straight", deep, {one: 0.5, two: 0.5}, onto=str(onto))
    assert same_tensors(out, straight)
    assert verify(out, function=True)["holds"]


def test_nothing_is_lost_without_a_word(stories: Path, tmp_path: Path) -> None:
    _, one, _, two = pair(stories, tmp_path)

    def refused(match: str, *add: Path, **settings: Any) -> None:
        words = [f"{model}=1" for model in add]
        with pytest.raises(SurgeonError, match=match):
            plan_merge(MergeSettings(base=str(stories), out=tmp_path / "x", add=words, **settings))

    refused(r"has \d+ tokens that .* lacks, such as .*--tokens-of (one|two)\)", one, two)
    refused(r"has \d+ tokens that .* lacks", one, two, special_tokens="merged")
    deep = trained(expanded(two, tmp_path / "deep", [2]), tmp_path / "deep-trained", 3)
    onto = extended(one, tmp_path / "onto", tokens_of=str(two))
    refused("were operated on in different ways|was operated on further than", one, deep, onto=str(onto))
    untied = trained(extended(stories, tmp_path / "untied-0", ["lantern"], untie=True), tmp_path / "untied", 4)
    wide = extended(one, tmp_path / "wide", tokens_of=str(untied), init="subword_mean")
    refused("ties its head to the embedding and", one, untied, onto=str(wide))


def test_vectors_of_both_are_measured_where_they_meet(stories: Path, tmp_path: Path) -> None:
    """On the rows and blocks that both have: as two models of the base's shape are."""
    _, one, _, two = pair(stories, tmp_path)
    found = vectors(stories, [one, two])
    plain = {}
    for model in (one, two):
        plain[model] = shutil.copytree(stories, tmp_path / "plain" / model.name)
        held = tensors(model)
        held[EMBEDDING] = held[EMBEDDING][:512].contiguous()
        save_file(held, plain[model] / "model.safetensors", metadata={"format": "pt"})
    expected = vectors(stories, list(plain.values()))
    (pair_,), (other,) = found["pairs"], expected["pairs"]
    blocks = [u for u in found["units"] if u["unit"] == "2.mlp.up_proj"]
    assert blocks == [u for u in expected["units"] if u["unit"] == "2.mlp.up_proj"] and blocks
    assert abs(pair_["cosine"] - other["cosine"]) < 1e-3


def test_tokens_that_were_left_out_are_not_missed(stories: Path, tmp_path: Path) -> None:
    one = trained(extended(stories, tmp_path / "one-0", [" serv", " publish"]), tmp_path / "one", 1)
    two = trained(extended(stories, tmp_path / "two-0", ["ervice", " service", "lantern"]), tmp_path / "two", 2)
    onto = extended(one, tmp_path / "onto", tokens_of=str(two))
    missing = TokenizerFile.open(two).vocab.keys() - TokenizerFile.open(onto).vocab.keys()
    assert missing
    out = merged(tmp_path / "out", stories, {one: 1, two: 1}, onto=str(onto))
    assert verify(out, function=True)["holds"]


def test_rows_that_no_lineage_tells_of_are_refused(stories: Path, tmp_path: Path) -> None:
    """A tokenizer that got more tokens after the extension, by another library, with the lineage left beside it; and
    an extension of that model."""
    _, one, _, two = pair(stories, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(one)
    tokenizer = AutoTokenizer.from_pretrained(one)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    model.resize_token_embeddings(len(tokenizer))
    chat = tmp_path / "chat"
    model.save_pretrained(chat)
    tokenizer.save_pretrained(chat)
    shutil.copyfile(one / "surgeon.json", chat / "surgeon.json")
    shutil.copytree(one / "surgeon", chat / "surgeon")
    onto = extended(chat, tmp_path / "onto", tokens_of=str(two))
    held = len(tensors(one)[EMBEDDING])
    for add, to in (([chat], None), ([onto], None), ([chat, two], onto), ([two], onto)):
        words = [f"{model}=0.5" for model in add]
        with pytest.raises(SurgeonError, match=f"has {held + 2} rows where its lineage tells of {held}") as error:
            plan_merge(MergeSettings(base=str(stories), out=tmp_path / "x", add=words, onto=to and str(to)))
        assert error.value.where.endswith("surgeon.json")
    (chat / "surgeon.json").unlink()
    merged(tmp_path / "out", stories, {chat: 0.5})


def test_models_trained_elsewhere_are_merged_as_their_refusal_says(stories: Path, tmp_path: Path) -> None:
    """Without a lineage neither leads to the base, nor does what was made of one: all rows meet by their tokens."""
    _, one, _, two = pair(stories, tmp_path)
    for model in (one, two):
        (model / "surgeon.json").unlink()
        shutil.rmtree(model / "surgeon")
    words = [f"{model}=0.5" for model in (one, two)]
    with pytest.raises(SurgeonError) as error:
        plan_merge(MergeSettings(base=str(stories), out=tmp_path / "x", add=words))
    assert "surgeon extend-vocab" in error.value.hint and "then merge with --onto OUT" in error.value.hint
    here, there = (one, two) if f"--tokens-of {two.name})" in error.value.hint else (two, one)
    onto = extended(here, tmp_path / "onto", tokens_of=str(there))
    plain = shutil.copytree(onto, tmp_path / "plain")
    (plain / "surgeon.json").unlink()
    out = merged(tmp_path / "out", stories, {one: 0.5, two: 0.5}, onto=str(onto))
    assert same_tensors(out, merged(tmp_path / "straight", stories, {one: 0.5, two: 0.5}, onto=str(plain)))
    assert verify(out, function=True)["holds"]
    again = merged(tmp_path / "again", stories, {out: 0.5, two: 0.5})
    found, held = tensors(again)[EMBEDDING], tensors(out)[EMBEDDING]
    assert torch.equal(found[512:], held[512:]) and not torch.equal(found[:512], held[:512])
    deep = expanded(onto, tmp_path / "deep", [2])
    with pytest.raises(SurgeonError, match="does not lead to"):
        plan_merge(MergeSettings(base=str(stories), out=tmp_path / "x", add=words, onto=str(deep)))


class Said(Silent):
    """What is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_token_that_both_learned_keeps_one_row_and_that_is_said(stories: Path, tmp_path: Path) -> None:
    one0 = extended(stories, tmp_path / "one-0", ["dragonfly", "windmill"])
    two0 = extended(stories, tmp_path / "two-0", ["marmalade", "windmill"])
    one, two = trained(one0, tmp_path / "one", 1), trained(two0, tmp_path / "two", 2)
    progress = Said()
    said = progress.lines
    settings = ExtendVocabSettings(model=str(one), out=tmp_path / "onto", tokens_of=str(two))
    execute(plan_extend_vocab(settings, progress), tmp_path / "onto")
    both = set(TokenizerFile.open(one).vocab) & set(TokenizerFile.open(two).vocab) - set(
        TokenizerFile.open(stories).vocab
    )
    assert any(f"{len(both)} new tokens of two, as " in line and "their rows stay" in line for line in said)
    said.clear()
    plan_merge(
        MergeSettings(base=str(stories), out=tmp_path / "x", add=[str(one), str(two)], onto=str(tmp_path / "onto")),
        progress,
    )
    (told,) = [line for line in said if "were learned by another model too" in line]
    assert told.startswith(f"{len(both)} new tokens of two, as ") and "those of onto" in told
    out = merged(tmp_path / "out", stories, {one: 1, two: 1}, onto=str(tmp_path / "onto"))
    ids, theirs = TokenizerFile.open(out).vocab, TokenizerFile.open(one).vocab
    found, held = tensors(out)[EMBEDDING], tensors(one)[EMBEDDING]
    assert all(torch.equal(found[ids[token]], held[theirs[token]]) for token in both)


def test_many_tokens_of_one_model_are_told_in_one_line() -> None:
    few = {f"<u{i}>": "50%-chat" for i in range(2)}
    many = {f"<v{i}>": "legal" for i in range(6_000)}
    lines = Special(names=few | many).lines()
    assert lines == [
        "the token <u0> is taken as it is in 50%-chat",
        "the token <u1> is taken as it is in 50%-chat",
        "6,000 tokens, <v0> to <v5999>, are taken as they are in legal",
    ]
