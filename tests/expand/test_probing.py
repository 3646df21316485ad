"""Selectors that probe the model: the same scores as leaving blocks out one by one, and how sure they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_identity import expanded
from tiny import FAMILIES, VOCAB

from surgeon.arch.family import family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import BlockProbe
from surgeon.data.pack import IGNORED
from surgeon.errors import SurgeonError, UsageError
from surgeon.expand.bootstrap import bootstrap
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.expand.selectors.importance import left_out
from surgeon.expand.selectors.io_cosine import cosines
from surgeon.expand.stack import Stack
from surgeon.loading import load_model

Tiny = Callable[..., Path]
LENGTHS = (20, 9)  # the second row ends in padding


def stack_of(folder: Path) -> Stack:
    model = load_model(folder, device=torch.device("cpu"), dtype=torch.float32)
    return Stack(model, family_of(Checkpoint.open(folder)))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, VOCAB, (2, LENGTHS[0]), generator=torch.Generator().manual_seed(2))
    labels = torch.full_like(ids, IGNORED)
    for row, length in enumerate(LENGTHS):
        labels[row, : length - 1] = ids[row, 1:length]
        ids[row, length:] = 0
    return ids, labels


@torch.no_grad()
def naive(stack: Stack, ids: torch.Tensor, labels: torch.Tensor, block: int | None) -> tuple[torch.Tensor, Any]:
    """(nats [rows], what went into and came out of the block): the whole model anew, the block's result thrown away,
    each row alone and without its padding."""
    nats, seen = [], []

    def pass_by(_: Any, args: Any, kwargs: Any, output: Any) -> Any:
        entering = args[0] if args else kwargs["hidden_states"]
        seen.append((entering, output[0] if isinstance(output, tuple) else output))
        return (entering, *output[1:]) if isinstance(output, tuple) else entering

    hook = None if block is None else stack.blocks[block].register_forward_hook(pass_by, with_kwargs=True)
    for row, length in enumerate(LENGTHS):
        logits = stack.model(input_ids=ids[row : row + 1, :length], use_cache=False).logits[0]
        scored = labels[row, : length - 1]
        nats.append(-logits[:-1].double().log_softmax(-1)[torch.arange(length - 1), scored].sum())
    if hook is not None:
        hook.remove()
    return torch.stack(nats), seen


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_leaving_blocks_out_one_by_one(tiny: Tiny, family: str) -> None:
    stack, (ids, labels) = stack_of(tiny(family)), batch()
    found, whole = left_out(stack, ids, labels)
    turned, _ = cosines(stack, ids, labels)
    reference, _ = naive(stack, ids, labels, None)
    tokens = sum(LENGTHS) - len(LENGTHS)
    assert float((whole - reference).abs().max()) / tokens < 1e-6
    for block in range(len(stack.blocks)):
        nats, seen = naive(stack, ids, labels, block)
        # a token's share of the difference, at the size that float32 logits of this model allow
        assert float((found[:, block] - (nats - reference)).abs().max()) / tokens < 1e-6 * max(1.0, float(nats.max()))
        for row, (entering, leaving) in enumerate(seen):
            mean = torch.cosine_similarity(entering.double(), leaving.double(), dim=-1)[0, :-1].sum()
            assert float((turned[row, block] - mean).abs()) < 1e-5
    assert not any("forward" in vars(block) for block in stack.blocks), "the blocks are as they were"


def test_entering_at_the_bottom_is_the_model_itself(stories: Path) -> None:
    stack, (ids, _) = stack_of(stories), batch()
    passage = stack.run(ids)
    for block in range(len(stack.blocks)):
        assert torch.equal(stack.enter(ids, block, passage.entering[block], passage), passage.logits)
    assert torch.equal(stack.enter(ids, 5, passage.leaving(4), passage), passage.logits)


def probe_of(folder: Path) -> BlockProbe:
    lineage = Checkpoint.open(folder).lineage
    assert lineage is not None and lineage.blocks is not None and lineage.blocks.probe is not None
    return lineage.blocks.probe


@pytest.mark.parametrize("selector", ["importance", "io_cosine"])
def test_a_planted_useless_block_is_found_first(stories: Path, tmp_path: Path, selector: str) -> None:
    """Block 3 of the deepened model adds nothing to what passes through it."""
    planted = expanded(stories, tmp_path / "planted", at=[2], fill="zero")
    corpus = str(stories.parent / "general.valid.jsonl")
    out = expanded(planted, tmp_path / "out", add=1, select=selector, probe=corpus, option={"tokens": "3k"})
    lineage = Checkpoint.open(out).lineage
    assert lineage is not None and lineage.blocks is not None
    assert [(new.block, new.source) for new in lineage.blocks.new] == [(4, 3)]
    probe = probe_of(out)
    assert [s.block for s in probe.scores] == list(range(6)) and probe.documents > 2 and probe.tokens >= 3000
    useless = probe.scores[3]
    assert useless.score == pytest.approx(0.0 if selector == "importance" else 1.0, abs=1e-12)
    assert (useless.low, useless.high, useless.chosen) == (useless.score, useless.score, 1.0)
    assert all(s.low <= s.score <= s.high and s.low < s.high for s in probe.scores if s.block != 3)
    controls = {"importance": {"order": "most"}, "io_cosine": {"order": "lowest"}}[selector]
    options = {"tokens": 3000, **controls}
    plan = plan_expand(
        ExpandSettings(model=str(planted), out=tmp_path / "o", add=5, select=selector, probe=corpus, option=options)
    )
    assert plan.lineage.blocks is not None and 3 not in {new.source for new in plan.lineage.blocks.new}


def test_what_was_probed_is_kept_and_comes_out_the_same_again(stories: Path, tmp_path: Path) -> None:
    corpus = str(stories.parent / "general.valid.jsonl")
    settings: dict[str, Any] = {"add": 2, "select": "importance", "probe": f"old={corpus}", "option": {"tokens": 2000}}
    one, two = (expanded(stories, tmp_path / name, **settings) for name in ("one", "two"))
    drawing = next((one / "surgeon").glob("blocks-*.svg"))
    assert drawing.read_bytes() == (two / "surgeon" / drawing.name).read_bytes()
    assert drawing.read_text().startswith("<?xml") and "importance, nats a token" in drawing.read_text()
    assert (one / "surgeon.json").read_bytes() == (two / "surgeon.json").read_bytes()
    record = json.loads((one / "surgeon.json").read_text())
    assert record["settings"]["probe"]["name"] == "old" and corpus not in json.dumps(record)
    again = expanded(one, tmp_path / "deeper", **settings)
    assert len(list((again / "surgeon").glob("blocks-*.svg"))) == 2, "the drawings of both expansions"


def test_intervals_are_those_of_a_mean(tmp_path: Path) -> None:
    """Of documents of one length a score is a mean: its interval is 1.96 standard errors to both sides."""
    generator = np.random.default_rng(0)
    sums = generator.normal([0.0, 1.0, 1.1], [0.5, 1.0, 1.0], size=(400, 3)) * 10
    found = bootstrap(sums, np.full(400, 10.0), 1, 1.0, 4000, 0.95, 7)
    mean, error = sums.mean(0) / 10, sums.std(0) / 10 / 20
    assert np.allclose(found.scores, mean)
    assert np.allclose(found.low, mean - 1.96 * error, atol=0.1 * error.max())
    assert np.allclose(found.high, mean + 1.96 * error, atol=0.1 * error.max())
    assert found.chosen.tolist() == pytest.approx([1.0, 0.0, 0.0])
    close = bootstrap(sums[:, 1:], np.full(400, 10.0), 1, 1.0, 4000, 0.95, 7)
    assert 0.02 < close.chosen[1] < 0.5 < close.chosen[0] and close.chosen.sum() == pytest.approx(1.0)
    again = bootstrap(sums, np.full(400, 10.0), 1, 1.0, 4000, 0.95, 7)
    assert np.array_equal(again.low, found.low)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"add": 1}, UsageError, "probes the model on a text"),
        ({"probe": "CORPUS"}, UsageError, "needs the number of blocks"),
        ({"add": 6, "probe": "CORPUS"}, UsageError, "more than the 5 blocks"),
        ({"add": 1, "probe": "ONE"}, SurgeonError, r"holds 1 document\(s\)"),
        ({"add": 1, "probe": "absent.jsonl"}, SurgeonError, "no such corpus"),
        ({"add": 1, "probe": "CORPUS", "option": {"level": "1.5"}}, UsageError, "level='1.5' is not valid"),
        ({"add": 1, "probe": "CORPUS", "option": {"tokens": "0"}}, UsageError, "tokens='0' is not valid"),
        ({"add": 1, "probe": "CORPUS", "option": {"context": "1"}}, SurgeonError, "windows of 1 tokens are too short"),
        ({"add": 1, "probe": "CORPUS", "option": {"context": "2"}}, SurgeonError, "windows of 2 tokens are too short"),
        ({"add": 1, "select": "uniform", "probe": "CORPUS"}, UsageError, "does not probe the model"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    stories: Path, tmp_path: Path, settings: dict[str, Any], kind: type[Exception], message: str
) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text('{"text": "Once upon a time there was a little dog."}\n')
    places = {"CORPUS": str(stories.parent / "general.valid.jsonl"), "ONE": str(one)}
    given = {"select": "importance"} | {k: places.get(str(v), v) for k, v in settings.items()}
    with pytest.raises(kind, match=message):
        plan_expand(ExpandSettings(model=str(stories), out=tmp_path / "out", **given))


def test_the_least_context_that_a_refusal_names_works(stories: Path, tmp_path: Path) -> None:
    corpus = str(stories.parent / "general.valid.jsonl")
    given = {"add": 1, "select": "importance", "probe": corpus}
    with pytest.raises(SurgeonError) as caught:
        plan_expand(ExpandSettings(model=str(stories), out=tmp_path / "o", option={"context": 2}, **given))
    assert caught.value.hint == "give a context of 3 tokens or more"
    plan_expand(ExpandSettings(model=str(stories), out=tmp_path / "o", option={"context": 3, "tokens": 500}, **given))


def test_a_model_with_nan_is_refused(tiny: Tiny, stories: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(stories, broken)
    held = load_file(broken / "model.safetensors")
    held["model.layers.3.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(held, broken / "model.safetensors", {"format": "pt"})
    corpus = str(stories.parent / "general.valid.jsonl")
    with pytest.raises(SurgeonError, match="not a number"):
        plan_expand(ExpandSettings(model=str(broken), out=tmp_path / "o", add=1, select="importance", probe=corpus))


@pytest.mark.material
@pytest.mark.long
def test_blocks_of_the_larger_real_model(material: Path, tmp_path: Path) -> None:
    base = material / "models" / "base"
    corpus = str(material / "corpora" / "general_en.valid.jsonl")
    out = expanded(base, tmp_path / "out", add=2, select="importance", probe=corpus)
    scores = probe_of(out).scores
    assert len(scores) == 8 and all(s.score > 0 for s in scores)
