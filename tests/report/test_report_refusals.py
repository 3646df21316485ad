"""What a report refuses: folders and files that it cannot read, places where it cannot write."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_folders import checkpoint, deepened, extended, metrics, metrics_path, trained

from surgeon.checkpoint.lineage import dump_lineage
from surgeon.errors import SurgeonError
from surgeon.report.html import write_report


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "does not hold a JSON object"),
        ('{"format": 2, "recipe": "r", "title": "t", "stages": []}', "not the record of a run"),
        ('{"format": 1, "recipe": "r", "title": "t", "stages": [{"name": "a"}]}', "Field required"),
        (
            '{"format": 1, "recipe": "r", "title": "t", "stages": [{"name": "a", "operation": "evaluate"}]}',
            "not a result of evaluate",
        ),
        (
            '{"format": 1, "recipe": "r", "title": "t", "stages":'
            ' [{"name": "a", "operation": "cpt", "result": {"eval": [{"step": "1", "name": "x"}]}}]}',
            "evaluations of a training cannot be read",
        ),
        ("\udcff", "not valid JSON"),
    ],
)
def test_run_json_that_cannot_be_read(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(SurgeonError, match=said) as caught:
        write_report(tmp_path)
    assert str(tmp_path) in caught.value.where and caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="no such folder"):
        write_report(tmp_path / "absent")
    with pytest.raises(SurgeonError, match=r"neither run\.json nor surgeon\.json"):
        write_report(tmp_path)
    folder = checkpoint(tmp_path / "m", trained(deepened()), metrics(2))
    path = metrics_path(folder, trained(deepened()))
    path.write_text(path.read_text(encoding="utf-8") + '{"step": 3, "lo', encoding="utf-8")
    with pytest.raises(SurgeonError, match="not a step") as caught:
        write_report(folder)
    assert caught.value.where == f"{path}:3"
    path.unlink()
    (tmp_path / "file").touch()
    with pytest.raises(SurgeonError, match="cannot be written"):
        write_report(folder, out=tmp_path / "file")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "surgeon.json").write_text(dump_lineage(extended(deepened())), encoding="utf-8")
    with pytest.raises(SurgeonError, match=r"tokenizer\.json cannot be loaded"):
        write_report(folder)
