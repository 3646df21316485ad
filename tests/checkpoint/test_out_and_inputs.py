"""An output never takes the place of an input, of a link or of the folder one stands in."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgeon.checkpoint.commit import check_apart, check_out, staged
from surgeon.errors import SurgeonError


@pytest.mark.parametrize("out", ["model", "model/deeper", ".", "other/../model", "link", "link/deeper"])
def test_an_output_on_in_or_around_an_input_is_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("model")
    with pytest.raises(SurgeonError, match="never changed"):
        check_apart(tmp_path / out, [tmp_path / "model"])


def test_an_output_beside_its_input_is_taken(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    check_apart(tmp_path / "model-deep", [tmp_path / "model"])


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_link_is_not_replaced(tmp_path: Path, target: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("1")
    (tmp_path / "out").symlink_to(target)
    with pytest.raises(SurgeonError, match="link"), staged(tmp_path / "out", force=True):
        pass
    assert (tmp_path / "there" / "file").read_text() == "1" and (tmp_path / "out").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "there"]


@pytest.mark.parametrize("out", [".", "..", "../here"])
def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SurgeonError, match="current folder"):
        check_out(Path(out), force=True)
