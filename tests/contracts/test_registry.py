"""A method is a file: dropping one in makes it known everywhere, and its words are checked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from surgeon import registry
from surgeon.errors import UsageError

PACKAGE = Path(registry.__file__).parent

NEW_FILL = '''"""Zero everything."""

from surgeon.arch.family import Family
from surgeon.expand.fill import Filled, copies
from surgeon.ops.plan import Zeros


def blank(family: Family, block: int, *, keep_norms: bool = True) -> Filled:
    """A block of zeros.

    Source: this test.
    """
    sources = {
        name: source if keep_norms and family.role(name) == "norm" else Zeros()
        for name, source in copies(family, block).items()
    }
    return Filled(sources)
'''


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in registry.KINDS for n in registry.names(k)])
def test_every_method_describes_itself(kind: str, name: str) -> None:
    method = registry.get(kind, name)
    assert method.function.__name__ == name
    assert method.summary.endswith((".", ":")) or len(method.summary) > 15, "the docstring's first line is the help"
    for option in method.options.values():
        assert option.annotation is not str or isinstance(option.default, str) or option.required, option


def test_a_dropped_in_file_is_known_everywhere(tmp_path: Path, stories: Path) -> None:
    """In a copy of the package: nothing but the new file is added."""
    shutil.copytree(PACKAGE, tmp_path / "surgeon", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "surgeon" / "expand" / "fills" / "blank.py").write_text(NEW_FILL)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def surgeon(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "surgeon", *words],
            capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
        )  # fmt: skip

    listed = json.loads(surgeon("methods", "fill", "--json").stdout)["methods"]
    blank = next(m for m in listed if m["name"] == "blank")
    assert blank["summary"] == "A block of zeros." and blank["source"] == "this test."
    assert blank["options"] == {"keep_norms": {"type": "bool", "required": False, "default": True}}
    done = surgeon("expand-layers", str(stories), "out", "--add", "1", "--fill", "blank", "--json")
    assert done.returncode == 0, done.stderr
    wrong = surgeon("expand-layers", str(stories), "out2", "--add", "1", "--fill", "blanc")
    assert wrong.returncode == 2 and "did you mean 'blank'" in wrong.stderr
    words = ("expand-layers", str(stories), "out2", "--add", "1", "--fill", "blank")
    wrong = surgeon(*words, "--option-fill", "keep_norm=1")
    assert wrong.returncode == 2 and "did you mean 'keep_norms'" in wrong.stderr


def test_a_method_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_schedules.py").write_text(
        'def half(step: int, total: int, *, level: float = 0.5) -> float:\n    """Half."""\n    return level\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    method = registry.get("schedule", "my_schedules:half")
    assert method.call({"step": 1, "total": 2}, {"level": "0.25"}) == 0.25
    with pytest.raises(UsageError):
        registry.get("schedule", "my_schedules:absent")


def test_options_are_typed_and_checked() -> None:
    method = registry.get("kernel", "constant")
    assert method.bind({"value": "3e-4"}) == {"value": 3e-4}
    for wrong in ({"valeu": 1.0}, {"value": "many"}, {}):
        with pytest.raises(UsageError):
            method.bind(wrong)
    with pytest.raises(UsageError, match="does not supply"):
        method.call({}, {"value": 1.0})
