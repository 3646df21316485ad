"""The model card of an output: what a hub reads in its head, what people read below, and whose text it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from surgeon.card.front import read_front
from surgeon.card.text import card_text
from surgeon.checkpoint.lineage import BlockMap, Lineage, NewBlock, Parent, read_lineage
from surgeon.checkpoint.parents import hub_revision, parent_of
from surgeon.expand.plan import ExpandSettings, plan_expand
from surgeon.ops.execute import execute
from surgeon.verify import verify

LLAMA = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 3, "vocab_size": 512}


@dataclass(frozen=True)
class Shape:
    dtype: str
    shape: tuple[int, ...]


TENSORS = {"model.norm.weight": Shape("BF16", (1000, 2))}


def parent(role: str, name: str, digest: str, lineage: Lineage | None = None) -> Parent:
    return Parent(role=role, name=name, path=f"../{name}", digest=digest, lineage=lineage)


def step(operation: str, *parents: Parent, **fields: Any) -> Lineage:
    return Lineage(operation=operation, kind="surgery", parents=list(parents), **fields)


DEEP = step(
    "expand-layers",
    parent("model", "org/base@v1", "sha256:b"),
    settings={"add": 1, "link": True},
    blocks=BlockMap(source=[0, 1, 1], new=[NewBlock(block=2, source=1, fill="auto")]),
)


def read(text: str) -> tuple[dict[str, Any], str]:
    """As huggingface_hub reads it: the head, and the text below."""
    card = ModelCard(text)
    return card.data.to_dict(), card.text


def test_the_hub_reads_the_head() -> None:
    head, text = read(card_text(DEEP, LLAMA, TENSORS, [{"license": "apache-2.0", "language": "en"}]))
    assert head == {
        "base_model": ["org/base"],
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "language": ["en"],
        "tags": ["surgeon", "expand-layers"],
    }
    assert "# org/base@v1, after expand-layers" in text
    assert "1. **expand-layers** of `org/base@v1`: of 3 blocks, counted from 0, new are 2, made from 1." in text
    assert "Settings: add `1`." in text  # a setting that decides no byte is not there
    assert "| stored parameters | 2,000 in BF16 |" in text and "| `org/base@v1` | `sha256:b` |" in text


def test_steps_are_told_once_and_weights_by_name() -> None:
    tuned = step("cpt", parent("model", "deep", "sha256:d", DEEP))
    merged = step(
        "merge-task-vectors",
        parent("model", "tuned", "sha256:t", tuned),
        parent("base", "org/base", "sha256:b"),
        parent("tuned2", "deep", "sha256:d", DEEP),
        settings={"base": {"digest": "sha256:b"}, "add": [{"digest": "sha256:t", "weight": 0.5},
                                                         {"digest": "sha256:d", "weight": "1,mlp:0.3"}]},
    )  # fmt: skip
    head, text = read(card_text(merged, LLAMA, TENSORS, [{}, {}, {}]))
    assert head["base_model"] == ["org/base"] and head["base_model_relation"] == "merge"
    assert head["tags"] == ["surgeon", "expand-layers", "cpt", "merge-task-vectors", "merge"]
    assert [line[:2] for line in text.split("\n") if line[1:4] == ". *"] == ["1.", "2.", "3."]
    assert "2. **cpt** of step 1." in text
    assert "3. **merge-task-vectors** from step 2 and `org/base` and step 1." in text
    assert "base `org/base`" in text and "add step 2 x 0.5, step 1 x 1,mlp:0.3" in text


@pytest.mark.parametrize(
    ("first", "second", "passed", "said"),
    [
        ({"license": "mit"}, {"license": "mit"}, {"license": "mit"}, "as named there: `mit`"),
        ({"license": "mit"}, {"license": "apache-2.0"}, {}, "`a` names `mit`; `b` names `apache-2.0`"),
        ({"license": "mit"}, {}, {}, "`a` names `mit`; `b` names none that was at hand"),
        ({}, {}, {}, "`a` names none that was at hand; `b` names none that was at hand"),
        (
            {"license": "other", "license_name": "llama3", "license_link": "LICENSE"},
            {"license": "other", "license_name": "llama3", "license_link": "LICENSE"},
            {"license": "other", "license_name": "llama3", "license_link": "LICENSE"},
            "as named there: `llama3`",
        ),
        ({"license": "other", "license_name": "x"}, {"license": "other", "license_name": "y"}, {}, "names `x`"),
    ],
)
def test_a_licence_is_passed_on_where_all_name_the_same(
    first: dict[str, str], second: dict[str, str], passed: dict[str, str], said: str
) -> None:
    lineage = step("merge", parent("model", "a", "sha256:a"), parent("model2", "b", "sha256:b"))
    head, text = read(card_text(lineage, LLAMA, TENSORS, [first, second]))
    assert {key: value for key, value in head.items() if key.startswith("license")} == passed
    assert said in text


def test_an_adapter_is_told_as_one() -> None:
    lineage = step("attach-adapter", parent("model", "org/base", "sha256:b"), settings={"rank": 4})
    head, text = read(card_text(lineage, {"peft_type": "LORA", "r": 4}, TENSORS, [{}]))
    assert head["library_name"] == "peft" and head["base_model_relation"] == "adapter"
    assert "| peft_type | LORA |" in text


@pytest.mark.parametrize("text", ["", "no head", "---\n- a\n---\n", "---\na: [\n---\n", "---\nlicense: mit\n", "\xff"])
def test_a_card_without_a_head_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_bytes(text.encode("latin-1"))
    assert read_front(tmp_path) == {}


@pytest.mark.parametrize(
    "text", ["---\nlicense: mit\n---\n", "\ufeff---\r\nlicense: mit\r\n---\r\n# T", "---\nlicense: mit\n---"]
)
def test_the_head_of_a_card(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text, encoding="utf-8", newline="")
    assert read_front(tmp_path) == {"license": "mit"}


def test_names_cannot_break_the_text() -> None:
    text = card_text(step("merge", parent("model", "a`|\n<b>", "sha256:a")), LLAMA, TENSORS, [{}])
    assert "`a'\\|\\n<b>`" in text and "a`|" not in text.split("## How")[1]


def test_the_commit_of_a_hub_is_found_in_its_cache() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert hub_revision(Path(f"/c/models--org--base/snapshots/{commit}")) == commit
    assert hub_revision(Path(f"/c/models--org--base/{commit}")) is None
    assert hub_revision(Path(f"/c/models--org--base/snapshots/{commit[:-1]}")) is None
    assert hub_revision(Path("/")) is None


def test_a_folder_of_the_cache_has_the_name_that_it_has_on_the_hub(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    for folder, name in (("models--org--base", "org/base"), ("models--gpt2", "gpt2")):
        found = parent_of(
            "model", commit, tmp_path / folder / "snapshots" / commit, "sha256:b", None, tmp_path / "out"
        )
        assert (found.name, found.revision) == (name, commit)
    found = parent_of("model", "org/base@v1", tmp_path / "models--org--base/snapshots" / commit, "", None, tmp_path)
    assert found.name == "org/base@v1"


def test_a_card_lies_beside_every_output_and_may_be_edited(stories: Path, tmp_path: Path) -> None:
    deep, deeper = tmp_path / "deep", tmp_path / "deeper"
    execute(plan_expand(ExpandSettings(model=str(stories), out=deep, add=1)), deep)
    card = deep / "README.md"
    assert "README.md" not in (read_lineage(deep) or DEEP).files
    card.write_text(card.read_text().replace("tags:", "license: cc0-1.0\ntags:", 1) + "\nMine.\n")
    assert verify(deep)["holds"]
    execute(plan_expand(ExpandSettings(model=str(deep), out=deeper, add=1)), deeper)
    assert read_front(deeper)["license"] == "cc0-1.0"  # what a person put into the parent's card
    assert "2. **expand-layers** of step 1: of 7 blocks" in (deeper / "README.md").read_text()
