"""The numbers of `evaluate` are transformers' own losses, document by document, and can be compared."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from surgeon.data.items import prepare, take
from surgeon.data.source import Document, parse_corpus
from surgeon.errors import SurgeonError, UsageError
from surgeon.loading import load_model, load_tokenizer
from surgeon.measure.perplexity import evaluate
from surgeon.progress import Advance, Silent
from surgeon.train.score import score

TEXTS = ("Once upon a time there was a cat.", "The dog ran — fast!", "A", "Lily went to the park with her mom. " * 6)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS), encoding="utf-8")
    return path


def test_nats_are_the_losses_of_transformers(stories: Path, texts: Path) -> None:
    found = evaluate([str(stories)], [f"t={texts}"], device="cpu")
    assert found["models"][0]["model"] == str(stories)
    corpus = found["models"][0]["corpora"][0]
    model, tokenizer = load_model(stories, device=torch.device("cpu"), dtype=torch.float32), load_tokenizer(stories)
    nats = tokens = 0.0
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            nats += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    num_bytes = sum(len(t.encode()) for t in TEXTS)
    assert (corpus["documents"], corpus["tokens"], corpus["bytes"]) == (4, tokens, num_bytes)
    assert corpus["nats_per_token"] == pytest.approx(nats / tokens, abs=1e-5)
    assert corpus["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, abs=1e-5)
    assert corpus["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert corpus["tokens_per_byte"] == tokens / num_bytes
    assert corpus["tokens_per_word"] == tokens / sum(len(t.split()) for t in TEXTS)
    assert corpus.keys() == {
        "name", "documents", "bytes", "tokens", "nats_per_token", "bits_per_byte", "perplexity", "tokens_per_word",
        "tokens_per_byte",
    }  # fmt: skip


def test_a_loss_without_a_perplexity(
    stories: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that was broken, by a merge of huge weights say: the loss is told all the same."""
    from surgeon.cli.app import main

    model = tmp_path / "broken" / "model"
    shutil.copytree(stories, model)
    held = load_file(model / "model.safetensors")
    held["model.norm.weight"] *= 3000
    save_file(held, model / "model.safetensors", metadata={"format": "pt"})
    found = evaluate([str(model)], [f"t={texts}"], device="cpu")["models"][0]["corpora"][0]
    assert found["nats_per_token"] > 710 and found["perplexity"] is None
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(stories), str(model), "--data", f"t={texts}", "--device", "cpu"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert " - " in shown and "broken/model" in shown and f"{stories.parent.name}/model" in shown


def test_windows_score_every_token_once(stories: Path) -> None:
    """With a context of 16, each token is scored by the window the document's rule says: checked one by one."""
    model, tokenizer = load_model(stories, device=torch.device("cpu"), dtype=torch.float32), load_tokenizer(stories)
    item = prepare([Document("d", TEXTS[3])], tokenizer)[0]
    result = score(model, [item], 16)
    expected, at, begin = 0.0, 1, 0
    while at < len(item.ids):
        start = [1] if begin else []
        ids = [*start, *item.ids[begin:].tolist()][:16]
        stop = begin + len(ids) - len(start)
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected -= sum(float(logp[t - begin + len(start) - 1, item.ids[t]]) for t in range(at, stop))
        begin, at = stop - 8, stop
    assert result.nats == pytest.approx(expected, rel=1e-6)
    assert result.tokens == len(item.ids) - 1


def test_documents_are_whole_and_the_same_for_every_model(stories: Path, texts: Path) -> None:
    found = evaluate([str(stories), str(stories)], [f"t={texts}"], 20, device="cpu")
    one, two = (m["corpora"][0] for m in found["models"])
    assert one == two
    assert one["documents"] == 2 and one["tokens"] >= 20
    tokenizer = load_tokenizer(stories)
    assert len(take(parse_corpus(str(texts)), tokenizer, 1)) == 1
    assert len(take(parse_corpus(str(texts)), tokenizer, None)) == 4


def test_without_a_start_the_first_token_and_its_bytes_do_not_count(stories: Path) -> None:
    tokenizer = load_tokenizer(stories)
    with_end = prepare([Document("d", TEXTS[0])], tokenizer)[0]
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.add_bos_token = False
    assert prepare([Document("d", TEXTS[0])], tokenizer)[0].ids[0] == tokenizer.eos_token_id
    tokenizer.eos_token = None
    bare = prepare([Document("d", TEXTS[0])], tokenizer)[0]
    assert bare.num_tokens == with_end.num_tokens - 1
    assert bare.num_bytes < with_end.num_bytes == len(TEXTS[0])


def test_answers_are_scored_given_their_question(stories: Path, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"instruction": "Say hi.", "input": "", "output": "hi there"}) + "\n")
    corpus = evaluate([str(stories)], [f"q={path}"], device="cpu")["models"][0]["corpora"][0]
    assert corpus["bytes"] == len("hi there")
    model, tokenizer = load_model(stories, device=torch.device("cpu"), dtype=torch.float32), load_tokenizer(stories)
    ids = torch.tensor([tokenizer("### Instruction:\nSay hi.\n### Response:\nhi there").input_ids])
    labels = ids.clone()
    labels[:, : ids.shape[1] - corpus["tokens"]] = -100
    with torch.no_grad():
        assert corpus["nats_per_token"] == pytest.approx(float(model(ids, labels=labels).loss), abs=1e-5)


@pytest.mark.material
@pytest.mark.parametrize(("name", "bits"), [("stories_en", 1.79), ("general_en", 2.87)])
def test_the_published_numbers_of_the_material(material: Path, stories: Path, name: str, bits: float) -> None:
    """Golden: README of the material, first 512 tokens of 40 documents."""
    model, tokenizer = load_model(stories, device=torch.device("cpu"), dtype=torch.float32), load_tokenizer(stories)
    corpus = parse_corpus(str(material / "corpora" / f"{name}.valid.jsonl"))
    documents = take(corpus, tokenizer, None)[:40]
    cut = [tokenizer.decode(i.ids[:512], skip_special_tokens=True) for i in prepare(documents, tokenizer)]
    result = score(model, prepare([Document("d", t) for t in cut], tokenizer), 512)
    assert result.bits_per_byte == pytest.approx(bits, abs=0.006)


def test_refusals(stories: Path, texts: Path) -> None:
    with pytest.raises(UsageError, match="two corpora"):
        evaluate([str(stories)], [f"t={texts}", f"t={texts}"])
    with pytest.raises(UsageError, match="needs models"):
        evaluate([], [f"t={texts}"])
    with pytest.raises(UsageError, match="context"):
        evaluate([str(stories)], [f"t={texts}"], context=513, device="cpu")
    with pytest.raises(SurgeonError, match="no such folder"):
        evaluate(["nowhere"], [f"t={texts}"])


def test_a_model_without_a_tokenizer_is_refused(tiny: Callable[..., Path], texts: Path) -> None:
    """Of some families AutoTokenizer makes an empty one, which reads every text as nothing."""
    with pytest.raises(SurgeonError, match="makes no token"):
        evaluate([str(tiny("qwen2"))], [str(texts)], device="cpu")


def test_a_model_that_is_absent_is_refused_before_any_is_measured(stories: Path, texts: Path) -> None:
    said: list[str] = []

    class Said(Silent):
        @contextmanager
        def task(self, name: str, total: int | None, unit: str = "tensors") -> Iterator[Advance]:
            said.append(name)
            yield lambda amount: None

    absent = str(texts.parent / "absent")
    with pytest.raises(SurgeonError, match="no such folder"):
        evaluate([str(stories), absent], [str(texts)], device="cpu", progress=Said())
    assert said == []
    evaluate([str(stories)], [str(texts)], device="cpu", progress=Said())
    assert len(said) == 1
