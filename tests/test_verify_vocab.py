"""verify on outputs of extend-vocab: every promise holds on real models, and each check finds what breaks it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_cli import surgeon
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import build

from surgeon.errors import SurgeonError
from surgeon.ops.execute import execute
from surgeon.verify import verify
from surgeon.vocab.hull_file import HULL_FILE
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings

TEXT = "Haemoglobin carries oxygen; haemophilia is a disorder of clotting. The haematologist measured haemoglobin. "
OLD = "Once upon a time there was a little girl named Lily. She loved to play outside in the park with her dog."
E, H = "model.embed_tokens.weight", "lm_head.weight"
NOT_NEGATIVE, SUM, ROWS = (
    f"weights of {E} are not negative",
    f"weights of {E} sum to 1",
    f"rows of {E} are what the weights give",
)
FILE_NOT_NEGATIVE, FILE_SUM = (
    f"weights of {E} in {HULL_FILE} are not negative",
    f"weights of {E} in {HULL_FILE} sum to 1",
)
FILE_SAME, FILE_ROWS = (
    f"weights of {E} in {HULL_FILE} are those of the lineage",
    f"rows of {E} are what {HULL_FILE} gives",
)
OLD_ROWS, LOGITS = f"old rows of {E}", "logits of old ids are the parent's"
WINS, GREEDY, LOSS = (
    "no new token wins over the best old one",
    "greedy text is the parent's",
    "old text loses no more than its bound",
)
FUNCTION = (LOGITS, WINS, GREEDY, LOSS)


def extend(model: Path, out: Path, **options: Any) -> Path:
    text = out.with_suffix(".txt")
    text.write_text(TEXT * 4, encoding="utf-8")
    settings = ExtendVocabSettings(model=str(model), out=out, corpus=[str(text)], **{"add": 20} | options)
    execute(plan_extend_vocab(settings), out, threads=1)
    return out


def broken(result: dict[str, Any]) -> set[str]:
    return {c["check"] for c in result["checks"] if not c["holds"] and not c["check"].startswith("bytes of")}


@pytest.fixture(scope="module")
def wide(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extend(stories, tmp_path_factory.mktemp("verify") / "wide", init="convex_hull")


@pytest.fixture
def old(tmp_path: Path) -> str:
    (tmp_path / "old.txt").write_text(OLD, encoding="utf-8")
    return str(tmp_path / "old.txt")


@pytest.mark.parametrize("init", ["subword_mean", "convex_hull", "gaussian"])
def test_a_tied_model_keeps_its_promises(stories: Path, tmp_path: Path, old: str, init: str) -> None:
    out = extend(stories, tmp_path / "out", init=init)
    result = verify(out, function=True, data=[old], parent=stories)
    assert result["holds"], broken(result)
    details = {c["check"]: c["detail"] for c in result["checks"]}
    assert set(FUNCTION) <= details.keys()
    if init == "gaussian":
        assert details["hull certificates"] == "no row claims one"
        assert all(
            details[name].startswith("not promised, as not all output rows are convex") for name in FUNCTION[1:]
        )
    else:
        assert {NOT_NEGATIVE, SUM, ROWS, FILE_NOT_NEGATIVE, FILE_SUM, FILE_SAME, FILE_ROWS} <= details.keys()
        assert details[ROWS] == "byte for byte" and "bound log(1 + " in details[LOSS]


@pytest.mark.parametrize("cap", [3.0, None])
def test_no_bound_is_claimed_under_a_soft_cap(stories: Path, tmp_path: Path, old: str, cap: float | None) -> None:
    """exp of a capped logit is not convex in it, so column sums bound nothing; that no new row wins still holds."""
    model = build("gemma2", tmp_path / "model", vocab_size=512, final_logit_softcapping=cap)
    for path in stories.glob("tokenizer*"):
        shutil.copyfile(path, model / path.name)
    out = extend(model, tmp_path / "out", init="convex_hull")
    result = verify(out, function=True, data=[old], parent=model)
    assert result["holds"], broken(result)
    details = {c["check"]: c["detail"] for c in result["checks"]}
    assert ("bound log(1 + " in details[LOSS]) == (cap is None)
    assert details[LOSS].startswith("no bound holds under a soft cap") == (cap is not None)
    assert details[WINS].startswith("0 wins")


@pytest.mark.material
@pytest.mark.parametrize(
    ("init", "output"),
    [("subword_mean", None), ("convex_hull", None), ("gaussian", None), ("convex_hull", "gaussian")],
)
def test_an_untied_model_keeps_its_promises(
    material: Path, tmp_path: Path, old: str, init: str, output: str | None
) -> None:
    base = material / "models" / "base"
    out = extend(base, tmp_path / "out", init=init, init_output=output)
    result = verify(out, function=True, data=[old], parent=base)
    assert result["holds"], broken(result)
    details = {c["check"]: c["detail"] for c in result["checks"]}
    certified = {name for name in (E, H) if f"rows of {name} are what {HULL_FILE} gives" in details}
    assert certified == (set() if init == "gaussian" else {E} if output else {E, H})
    assert details[WINS].startswith("not promised") == ("gaussian" in (init, output))


def _model(out: Path, name: str, change: Callable[[torch.Tensor], None]) -> None:
    tensors = load_file(out / "model.safetensors")
    change(tensors[name])
    save_file(tensors, out / "model.safetensors")


def _file(out: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    with safe_open(out / HULL_FILE, framework="pt") as held:
        metadata = held.metadata()
    tensors = load_file(out / HULL_FILE)
    change(tensors)
    save_file(tensors, out / HULL_FILE, metadata)


def _table(out: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = next((out / "surgeon").glob("rows-*.safetensors"))
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _negative(weights: torch.Tensor) -> None:
    """Two weights of a row: one below zero, the sum kept."""
    weights[1] += weights[0] + 0.01
    weights[0] = -0.01


def _last_bit(rows: torch.Tensor) -> None:
    rows[515, 3:4].view(torch.int32).add_(1)


def _swap(ids: torch.Tensor) -> None:
    ids[[0, 1]] = ids[[1, 0]]


CHANGES: list[tuple[str, Callable[[Path], None], set[str]]] = [
    ("the last bit of a row", lambda o: _model(o, E, _last_bit), {ROWS}),
    ("a row", lambda o: _model(o, E, lambda t: t[515, 3:4].add_(1e-3)), {ROWS, FILE_ROWS}),
    ("weights of the file", lambda o: _file(o, lambda t: _negative(t["input.weights"][4])),
     {FILE_NOT_NEGATIVE, FILE_SAME, FILE_ROWS}),
    ("a sum of the file", lambda o: _file(o, lambda t: t["input.weights"][4].mul_(1 + 1e-5)),
     {FILE_SUM, FILE_SAME, FILE_ROWS}),
    ("a bit of a weight", lambda o: _file(o, lambda t: t["input.weights"][4, :1].view(torch.int32).add_(1)),
     {FILE_SAME}),
    ("rows of the file", lambda o: _file(o, lambda t: _swap(t["input.indices"][4])), {FILE_SAME, FILE_ROWS}),
    ("an id of the file", lambda o: _file(o, lambda t: t["input.indices"][4, :1].fill_(600)), {FILE_SAME, FILE_ROWS}),
    ("nan in the file", lambda o: _file(o, lambda t: t["input.weights"][4, :1].fill_(torch.nan)),
     {FILE_NOT_NEGATIVE, FILE_SUM, FILE_SAME, FILE_ROWS}),
    ("the ids of the file", lambda o: _file(o, lambda t: t["ids"].add_(1)), {HULL_FILE}),
    ("no file", lambda o: (o / HULL_FILE).unlink(), {HULL_FILE}),
    ("weights of the lineage", lambda o: _table(o, lambda t: _negative(t["input.weights"])),
     {NOT_NEGATIVE, ROWS, FILE_SAME}),
    ("a sum of the lineage", lambda o: _table(o, lambda t: t["input.weights"][:1].add_(1e-11)), {SUM, ROWS}),
    ("an old row", lambda o: _model(o, E, lambda t: t[300, 3:4].add_(1e-3)), {OLD_ROWS, ROWS, FILE_ROWS, LOGITS}),
]  # fmt: skip


@pytest.mark.parametrize(("change", "found"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_change_is_found_by_its_checks_and_no_others(
    stories: Path, wide: Path, tmp_path: Path, old: str, change: Callable[[Path], None], found: set[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(wide, out)
    change(out)
    result = verify(out, function=True, data=[old] if LOGITS in found else [], parent=stories)
    assert not result["holds"] and broken(result) == found


@pytest.mark.parametrize("part", ["offsets", "indices"])
def test_a_damaged_table_is_a_difference_not_a_crash(
    stories: Path, wide: Path, tmp_path: Path, old: str, part: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(wide, out)
    _table(out, lambda t: t[f"input.{part}"][-1:].fill_(100_000))
    failed = broken(verify(out, function=True, data=[old], parent=stories))
    wanted = {"the promise of the operation"} if part == "offsets" else {ROWS, FILE_SAME, "old text under both models"}
    assert failed == wanted


def test_rows_that_win_break_what_is_promised_of_old_text(stories: Path, wide: Path, tmp_path: Path, old: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(wide, out)

    def mirrored(rows: torch.Tensor) -> None:  # some logit is above zero, and nine times it is above all
        rows[512:532] = 9 * rows[300:320]

    _model(out, E, mirrored)
    result = verify(out, function=True, data=[old], parent=stories)
    assert broken(result) == {ROWS, FILE_ROWS, WINS, GREEDY, LOSS}


def test_the_command_exits_with_3_and_names_the_check(stories: Path, wide: Path, tmp_path: Path, old: str) -> None:
    whole = surgeon("verify", str(wide), "--function", "--data", old, "--parent", str(stories))
    assert whole.code == 0 and "BROKEN" not in whole.out and WINS in " ".join(whole.out.split())
    out = tmp_path / "out"
    shutil.copytree(wide, out)
    _file(out, lambda t: t["input.weights"][4].mul_(1 + 1e-5))
    done = surgeon("verify", str(out), "--function", "--parent", str(stories))
    assert done.code == 3 and done.out.count("BROKEN") == 4, "the bytes of the file and three checks of it"


def test_weights_are_checked_without_loading_a_model(
    stories: Path, wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import surgeon.loading

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model or a tokenizer is loaded")

    monkeypatch.setattr(surgeon.loading, "load_model", refuse)
    monkeypatch.setattr(surgeon.loading, "load_tokenizer", refuse)
    result = verify(wide, function=True, parent=stories)
    assert result["holds"] and not set(FUNCTION) & {c["check"] for c in result["checks"]}


def test_another_weight_file_beside_it_is_found(wide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(wide, out)
    assert verify(out)["holds"], "hull_weights.safetensors itself is known"
    shutil.copyfile(out / HULL_FILE, out / "other.safetensors")
    assert broken(verify(out)) == {"no other weight files"}
    (out / "other.safetensors").unlink()
    (out / "model.safetensors.index.json").unlink()
    assert not verify(out)["holds"]


def test_a_trained_model_makes_no_such_promise(stories: Path, wide: Path, tmp_path: Path, old: str) -> None:
    out = tmp_path / "trained"
    done = surgeon(
        "cpt",
        str(wide),
        str(out),
        "--data",
        old,
        "--tokens",
        "64",
        "--seq-len",
        "32",
        "--batch-tokens",
        "32",
        "--quiet",
    )
    assert done.code == 0, done.err
    assert not (out / HULL_FILE).exists()
    assert verify(out)["holds"]
    with pytest.raises(SurgeonError, match="makes no promise"):
        verify(out, function=True, data=[old])


def test_an_extension_of_an_older_version_has_no_such_file(stories: Path, wide: Path, tmp_path: Path) -> None:
    import json

    out = tmp_path / "out"
    shutil.copytree(wide, out)
    lineage = json.loads((out / "surgeon.json").read_text())
    del lineage["rows"]["hull_weights"], lineage["files"][HULL_FILE]
    (out / "surgeon.json").write_text(json.dumps(lineage))
    (out / HULL_FILE).unlink()
    result = verify(out, function=True, parent=stories)
    assert (
        result["holds"]
        and {"check": HULL_FILE, "holds": True, "detail": "the extension wrote none"} in result["checks"]
    )
