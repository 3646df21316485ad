"""Every example of every --help is executed, in the order of the journey, in one folder."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shlex
import shutil
from itertools import product
from pathlib import Path
from types import ModuleType

import multimodal_models
import pytest
from run_cli import surgeon

from surgeon.cli import commands
from surgeon.cli.verbs import all_verbs

ORDER = (
    "extract_language_model", "graft_language_model", "expand_layers", "extend_vocab", "extend_context",
    "attach_adapter", "fold_adapter", "cpt", "cpt export", "cpt anneal", "simplify_adapter", "average",
    "merge_task_vectors", "merge", "evaluate", "inspect", "verify", "diff", "vectors", "mix fit", "mix predict",
    "mix optimum", "mix", "report", "push", "methods", "cache prune", "cache", "apply", "recipes", "run",
)  # fmt: skip
CODES = {"surgeon diff base instruct": 3}


def module_of(name: str) -> ModuleType:
    """Of a command, or of a verb ("cpt export")."""
    return all_verbs().get(name) or importlib.import_module(f"surgeon.cli.commands.{name}")


def head(source: Path, target: Path, lines: int) -> None:
    target.write_text("".join(source.open(encoding="utf-8").readlines()[:lines]), encoding="utf-8")


def write_tables(folder: Path) -> None:
    """Finished trainings for `mix`: of three model sizes, and of one."""
    lines = ["parameters,tokens,share,general,domain"]
    one_size = []
    for size, tokens, share in product((0.46, 1.8, 4.0), (5, 10, 20), (0.25, 0.5, 0.75, 1.0)):
        general = 1.6 + 0.6 / size**0.3 + 0.2 * (1 - share) ** 0.5 / tokens**0.3 + 0.2 / (1.02 - share) ** 0.4
        domain = 1.0 + 0.4 / size**0.3 + 0.1 * share**0.4 / tokens**0.3 + 0.2 / (share + 0.1) ** 0.5
        lines.append(f"{size}B,{tokens}B,{share},{general},{domain}")
        if size == 0.46:
            one_size.append({"parameters": "460M", "tokens": f"{tokens}B", "share": share, "general": general})
            one_size[-1] |= {"domain": domain, "general_start": 2.7}
    (folder / "runs.csv").write_text("\n".join(lines) + "\n")
    (folder / "runs-of-one-size.jsonl").write_text("".join(json.dumps(row) + "\n" for row in one_size))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, stories: Path) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(stories, folder / "base")
    head(stories.parent / "domain.train.jsonl", folder / "domain.jsonl", 20)
    head(stories.parent / "general.valid.jsonl", folder / "general.jsonl", 20)
    head(stories.parent / "instruct.valid.jsonl", folder / "instruct.jsonl", 40)
    write_tables(folder)
    multimodal_models.build("gemma3", folder / "multimodal", stories)
    return folder


def test_all_examples(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {m.name for m in pkgutil.iter_modules(commands.__path__)} | set(all_verbs())
    assert found == set(ORDER), "a new command has examples too: put it into ORDER"
    monkeypatch.chdir(workplace)
    for name in ORDER:
        examples = module_of(name).EXAMPLES
        assert examples
        for line in examples:
            program, *words = shlex.split(line)
            assert program == "surgeon"
            done = surgeon(*words)
            assert done.code == CODES.get(line, 0), f"{line}\n{done.out}\n{done.err}"
            assert done.out.strip(), line
            assert not list(workplace.glob(".*.partial")), line


@pytest.mark.parametrize("name", [n.replace("_", "-") for n in ORDER])
def test_help_shows_the_examples(name: str) -> None:
    done = surgeon(*name.split(), "--help")
    module = module_of(name.replace("-", "_"))
    flat = " ".join(done.out.split())
    assert done.code == 0 and "Examples:" in flat
    for line in module.EXAMPLES:
        assert " ".join(line.split())[:60] in flat
    if name != "recipes":
        assert "--json" in flat and "--quiet" in flat and "--debug" in flat
