"""A verb of a command is one file; the command itself stays what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_cli import surgeon

from surgeon.cli.verbs import all_verbs, commands_with_verbs, joined


def test_a_verb_is_the_word_behind_its_command() -> None:
    assert "cpt export" in all_verbs()
    assert joined(["cpt", "export", "a", "b"]) == ["cpt export", "a", "b"]
    for words in (["cpt", "./export", "b"], ["cpt", "model", "export"], ["merge", "export"], ["cpt"], []):
        assert joined(words) == words


def test_help_lists_the_verbs_of_a_command_only_there() -> None:
    told = {command: " ".join(surgeon(command, "--help").out.split()) for command in commands_with_verbs()}
    for name, module in all_verbs().items():
        for command, flat in told.items():
            own = name.startswith(f"{command} ")
            assert (f"surgeon {name} ... {module.ABOUT[:30]}" in flat) == own, (name, command)
    assert "cpt export" not in surgeon("--help").out
    told = " ".join(surgeon("cpt", "export", "--help").out.split())
    assert " cpt export [OPTIONS] [MODEL] [OUT]" in told and "--option-to" in told and "--to" in told


@pytest.mark.parametrize("words", [("--tokens", "600"), ("--json", "--tokens", "600")])
def test_a_model_called_like_a_verb_is_reached_by_its_path(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "export").symlink_to(stories)
    (tmp_path / "t.jsonl").write_text('{"text": "Once upon a time there was a little dog."}\n' * 20)
    run = ("--data", "t.jsonl", *words)
    done = surgeon("cpt", "./export", "out", *run, "--seq-len", "32", "--batch-tokens", "64", "--dry-run")
    assert done.code == 0 and "flops_per_token" in done.out
    refused = surgeon("cpt", "export", "out", *run)
    assert refused.code == 2 and "OUT is needed" in refused.err
    assert "where: surgeon cpt export MODEL OUT\n mend: give OUT" in refused.err


def test_mistakes_name_the_verb() -> None:
    done = surgeon("cpt", "export", "a", "b", "--nonsense")
    assert done.code == 2 and "surgeon cpt export --help" in done.err and "surgeon cpt export a b" in done.err
