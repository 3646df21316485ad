"""Rows meet by what their tokens stand for; chat tokens come whole from the model that trained them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_models import merged, same_tensors, tensors, trained
from safetensors.torch import save_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import read_lineage
from surgeon.errors import SurgeonError
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.execute import execute
from surgeon.verify import verify
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings

EMBEDDING = "model.embed_tokens.weight"
CHAT = ["<|im_start|>", "<|im_end|>"]


def rewritten(folder: Path, tokenizer: dict[str, Any], rows: torch.Tensor, **config: Any) -> None:
    """The folder with another tokenizer.json, embedding and config."""
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    held = tensors(folder)
    held[EMBEDDING] = rows
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": len(rows)} | config))


def read_tokenizer(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def with_chat(folder: Path, contents: list[str], seed: int, **config: Any) -> Path:
    """Special tokens behind the last one, with rows of their own."""
    tokenizer, rows = read_tokenizer(folder), tensors(folder)[EMBEDDING]
    entry = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] += [entry | {"id": len(rows) + n, "content": c} for n, c in enumerate(contents)]
    new = torch.randn(len(contents), rows.shape[1], generator=torch.Generator().manual_seed(seed))
    rewritten(folder, tokenizer, torch.cat([rows, new]), **config)
    return folder


def permuted(folder: Path, seed: int) -> Path:
    """The same model with other ids: rows and tokenizer moved together (special tokens stay, as the config names)."""
    tokenizer, rows = read_tokenizer(folder), tensors(folder)[EMBEDDING]
    ids = list(range(3, len(rows)))
    random.Random(seed).shuffle(ids)
    new_of = dict(zip(range(3, len(rows)), ids, strict=True)) | {0: 0, 1: 1, 2: 2}
    vocab = {token: new_of[i] for token, i in tokenizer["model"]["vocab"].items()}
    tokenizer["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
    moved = torch.empty_like(rows)
    for old, new in new_of.items():
        moved[new] = rows[old]
    rewritten(folder, tokenizer, moved)
    return folder


def words(parent: Path, out: Path, texts: list[str], **settings: Any) -> Path:
    file = out.parent / f"{out.name}.txt"
    file.write_text("\n".join(texts) + "\n")
    execute(plan_extend_vocab(ExtendVocabSettings(model=str(parent), out=out, tokens=file, **settings)), out)
    return out


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_a_permuted_vocabulary_meets_by_its_tokens(stories: Path, tmp_path: Path, weight: float) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    moved = permuted(shutil.copytree(instruct, tmp_path / "moved"), 5)
    assert not torch.equal(tensors(moved)[EMBEDDING], tensors(instruct)[EMBEDDING])
    plain = merged(tmp_path / "plain", stories, {instruct: weight})
    by_token = merged(tmp_path / "by-token", stories, {moved: weight})
    assert same_tensors(plain, by_token)
    assert (by_token / "tokenizer.json").read_bytes() == (stories / "tokenizer.json").read_bytes()
    assert verify(by_token, function=True)["holds"]


def test_a_permuted_model_as_the_target_keeps_its_own_order(stories: Path, tmp_path: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    chat = trained(stories, tmp_path / "chat", 2, lineage=False)
    moved = permuted(shutil.copytree(instruct, tmp_path / "moved"), 5)
    out = merged(tmp_path / "out", stories, {moved: 0.5, chat: 0.5}, onto=str(moved))
    straight = merged(tmp_path / "straight", stories, {instruct: 0.5, chat: 0.5})
    back = permuted(shutil.copytree(straight, tmp_path / "back"), 5)
    assert same_tensors(out, back)
    assert same_tensors(merged(tmp_path / "whole", stories, {moved: 1.0}, onto=str(moved)), moved)
    assert verify(out, function=True)["holds"]


def test_chat_tokens_that_the_domain_lacks_are_added_with_the_rows_of_the_instruct_model(
    stories: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    instruct = trained(
        stories, tmp_path / "instruct", 1, lineage=False, chat_template__jinja="{{ messages }}<|im_end|>"
    )
    with_chat(instruct, CHAT, 7, eos_token_id=513)
    (instruct / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 513], "pad_token_id": 512}))
    wide = words(stories, tmp_path / "wide", ["dragonfly", "windmill", "marmalade"], pad_to_multiple_of=8)
    domain = trained(wide, tmp_path / "domain", 2)
    first = len(AutoTokenizer.from_pretrained(wide))
    held, d, i, w = tensors(domain)[EMBEDDING], tensors(domain), tensors(instruct), tensors(wide)
    assert len(held) % 8 == 0 and first > 515
    out = merged(tmp_path / "out", stories, {instruct: 0.5, domain: 0.8})
    found = tensors(out)[EMBEDDING]
    assert len(found) == max(len(held), first + 2)
    assert torch.equal(found[first : first + 2], i[EMBEDDING][512:514])
    base = tensors(stories)[EMBEDDING].double()
    exact = base + 0.5 * (i[EMBEDDING][:512].double() - base) + 0.8 * (d[EMBEDDING][:512].double() - base)
    torch.testing.assert_close(found[:512], exact.float(), rtol=0, atol=1e-7)
    at_first = w[EMBEDDING][512:first].double()
    new = at_first + 0.8 * (d[EMBEDDING][512:first].double() - at_first)
    torch.testing.assert_close(found[512:first], new.float(), rtol=0, atol=1e-7)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_tokens_to_ids(CHAT) == [first, first + 1]
    assert tokenizer.encode("<|im_start|>dragonfly<|im_end|>", add_special_tokens=False)[-1] == first + 1
    old = AutoTokenizer.from_pretrained(domain)
    text = "Once upon a time a dragonfly ate marmalade."
    assert tokenizer.encode(text) == old.encode(text)
    config = Checkpoint.open(out).config
    assert config["vocab_size"] == len(found) and config["eos_token_id"] == first + 1
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, first + 1] and generation["pad_token_id"] == first
    assert verify(out, function=True)["holds"]
    # the tokens are in the lineage: the merged model is merged again
    lineage = read_lineage(out)
    assert lineage is not None and lineage.rows is not None and [r.token for r in lineage.rows.new] == CHAT
    again = merged(tmp_path / "again", stories, {out: 1.0, domain: 0.0})
    assert same_tensors(again, out)
    zero = merged(tmp_path / "zero", stories, {out: 0.0})
    assert torch.equal(tensors(zero)[EMBEDDING][:first], w[EMBEDDING][:first])
    assert torch.equal(tensors(zero)[EMBEDDING][first : first + 2], i[EMBEDDING][512:514])


def test_chat_tokens_behind_rows_without_a_token_keep_their_ids(stories: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = Path(shutil.copytree(stories, tmp_path / "base"))
    rows = tensors(base)[EMBEDDING]
    rewritten(base, read_tokenizer(base), torch.cat([rows, torch.zeros(16, rows.shape[1])]))
    wide = words(base, tmp_path / "wide", ["dragonfly", "windmill", "marmalade"])  # ids 512 to 527 stay free
    instruct = trained(base, tmp_path / "instruct", 1, lineage=False)
    tokenizer = read_tokenizer(instruct)
    entry = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] += [entry | {"id": 512 + n, "content": c} for n, c in enumerate(CHAT)]
    rewritten(instruct, tokenizer, tensors(instruct)[EMBEDDING], eos_token_id=513)
    out = merged(tmp_path / "out", base, {instruct: 0.5, trained(wide, tmp_path / "domain", 2): 0.8})
    first = Checkpoint.open(out).config["eos_token_id"] - 1
    assert torch.equal(tensors(out)[EMBEDDING][first : first + 2], tensors(instruct)[EMBEDDING][512:514])
    loaded, before = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(wide)
    assert loaded.convert_tokens_to_ids(CHAT) == [first, first + 1]
    assert loaded.encode("<|im_start|>dragonfly<|im_end|>", add_special_tokens=False)[-1] == first + 1
    text = "Once upon a time a dragonfly ate marmalade."
    assert loaded.encode(text) == before.encode(text)
    again = merged(tmp_path / "again", base, {out: 1.0})  # what it wrote is read again
    assert same_tensors(again, out)


@pytest.mark.parametrize("weight", ["0,1", "1,0", "0,attention:1", "1,embedding:0"])
def test_chat_tokens_of_a_model_that_counts_somewhere_are_added(stories: Path, tmp_path: Path, weight: Any) -> None:
    from transformers import AutoTokenizer

    instruct = trained(
        stories, tmp_path / "instruct", 1, lineage=False, chat_template__jinja="{{ messages }}<|im_end|>"
    )
    with_chat(instruct, CHAT, 7)
    domain = trained(words(stories, tmp_path / "wide", ["dragonfly"]), tmp_path / "domain", 2)
    out = merged(tmp_path / "out", stories, {instruct: weight, domain: 0.8})
    assert "<|im_end|>" in (out / "chat_template.jinja").read_text()
    ids = AutoTokenizer.from_pretrained(out).convert_tokens_to_ids(CHAT)
    assert torch.equal(tensors(out)[EMBEDDING][ids], tensors(instruct)[EMBEDDING][512:514])


@pytest.mark.parametrize("weight", ["1", "0,1", "1,0", "0,attention:1"])
def test_plain_tokens_that_the_target_lacks_are_refused(stories: Path, tmp_path: Path, weight: str) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    wide = words(instruct, tmp_path / "wide", ["helicopter"])
    (wide / "surgeon.json").unlink()
    other = trained(words(stories, tmp_path / "other", ["windmill"]), tmp_path / "domain", 2)
    with pytest.raises(SurgeonError, match="tokens that domain lacks, such as 'hel'"):
        plan_merge(MergeSettings(base=str(stories), out=tmp_path / "x", add=[f"{wide}={weight}", str(other)]))


def reserved(stories: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """(base with two tokens in reserve, instruct that trained them, domain that did not)."""
    base = with_chat(shutil.copytree(stories, tmp_path / "base"), ["<|reserved_0|>", "<|reserved_1|>"], 3)
    instruct = trained(base, tmp_path / "instruct", 1, lineage=False)
    domain = trained(base, tmp_path / "domain", 2)
    held = tensors(domain)
    held[EMBEDDING][512:] = tensors(base)[EMBEDDING][512:]
    save_file(held, domain / "model.safetensors", metadata={"format": "pt"})
    return base, instruct, domain


def test_chat_tokens_that_the_domain_did_not_train_come_whole(stories: Path, tmp_path: Path) -> None:
    base, instruct, domain = reserved(stories, tmp_path)
    out = merged(tmp_path / "out", base, {instruct: 0.5, domain: 0.8})
    found, b, i, d = (tensors(x)[EMBEDDING] for x in (out, base, instruct, domain))
    assert torch.equal(found[512:], i[512:])
    exact = b.double() + 0.5 * (i.double() - b.double()) + 0.8 * (d.double() - b.double())
    torch.testing.assert_close(found[:512], exact.float()[:512], rtol=0, atol=1e-7)
    lineage = read_lineage(out)
    assert lineage is not None and lineage.merge is not None
    assert lineage.merge["tokens_from"] == {"<|reserved_0|>": "instruct", "<|reserved_1|>": "instruct"}
    weighed = tensors(merged(tmp_path / "weighed", base, {instruct: 0.5, domain: 0.8}, special_tokens="merged"))
    torch.testing.assert_close(weighed[EMBEDDING], exact.float(), rtol=0, atol=1e-7)


def test_chat_tokens_that_both_trained_are_merged(stories: Path, tmp_path: Path) -> None:
    base, instruct, _ = reserved(stories, tmp_path)
    other = trained(base, tmp_path / "other", 5)
    found = tensors(merged(tmp_path / "out", base, {instruct: 0.5, other: 0.8}))[EMBEDDING]
    b, i, o = (tensors(x)[EMBEDDING].double() for x in (base, instruct, other))
    torch.testing.assert_close(found, (b + 0.5 * (i - b) + 0.8 * (o - b)).float(), rtol=0, atol=1e-7)


def test_one_model_alone_is_weighed_also_in_its_chat_tokens(stories: Path, tmp_path: Path) -> None:
    base, instruct, _ = reserved(stories, tmp_path)
    found = tensors(merged(tmp_path / "out", base, {instruct: 0.5}))[EMBEDDING]
    b, i = (tensors(x)[EMBEDDING].double() for x in (base, instruct))
    torch.testing.assert_close(found, (b + 0.5 * (i - b)).float(), rtol=0, atol=1e-7)


def test_names_for_tokens_in_reserve_are_those_of_the_model_that_gave_them(stories: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base, instruct, domain = reserved(stories, tmp_path)
    tokenizer = read_tokenizer(instruct)
    for entry, content in zip(tokenizer["added_tokens"][-2:], CHAT, strict=True):
        entry["content"] = content
    (instruct / "tokenizer.json").write_text(json.dumps(tokenizer))
    out = merged(tmp_path / "out", base, {instruct: 0.5, domain: 0.8})
    assert torch.equal(tensors(out)[EMBEDDING][512:], tensors(instruct)[EMBEDDING][512:])
    assert AutoTokenizer.from_pretrained(out).convert_tokens_to_ids(CHAT) == [512, 513]


def test_padding_rows_stay(stories: Path, tmp_path: Path) -> None:
    padded = trained(stories, tmp_path / "padded", 1, lineage=False)
    rows = torch.cat([tensors(padded)[EMBEDDING], torch.full((8, 64), 3.0)])
    rewritten(padded, read_tokenizer(padded), rows)
    chat = trained(stories, tmp_path / "chat", 2)
    found = tensors(merged(tmp_path / "out", stories, {padded: 0.5, chat: 0.5}))[EMBEDDING]
    b, p, c = (tensors(x)[EMBEDDING][:512].double() for x in (stories, padded, chat))
    torch.testing.assert_close(found[:512], (b + 0.5 * (p - b) + 0.5 * (c - b)).float(), rtol=0, atol=1e-7)
    assert torch.equal(found[512:], rows[512:])
    # onto the base they have no place, and none is asked for
    assert len(tensors(merged(tmp_path / "base", stories, {padded: 0.5}, onto=str(stories)))[EMBEDDING]) == 512
