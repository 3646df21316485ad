"""A model from elsewhere that is deeper and has more tokens: --blocks tells of its blocks, its tokens of its rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from merge_models import expanded, merged, tensors, trained
from test_rows_by_token import EMBEDDING, words
from test_without_lineage import forgotten, refusal

from surgeon.verify import verify

BLOCKS = "0,1,1:zero,2,3,4"


@pytest.fixture
def domain(stories: Path, tmp_path: Path) -> Path:
    """With surgeon.json: deeper, with more tokens, and trained."""
    wide = words(expanded(stories, tmp_path / "deep", [1]), tmp_path / "wide", ["dragonfly", "windmill", "marmalade"])
    return trained(wide, tmp_path / "domain", 2)


def test_old_rows_are_merged_and_own_rows_stay_as_they_are(stories: Path, tmp_path: Path, domain: Path) -> None:
    instruct = trained(stories, tmp_path / "instruct", 1, lineage=False)
    known = tensors(merged(tmp_path / "known", stories, {instruct: 0.6, domain: 0.7}))
    plain = forgotten(domain, tmp_path / "plain")
    told = merged(tmp_path / "told", stories, {instruct: 0.6, plain: 0.7}, blocks=BLOCKS)
    found = tensors(told)
    old = len(tensors(stories)[EMBEDDING])
    assert len(found[EMBEDDING]) > old
    assert all(torch.equal(found[name], known[name]) for name in known if name != EMBEDDING)
    assert torch.equal(found[EMBEDDING][:old], known[EMBEDDING][:old])
    # nothing is known of how these began, so they have no delta
    assert torch.equal(found[EMBEDDING][old:], tensors(domain)[EMBEDDING][old:])
    assert verify(told, function=True)["holds"]


def test_a_deeper_model_that_is_not_the_target_meets_by_token(stories: Path, tmp_path: Path, domain: Path) -> None:
    """One of two has the base's tokens, both were made deeper in the same way."""
    other = trained(expanded(stories, tmp_path / "deep-too", [1]), tmp_path / "other", 3)
    plain, too = forgotten(domain, tmp_path / "plain"), forgotten(other, tmp_path / "too")
    found = tensors(merged(tmp_path / "told", stories, {too: 0.6, plain: 0.7}, blocks=BLOCKS, onto=str(plain)))
    known = tensors(merged(tmp_path / "known", stories, {other: 0.6, domain: 0.7}))
    old = len(tensors(stories)[EMBEDDING])
    assert all(torch.equal(found[name], known[name]) for name in known if name != EMBEDDING)
    assert torch.equal(found[EMBEDDING][:old], known[EMBEDDING][:old])
    assert torch.equal(found[EMBEDDING][old:], tensors(domain)[EMBEDDING][old:])


def test_a_lineage_that_does_not_tell_of_the_rows_is_refused(stories: Path, tmp_path: Path, domain: Path) -> None:
    plain = forgotten(domain, tmp_path / "plain")
    found = refusal(stories, str(plain), lineage=tmp_path / "deep" / "surgeon.json")
    assert "tells of 6 blocks and 512 rows" in found.problem
