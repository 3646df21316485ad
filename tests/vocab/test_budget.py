"""What old text loses to new rows: against the loss of real models, and held below a budget."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import build

from surgeon.checkpoint.index import Checkpoint
from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.execute import execute
from surgeon.vocab.body import WINDOW, Body
from surgeon.vocab.budget import FINEST, Calibration, calibrated, mixed
from surgeon.vocab.hull import Combination
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.vocab.tokens import NewTokens

ROWS, WIDTH, NEW = 520, 32, 6
SMALL = {
    "vocab_size": ROWS, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
# families that do something to logits: a cap, a factor, a divisor, a bias
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere": ("Cohere", {"logit_scale": 0.25}),
    "granite": ("Granite", {"logits_scaling": 3.0, "embedding_multiplier": 2.0}),
    "phi": ("Phi", {"num_key_value_heads": 4}),
}


def folder(stories: Path, path: Path, family: str) -> Path:
    """A tiny model whose tokenizer has 512 tokens and whose matrices have 520 rows."""
    if family in CLASSES:
        name, own = CLASSES[family]
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**SMALL | own))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(path)
    else:
        build(family, path, vocab_size=ROWS, **({"final_logit_softcapping": 3.0} if family == "gemma2" else {}))
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(stories / name, path / name)
    return path


def new_tokens(ids: tuple[int, ...], usable: range = range(3, 512)) -> NewTokens:
    return NewTokens(tuple(f"t{i}" for i in ids), ids, ((5, 6),) * len(ids), tuple(usable))


def probe() -> list[list[int]]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(3, 512, (length,), generator=draw).tolist() for length in (40, 2, 50, 1, 30)]


def logits(model: Any, start: list[int]) -> torch.Tensor:
    """At the positions that predict something."""
    with torch.no_grad():
        found = [model(torch.tensor([start + ids])).logits[0, :-1] for ids in probe()]
    return torch.cat(found).double()


def grown(model: Any, ids: tuple[int, ...], rows: torch.Tensor, bias: torch.Tensor | None, total: int) -> Any:
    """The same model with rows at `ids` of its output matrix; what lies between is the last old row."""
    model = copy.deepcopy(model)
    head = model.get_output_embeddings()
    weight = torch.cat([head.weight, head.weight[-1:].expand(total - len(head.weight), -1)]).clone()
    weight[list(ids)] = rows
    head.weight = torch.nn.Parameter(weight)
    if bias is not None:
        values = torch.cat([head.bias, head.bias[-1:].expand(total - len(head.bias))]).clone()
        values[list(ids)] = bias
        head.bias = torch.nn.Parameter(values)
    return model


def mixture(count: int = NEW) -> Combination:
    draw = torch.Generator().manual_seed(4)
    ids = torch.randint(3, 512, (count, 2), generator=draw).tolist()
    return Combination.of([[(a, 0.75), (b, 0.25)] for a, b in ids])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "qwen3", "cohere", "granite", "phi"])
def test_the_loss_increase_is_that_of_the_model_with_the_rows(stories: Path, tmp_path: Path, family: str) -> None:
    """Also with a cap, a factor and a bias on the logits, and where new ids replace rows of the softmax."""
    body = Body(folder(stories, tmp_path / "model", family), "cpu")
    head = body.model.get_output_embeddings()
    given = mixture()
    for ids in (tuple(range(ROWS, ROWS + NEW)), tuple(range(514, ROWS))):
        same, found = calibrated(body, given, head.weight.data, new_tokens(ids), probe, None)
        assert same is given
        bias = getattr(head, "bias", None)
        after = grown(
            body.model, ids, given.rows(head.weight.data).float(),
            None if bias is None else given.rows(bias.data).float(), max(ROWS, ids[-1] + 1),
        )  # fmt: skip
        old, new = logits(body.model, [1]), logits(after, [1])
        increase = (new.logsumexp(1) - old.logsumexp(1)).mean()
        assert found.positions == len(old)
        assert found.loss_increase == pytest.approx(float(increase), abs=2e-6)
        kept = [i for i in range(ROWS) if i not in ids]
        gap = old[:, kept].amax(1) - new[:, list(ids)].amax(1)
        assert found.argmax_kept == pytest.approx(float((gap >= 0).double().mean()), abs=1e-12)
        assert found.margin == pytest.approx(float(gap.min()), abs=2e-5)
        if family == "gemma2":
            assert found.unigram_bound is None
        else:
            assert found.unigram_bound is not None and found.worst_bound is not None
            assert found.loss_increase <= found.unigram_bound <= found.worst_bound


def test_padding_rows_take_part_in_the_softmax(stories: Path, tmp_path: Path) -> None:
    body = Body(folder(stories, tmp_path / "model", "llama"), "cpu")
    weight = body.model.get_output_embeddings().weight.data
    ids = tuple(range(ROWS, ROWS + NEW))
    given = mixture()
    found = calibrated(body, given, weight, new_tokens(ids), probe, None, padding=5)[1]
    mean = weight[3:512].double().mean(0).float()
    rows = torch.cat([given.rows(weight).float(), mean.expand(5, -1)])
    after = grown(body.model, tuple(range(ROWS, ROWS + NEW + 5)), rows, None, ROWS + NEW + 5)
    increase = (logits(after, [1]).logsumexp(1) - logits(body.model, [1]).logsumexp(1)).mean()
    assert found.loss_increase == pytest.approx(float(increase), abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_budget_is_met_with_the_least_share(stories: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    body = Body(folder(stories, tmp_path / "model", "llama"), "cpu")
    weight = body.model.get_output_embeddings().weight.data.to(dtype)
    new = new_tokens(tuple(range(ROWS, ROWS + NEW)))
    plain = calibrated(body, mixture(), weight, new, probe, None)[1]
    least = calibrated(body, mixed(mixture(), 1.0, new), weight, new, probe, None)[1]
    budget = (plain.loss_increase + least.loss_increase) / 2
    given, found = calibrated(body, mixture(), weight, new, probe, budget)
    assert 0 < found.share < 1 and (found.share * FINEST).is_integer()
    assert found.loss_increase <= budget
    assert found.unmixed_loss_increase == plain.loss_increase
    given.check(ROWS, "here")
    assert torch.equal(given.rows(weight), mixed(mixture(), found.share, new).rows(weight))
    less = calibrated(body, mixed(mixture(), found.share - 1 / FINEST, new), weight, new, probe, None)[1]
    assert less.loss_increase > budget or dtype == torch.bfloat16  # there the rounding decides
    assert less.loss_increase > budget * 0.98
    assert calibrated(body, mixture(), weight, new, probe, plain.loss_increase)[1].share == 0


def test_shares_of_the_mean_are_those_of_the_same_rows(stories: Path, tmp_path: Path) -> None:
    new = new_tokens((ROWS,))
    given = mixed(Combination.of([[(7, 0.5)]], [0.5], range(3, 512)), 0.25, new)
    given.check(ROWS, "here")
    assert given.weights.tolist() == [0.375]
    assert given.mean_weights is not None and given.mean_weights.tolist() == [0.625]
    other = Combination.of([[(7, 1.0)]])
    assert mixed(other, 0.0, new) is other
    assert mixed(other, 1.0, new).rows(torch.eye(ROWS)).tolist() == Combination.of(
        [[]], [1.0], range(3, 512)
    ).rows(torch.eye(ROWS)).tolist()  # fmt: skip


def test_a_row_that_equals_an_old_one_ties_and_never_wins(stories: Path) -> None:
    """Exactly: products of one row taken in two places of a matrix may differ in their last bits."""
    body = Body(stories, "cpu")
    weight = body.model.get_output_embeddings().weight.data
    new = new_tokens(tuple(range(512, 1021)))
    copies = Combination.of([[(i, 1.0)] for i in range(3, 512)])
    text = [body_text(stories)]
    found = calibrated(body, copies, weight, new, lambda: text, None)[1]
    assert (found.argmax_kept, found.margin) == (1.0, 0.0)
    assert 0 < found.loss_increase <= math.log(2) + 1e-9
    beyond = calibrated(body, 1.01 * weight[3:].double(), weight, new, lambda: text, None)[1]
    assert beyond.argmax_kept < 0.5 and beyond.margin < 0 and beyond.worst_bound is None


def body_text(stories: Path) -> list[int]:
    from tokenizers import Tokenizer

    text = "Once upon a time there was a girl named Lily. She loved to play outside in the park with her dog. " * 4
    return list(Tokenizer.from_file(str(stories / "tokenizer.json")).encode(text, add_special_tokens=False).ids)


def test_bounds_are_those_of_the_column_sums(stories: Path) -> None:
    body = Body(stories, "cpu")
    weight = body.model.get_output_embeddings().weight.data
    ids = body_text(stories)
    given = Combination.of([[(300, 0.5), (301, 0.25)], [(300, 1.0)]], [0.25, 0.0], range(300, 304))
    found = calibrated(body, given, weight, new_tokens((512, 513)), lambda: [ids], None)[1]
    with torch.no_grad():
        chances = body.model(torch.tensor([[1, *ids]])).logits[0, :-1].double().softmax(1).mean(0)
    sums = torch.tensor([1.5 + 0.0625, 0.25 + 0.0625, 0.0625, 0.0625], dtype=torch.float64)
    assert found.worst_bound == pytest.approx(math.log1p(1.5625), abs=1e-12)
    assert found.unigram_bound == pytest.approx(float(torch.log1p(sums @ chances[300:304])), abs=1e-6)


def test_long_texts_are_cut_and_windows_spread(stories: Path) -> None:
    body = Body(stories, "cpu")
    hidden = body.hidden_states(lambda: [list(range(3, 503)) * 5], 10_000)
    assert hidden.shape == (2500, 64)  # in every window one position a token: the start stands before the first
    assert body.hidden_states(lambda: [list(range(3, 503)) * 5], 300).shape == (300, 64)
    assert WINDOW == 512
    with torch.no_grad():
        out = body.model.model(torch.tensor([[1, *range(3, 503), *range(3, 14)]])).last_hidden_state[0, :-1]
    torch.testing.assert_close(hidden[:511], out, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_texts", [1, 2, 40])
def test_the_halves_of_a_probe_share_no_window(stories: Path, num_texts: int) -> None:
    """However many positions each is asked for; they are as long, and share no text that is not long beside all."""
    body = Body(stories, "cpu")
    draw = torch.Generator().manual_seed(num_texts)
    lengths = [1000, *torch.randint(5, 900, (39,), generator=draw).tolist()][:num_texts]
    texts = [torch.randint(3, 512, (length,), generator=draw).tolist() for length in lengths]
    whole, *halves = (body._windows(lambda: texts, 100_000, half) for half in (None, 0, 1))
    as_sets = [set(map(tuple, windows)) for windows in (whole, *halves)]
    assert as_sets[1] | as_sets[2] == as_sets[0] and not as_sets[1] & as_sets[2]
    assert len(as_sets[0]) == len(whole) == len(halves[0]) + len(halves[1])
    sizes = [sum(map(len, windows)) for windows in halves]
    assert abs(sizes[0] - sizes[1]) <= (WINDOW if num_texts < 40 else 1000)
    if num_texts == 40:
        cuts = range(0, 1000, WINDOW - 1)
        text_of = {(1, *text[a : a + WINDOW - 1]): n for n, text in enumerate(texts) for a in cuts}
        assert not {text_of[tuple(w)] for w in halves[0]} & {text_of[tuple(w)] for w in halves[1]}
    few = body._windows(lambda: texts, 100, 0)
    assert len(few) < len(halves[0]) or num_texts < 40
    assert set(map(tuple, few)) <= as_sets[1]
    assert len(body.hidden_states(lambda: texts, 100_000, 1)) == sizes[1] - len(halves[1])


def test_a_window_that_is_alone_is_cut_in_the_middle(stories: Path) -> None:
    body = Body(stories, "cpu")
    assert [body._windows(lambda: [[7, 8, 9, 10, 11]], 10, half) for half in (0, 1)] == [
        [[1, 7, 8]],
        [[1, 9, 10, 11]],
    ]
    with pytest.raises(SurgeonError, match="the probe is too short"):
        body._windows(lambda: [[7]], 10, 0)


def test_what_cannot_be_is_refused(stories: Path, tmp_path: Path) -> None:
    body = Body(folder(stories, tmp_path / "model", "llama"), "cpu")
    weight = body.model.get_output_embeddings().weight.data
    new = new_tokens(tuple(range(ROWS, ROWS + NEW)))
    with pytest.raises(UsageError, match="only convex rows"):
        calibrated(body, mixture().rows(weight), weight, new, probe, 0.02)
    with pytest.raises(SurgeonError, match="the mean alone"):
        calibrated(body, mixture(), weight, new, probe, 1e-7)
    with pytest.raises(SurgeonError, match="no text"):
        calibrated(body, mixture(), weight, new, lambda: [[]], None)
    body.model.config.logit_scale = 3.0  # a family whose logits are made in a way that is not known
    del body.head
    with pytest.raises(SurgeonError, match="not what its output matrix gives"):
        calibrated(body, mixture(), weight, new, probe, None)


@pytest.mark.parametrize("pad", [None, 64])
def test_the_lineage_says_what_the_written_model_loses(stories: Path, tmp_path: Path, pad: int | None) -> None:
    """From the settings to the file: the loss of the written model on the probe, by transformers."""
    corpus, old, out = tmp_path / "new.txt", tmp_path / "old.txt", tmp_path / "out"
    corpus.write_text("Haemoglobin carries oxygen; haemophilia is a disorder. Haemoglobin falls in anaemia. " * 9)
    old.write_text("Once upon a time there was a girl named Lily. She loved to play outside with her dog. " * 3)
    settings = ExtendVocabSettings(
        model=str(stories), out=out, corpus=[str(corpus)], add=20, probe=[str(old)], old_loss_budget=0.0002,
        init="weighted_pieces",
        pad_to_multiple_of=pad, device="cpu",
    )  # fmt: skip
    plan = plan_extend_vocab(settings)
    assert plan_extend_vocab(settings).digest == plan.digest
    execute(plan, out, threads=1)
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.rows is not None and lineage.rows.calibration is not None
    found = Calibration(**lineage.rows.calibration)
    assert found.budget == 0.0002 and 0 < found.share < 1 and found.argmax_kept == 1
    tokenizer = transformers.AutoTokenizer.from_pretrained(stories)
    ids = torch.tensor([tokenizer(old.read_text())["input_ids"]])
    values = []
    for path in (stories, out):
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        with torch.no_grad():
            values.append(model(ids).logits[0, :-1].double().logsumexp(1))
    assert len(values[0]) == found.positions
    increase = float((values[1] - values[0]).mean())
    assert found.loss_increase == pytest.approx(increase, rel=2e-3)
    assert 0.00019 < increase <= 0.0002 * (1 + 1e-4)
    assert json.loads(json.dumps(found.to_json())) == lineage.rows.calibration
