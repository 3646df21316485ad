"""What a late stage cannot do to its model is said before the first stage begins, and by --dry-run: numbers of blocks,
roles, names, contexts and devices, of models that no stage has made yet."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from surgeon import early_models, foreseen
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.new_blocks import new_blocks
from surgeon.checkpoint.new_rows import new_rows
from surgeon.errors import SurgeonError, UsageError
from surgeon.recipe import Loaded, load
from surgeon.run import Runner

CORPUS = {"data": ["CORPUS"], "tokens": 9}
FIRST: dict[str, dict[str, Any]] = {
    "deep": {"run": "expand-layers", "uses": {"model": "base"}, "with": {"add": 2}},
    "wide": {"run": "extend-vocab", "uses": {"model": "deep"}, "with": {"tokens": "TOKENS"}},
    "taught": {"run": "cpt", "uses": {"model": "wide"}, "with": CORPUS | {"train": "new-blocks+new-rows"}},
    "more": {"run": "attach-adapter", "uses": {"model": "taught"}, "with": {"rank": 2, "blocks": "new"}},
    "tuned": {"run": "cpt", "uses": {"model": "taught+more"}, "with": CORPUS | {"train": "adapter"}},
    "folded": {"run": "fold-adapter", "uses": {"model": "taught+tuned"}},
    "merged": {"run": "merge-task-vectors", "uses": {"base": "base", "add": ["folded=0.5"]}},
    "long": {"run": "extend-context", "uses": {"model": "merged"}, "with": {"max-length": "2k", "rope-base": "40k"}},
}


def recipe(folder: Path, stages: dict[str, Any], stories: Path, base: str | None = None, **more: Path) -> Loaded:
    (folder / "tokens.txt").write_text("patient\ndiagnosis\n")
    inputs = {"base": base or str(stories)} | {name: str(path) for name, path in more.items()}
    text = yaml.safe_dump({"title": "a", "inputs": inputs, "stages": stages}, sort_keys=False)
    text = text.replace("CORPUS", str(stories.parent / "domain.valid.jsonl"))
    (folder / "recipe.yaml").write_text(text.replace("TOKENS", str(folder / "tokens.txt")))
    return load(folder / "recipe.yaml")


def deeper(model: str, **settings: Any) -> dict[str, Any]:
    return {"run": "expand-layers", "uses": {"model": model}, "with": settings}


def trained(model: str, **settings: Any) -> dict[str, Any]:
    return {"run": "cpt", "uses": {"model": model}, "with": CORPUS | settings}


def attached(model: str, **settings: Any) -> dict[str, Any]:
    return {"run": "attach-adapter", "uses": {"model": model}, "with": settings}


def vectors(**settings: Any) -> dict[str, Any]:
    return {"run": "merge-task-vectors", "uses": {"base": "base", "add": ["folded"]}, "with": settings}


# the model has 5 blocks, 7 when it was deepened, and a context of 512
LATE: list[tuple[dict[str, Any], str]] = [
    (deeper("taught", at=[7]), "7"),
    (deeper("long", at=[7]), "7"),
    (deeper("base", at=[5]), "5"),
    (deeper("deep", add=100), "more"),
    (deeper("taught+more", add=1), "blocks of a model with an adapter"),
    ({"run": "extend-vocab", "uses": {"model": "deep"}, "with": {"tokens": "TOKENS", "init-output": "zero"}}, "tied"),
    (trained("wide", train=r"layers\.7\."), "no tensor's name matches"),
    (trained("taught", train="role:atention"), "no trained tensor has the role"),
    (trained("base", train="new-blocks"), "no new blocks"),
    (trained("deep", train="new-rows"), "no new rows"),
    (trained("folded", group=["absent:lr=2"]), "no trained tensor"),
    (trained("taught", **{"seq-len": 1024}), "longer than the model's context"),
    (trained("long", **{"seq-len": 4096}), "longer than the model's context"),
    (trained("taught", train="adapter"), "an adapter is trained with"),
    (trained("taught+more"), "an adapter is trained with"),
    (trained("taught+tuned", train="adapter", group=["absent:lr=2"]), "no trained tensor"),
    (trained("taught", objective="masked_lm"), "masked_lm"),
    (
        {"run": "cpt export", "uses": {"model": "taught"}, "with": CORPUS | {"to": "axolotl", "train": "role:x"}},
        "role",
    ),
    (attached("taught", blocks="7"), "there are no blocks 7"),
    (attached("folded", targets="attention.z"), "attention.z"),
    (attached("taught", kind="pissa", blocks="3-9"), "there are no blocks 3-9"),
    (attached("taught", targets="head"), "share one matrix|one matrix"),
    (attached("deep", **{"new-rows": True}), "no new rows"),
    (vectors(chat="folded"), "there is no 'folded' in this merge"),
    (vectors(option={"density": "0.5,attenion:1"}, method="ties"), "attenion"),
    ({"run": "merge-task-vectors", "uses": {"base": "base", "add": ["folded=0.5,moe:1"]}}, "moe"),
    ({"run": "merge", "uses": {"models": ["taught=0.5,moe:1", "folded=1"]}, "with": {"method": "linear"}}, "moe"),
]


@pytest.mark.parametrize(("stage", "problem"), LATE, ids=[f"{n}-{problem}" for n, (_, problem) in enumerate(LATE)])
def test_it_is_refused_before_the_first_stage(
    tmp_path: Path, stories: Path, stage: dict[str, Any], problem: str
) -> None:
    loaded = recipe(tmp_path, FIRST | {"late": stage}, stories)
    for asked in (Runner(loaded, tmp_path / "run").plan, Runner(loaded, tmp_path / "run").run):
        with pytest.raises(SurgeonError, match=problem) as refused:
            asked()
        assert refused.value.where.startswith(f"{tmp_path / 'recipe.yaml'}: stage late, ")
        said = f"{refused.value.problem} {refused.value.where} {refused.value.hint}"
        assert "surgeon-" not in said and "foreseen" not in said, said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "stage",
    [
        trained("deep", device="cuda"),
        attached("deep", kind="pissa", device="cuda"),
        {"run": "evaluate", "uses": {"models": ["deep"]}, "with": {"data": ["CORPUS"], "device": "cuda"}},
        {"run": "cpt anneal", "uses": {"run": "taught"}, "with": CORPUS | {"device": "cuda"}},
        deeper("deep", add=1, select="importance", probe="CORPUS", option={"device": "cuda"}),
    ],
)
def test_a_device_that_is_not_there(
    tmp_path: Path, stories: Path, stage: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SurgeonError, match="there is no CUDA device"):
        Runner(recipe(tmp_path, FIRST | {"late": stage}, stories), tmp_path / "run").plan()


@pytest.mark.parametrize(
    "stage",
    [
        attached("deep", device="cuda"),  # a start that needs no model
        {"run": "cpt export", "uses": {"model": "deep"}, "with": CORPUS | {"to": "axolotl", "device": "cuda"}},
        deeper("taught", at=[6]),
        trained("taught", train=r"layers\.6\."),
        attached("tuned_elsewhere", blocks="99"),  # of weights: not known yet
        {"run": "merge-task-vectors", "uses": {"base": "base", "add": ["folded"], "chat": "folded"}},
        {"run": "merge-task-vectors", "uses": {"base": "base", "add": ["folded"]}, "with": {"chat": "model"}},
        {"run": "merge-task-vectors", "uses": {"base": "base", "add": ["taught+more"], "chat": "taught"}},
        {"run": "merge-task-vectors", "uses": {"base": "base", "add": ["taught+more"], "chat": "taught+more"}},
        {"run": "merge", "uses": {"models": ["taught=0.5,attention:0", "folded=1"]}, "with": {"method": "linear"}},
    ],
)
def test_what_is_not_refused(
    tmp_path: Path, stories: Path, stage: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    probed = deeper("taught", add=1, select="importance", probe="CORPUS")
    Runner(recipe(tmp_path, FIRST | {"tuned_elsewhere": probed, "late": stage}, stories), tmp_path / "run").plan()


def test_a_merge_is_as_long_as_the_model_whose_context_was_extended(tmp_path: Path, stories: Path) -> None:
    stages = {
        "long": {"run": "extend-context", "uses": {"model": "base"}, "with": {"max-length": "2k", "rope-base": "40k"}},
        "tuned": trained("long"),
        "merged": {"run": "merge-task-vectors", "uses": {"base": "base", "add": ["tuned"]}},
        "late": trained("merged", **{"seq-len": 1024}),
    }
    Runner(recipe(tmp_path, stages, stories), tmp_path / "run").plan()
    stages["late"] = trained("merged", **{"seq-len": 4096})
    with pytest.raises(SurgeonError, match="longer than the model's context of 2000"):
        Runner(recipe(tmp_path, stages, stories), tmp_path / "run").plan()


def test_a_merge_may_be_as_deep_as_a_model_without_lineage(tmp_path: Path, stories: Path) -> None:
    """Whose blocks a person names."""
    first = Runner(recipe(tmp_path, {"deep": FIRST["deep"]}, stories), tmp_path / "first").run()
    shutil.move(tmp_path / "first" / first["stages"][0]["out"], tmp_path / "deep")
    (tmp_path / "deep" / "surgeon.json").unlink()
    merged = {"run": "merge-task-vectors", "uses": {"base": "base", "add": ["other"]}, "with": {"blocks": "0-4,1,3"}}
    stages = {"merged": merged, "late": deeper("merged", at=[6])}
    Runner(recipe(tmp_path, stages, stories, other=tmp_path / "deep"), tmp_path / "run").plan()


def test_an_adapter_may_hold_the_rows_of_a_vocabulary_to_come(tmp_path: Path, stories: Path) -> None:
    """How many there will be is not known before, and the adapter of an earlier run has them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    wide = FIRST["wide"] | {"uses": {"model": "base"}}
    made = Runner(recipe(tmp_path, {"wide": wide}, stories), tmp_path / "first").run()["stages"][0]["out"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "first" / made)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    stages = {
        "wide": wide,
        "tuned": trained("wide+adapter", train="adapter"),
        "more": trained("wide+tuned", train="adapter"),
        "folded": {"run": "fold-adapter", "uses": {"model": "wide+adapter"}},
    }
    Runner(recipe(tmp_path, stages, stories, adapter=tmp_path / "adapter"), tmp_path / "run").plan()


def test_where_no_stand_in_can_be_written_nothing_is_said(
    tmp_path: Path, stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under `ulimit -f`: the stages write smaller files."""

    def full(*_: Any) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(foreseen, "_put_lineage", full)
    Runner(recipe(tmp_path, FIRST | {"late": deeper("deep", at=[99])}, stories), tmp_path / "run").plan()


def test_a_model_of_the_hub_is_not_asked_for(tmp_path: Path, stories: Path) -> None:
    stages = {"deep": deeper("base", add=1), "late": trained("deep", train="role:atention")}
    Runner(recipe(tmp_path, stages, stories, "org/model"), tmp_path / "run").plan()


def test_a_folder_with_the_name_of_a_stage_is_not_it(
    tmp_path: Path, stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(stories, tmp_path / "far")
    monkeypatch.chdir(tmp_path)
    stages = {"far": deeper("base", add=1), "late": deeper("far", at=[5])}
    Runner(recipe(tmp_path, stages, stories, "org/model"), tmp_path / "run").plan()


def test_a_folder_of_checkpoints_may_hold_a_configuration(tmp_path: Path, stories: Path) -> None:
    (tmp_path / "steps").mkdir()
    shutil.copyfile(stories / "config.json", tmp_path / "steps" / "config.json")
    stages = {"mean": {"run": "average", "uses": {"run": "base"}}, "late": deeper("mean", at=[99])}
    Runner(recipe(tmp_path, stages, stories, str(tmp_path / "steps")), tmp_path / "run").plan()


def test_stand_ins_are_what_the_stages_write(tmp_path: Path, stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, shapes, configuration, new blocks and rows; and a finished stage is looked at itself."""
    seen: dict[str, Any] = {}

    def watched(name: str) -> Any:
        real = early_models.FORESEE[name]

        def call(settings: Any, out: Path) -> None:
            real(settings, out)
            seen[out.name.rpartition("-")[0]] = summary(Checkpoint.open(out))

        return call

    monkeypatch.setattr(early_models, "FORESEE", {name: watched(name) for name in early_models.FORESEE})
    runner = Runner(recipe(tmp_path, FIRST, stories), tmp_path / "run")
    record = runner.run()
    assert list(seen) == list(FIRST)
    for stage in record["stages"]:
        made = summary(Checkpoint.open(tmp_path / "run" / stage["out"]))
        assert seen[stage["name"]] == made, stage["name"]
    seen.clear()
    assert {stage["state"] for stage in runner.plan()} == {"done"} and not seen
    late = FIRST | {"late": deeper("long", at=[7])}
    with pytest.raises(SurgeonError, match="7"):
        Runner(recipe(tmp_path, late, stories), tmp_path / "run").plan()
    assert list(seen) == []


def summary(checkpoint: Checkpoint) -> Any:
    """But for the number of tokens: how many are learned is not known before."""
    shapes = {name: (t.dtype, t.shape[1:] if "embed" in name else t.shape) for name, t in checkpoint.tensors.items()}
    adapter = "peft_type" in checkpoint.config
    config = {"r": checkpoint.config["r"]} if adapter else checkpoint.config | {"vocab_size": None}
    lineage = None if adapter else checkpoint.lineage
    return shapes, config, list(new_blocks(lineage)), bool(new_rows(lineage))


def test_the_sums_of_a_stand_in_are_never_asked_for(
    tmp_path: Path, stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: Checkpoint) -> Any:
        raise AssertionError(f"the weights of {self.path} were read")

    monkeypatch.setattr(Checkpoint, "digest", property(read))
    early_models.check_models(recipe(tmp_path, FIRST, stories), lambda name: tmp_path / f"{name}-absent")


def test_what_was_done_where_there_was_one_is_not_asked_for_a_device(
    tmp_path: Path, stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on where the device of its finished stages is not; with --force it would do them anew."""
    told = {
        "run": "evaluate",
        "uses": {"models": ["base"]},
        "with": {"data": ["CORPUS"], "device": "cpu", "tokens": 50},
    }
    runner = Runner(recipe(tmp_path, {"told": told, "deep": FIRST["deep"]}, stories), tmp_path / "run")

    def none(_device: Any) -> None:
        raise UsageError("there is no such device", "--device", "run it elsewhere")

    runner.run()
    shutil.rmtree(runner._out("deep"))
    monkeypatch.setattr("surgeon.early.resolve_device", none)
    assert [stage["state"] for stage in runner.plan()] == ["done", "to do"]
    runner.run()
    assert runner._out("deep").is_dir()
    with pytest.raises(UsageError, match="no such device"):
        runner.run(force=True)
