"""A merge in the report: its numbers are those of the merge, and every block and part has a cell."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from report_folders import Page

from surgeon.errors import SurgeonError
from surgeon.merge.plan import MergeSettings, plan_merge
from surgeon.ops.execute import execute
from surgeon.report.html import write_report

sys.path.insert(0, str(Path(__file__).parent.parent / "merge"))
from merge_models import expanded, trained


@pytest.fixture
def merged(stories: Path, tmp_path: Path) -> tuple[Path, dict[str, object]]:
    deep = expanded(stories, tmp_path / "deep", [1])
    one, other = trained(stories, tmp_path / "one", 1), trained(deep, tmp_path / "other", 2)
    out = tmp_path / "out"
    words = [f"{one}=0.5", f"{other}=0.5"]
    result = execute(plan_merge(MergeSettings(base=str(stories), out=out, add=words)), out).to_json()
    return out, result


def test_a_report_shows_how_the_deltas_lie(merged: tuple[Path, dict[str, object]]) -> None:
    out, result = merged
    paths = write_report(out)
    numbers = json.loads(paths.json.read_text())
    (merge,) = numbers["merges"]
    vectors = json.loads(json.dumps(result["vectors"]))
    assert merge["models"] == vectors["models"] and len(merge["units"]) == len(vectors["units"])
    assert merge["total"]["relative"] == vectors["total"]["relative"]
    text = paths.html.read_text()
    page = Page(text)
    assert not page.open
    svgs = re.findall(r'<svg class="plot".*?</svg>', text, re.DOTALL)
    assert len(svgs) == 3  # a map for each model, one for the pair
    titles = [re.search(r'aria-label="([^"]*)"', svg)[1] for svg in svgs]  # type: ignore[index]
    assert titles[0].startswith("|delta| / |base| of") and titles[2].startswith("cosine of")
    parts = {u["unit"].partition(".")[2] for u in vectors["units"] if u["unit"][0].isdigit()}
    at = merge["models"].index("other")
    there = [u for u in vectors["units"] if u["unit"][0].isdigit() and u["relative"][at] is not None]
    assert svgs[at].count("var(--loss)") == len(there)
    assert all(part in svgs[at] for part in parts)
    assert f"{vectors['total']['pairs'][0]['cosine']:.5f}" in page.text
    write_report(out, out=out.parent / "again")
    assert (out.parent / "again" / "report.html").read_bytes() == paths.html.read_bytes()


def test_a_damaged_record_is_refused(merged: tuple[Path, dict[str, object]]) -> None:
    out, _ = merged
    path = next((out / "surgeon").glob("metrics-vectors-*.json"))
    path.write_text('{"models": []}')
    with pytest.raises(SurgeonError, match="not what a merge wrote"):
        write_report(out)
    path.unlink()
    assert json.loads(write_report(out).json.read_text())["merges"] == []
