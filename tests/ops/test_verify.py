"""verify sees a change of any file that was written, and reports damage as a difference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from surgeon.errors import SurgeonError
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.execute import execute
from surgeon.verify import verify


@pytest.fixture(scope="module")
def written(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "deep"
    execute(plan_expand(ExpandSettings(model=str(stories), out=out, add=1)), out)
    return out


def _swap(path: Path) -> None:
    path.write_text(path.read_text().replace("1e-05", "1e-03").replace("the", "teh"))


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-10] ^= 64
    path.write_bytes(raw)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", _swap),
        ("tokenizer.json", _swap),
        ("tokenizer.model", _flip),
        ("model.safetensors", _flip),
        ("generation_config.json", Path.unlink),
    ],
)
def test_any_changed_file_is_found(written: Path, tmp_path: Path, name: str, change: Callable[[Path], None]) -> None:
    out = tmp_path / "out"
    shutil.copytree(written, out)
    assert verify(out)["holds"]
    change(out / name)
    result = verify(out)
    assert not result["holds"]
    assert [c["check"] for c in result["checks"] if not c["holds"]] == [f"bytes of {name}"]


@pytest.mark.parametrize("change", [_truncate, Path.unlink])
def test_damage_is_a_difference_with_function_too(
    stories: Path, written: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    out, text = tmp_path / "out", tmp_path / "a.txt"
    shutil.copytree(written, out)
    text.write_text("Once upon a time")
    change(out / "model.safetensors")
    result = verify(out, function=True, data=[str(text)], parent=stories)
    failed = [c["check"] for c in result["checks"] if not c["holds"]]
    assert failed == ["bytes of model.safetensors", "the promise of the operation"]


def test_a_moved_parent_is_refused(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "a" / "b" / "out")
    with pytest.raises(SurgeonError, match="not where it was"):
        verify(tmp_path / "a" / "b" / "out", function=True, data=["x"])


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja", "added_tokens.json", "special_tokens_map.json", "adapter_config.json", "vocab.json",
        "model.safetensors.index.json", "pytorch_model.bin", "modeling_llama.py", "preprocessor_config.json",
        "additional_chat_templates/tools.jinja",
    ],
)  # fmt: skip
def test_a_file_that_a_model_is_loaded_from_is_found_when_it_is_added(
    written: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(written, out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("{}")
    failed = [c for c in verify(out)["checks"] if not c["holds"]]
    assert [(c["check"], c["detail"]) for c in failed] == [("no other files that a model is loaded from", name)]


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "report.html", "report.json", ".gitattributes"])
def test_a_file_beside_the_model_may_be_added(written: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(written, out)
    (out / name).write_text("{}")
    assert verify(out)["holds"]
