"""A card where parents, names and settings are odd: its head, and what is told below it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from test_card import LLAMA, TENSORS, parent, step

from surgeon.card.front import front_of, read_front
from surgeon.card.text import card_text
from surgeon.checkpoint.lineage import Lineage

MEDIA = {"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {}, "text_config": {}}
SPEECH = {"architectures": ["VoxtralForConditionalGeneration"], "audio_config": {}, "text_config": {}}


@pytest.mark.parametrize(
    ("config", "told", "task"),
    [
        (LLAMA, [None], "text-generation"),
        (LLAMA, ["feature-extraction"], "feature-extraction"),
        (LLAMA, ["image-text-to-text"], "text-generation"),  # the language model of a multimodal one
        (LLAMA, ["any-to-any", "text-generation"], "text-generation"),
        ({"architectures": ["GPT2LMHeadModel"]}, [None], "text-generation"),
        ({"architectures": ["BertForMaskedLM"]}, [None], "fill-mask"),
        ({"architectures": ["BertForMaskedLM"]}, ["sentence-similarity"], "sentence-similarity"),
        ({"architectures": ["BertModel"]}, [None], None),
        (MEDIA, [None], "image-text-to-text"),
        (MEDIA, ["text-generation", "any-to-any"], "any-to-any"),
        (SPEECH, [None], None),
        (SPEECH, ["audio-text-to-text"], "audio-text-to-text"),
    ],
)
def test_what_it_is_for(config: dict[str, Any], told: list[str | None], task: str | None) -> None:
    lineage = step("op", *(parent(f"m{i}", f"m{i}", f"sha256:{i}") for i in range(len(told))))
    front = front_of(lineage, [{"pipeline_tag": word} if word else {} for word in told], config, False)
    assert front.get("pipeline_tag") == task


def test_an_adapter_is_of_no_model_before_the_one_it_fits() -> None:
    deep = step("expand-layers", parent("model", "org/base", "sha256:b"))
    plain = step("attach-adapter", parent("model", "org/base", "sha256:b"), adapter={"kind": "lora"})
    of_deep = step("attach-adapter", parent("model", "deep", "sha256:d", deep), adapter={"kind": "lora"})

    def bases(lineage: Lineage) -> list[str] | None:
        found: list[str] | None = front_of(lineage, [{}] * len(lineage.parents), {}, True).get("base_model")
        return found

    assert bases(plain) == ["org/base"] and bases(of_deep) is None
    for fitted, base in ((plain, ["org/base"]), (of_deep, None)):
        assert bases(step("simplify-adapter", parent("adapter", "a", "sha256:a", fitted))) == base
    trained = step("cpt", parent("model", "deep", "sha256:d", deep), parent("adapter", "a", "sha256:a", of_deep))
    assert bases(trained) is None


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ("language: no", ["no"]),  # Norwegian
        ("language:\n- no\n- on", ["no", "on"]),
        ("language: ~", None),
        ("language: {a: b}", None),
        ("released: 2024-13-45\nlanguage: en", ["en"]),
        ("size: 0x_\nlanguage: en", ["en"]),
        ("a: !!python/name:os.system x\nlanguage: en", ["en"]),
        ('a: "\\ud800"\nlanguage: en', None),
        ("a: " + "[" * 5000 + "\nlanguage: en", None),
    ],
)
def test_odd_heads(tmp_path: Path, head: str, found: list[str] | None) -> None:
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n")
    text = card_text(step("op", parent("model", "m", "sha256:m")), LLAMA, TENSORS, [read_front(tmp_path)])
    text.encode("utf-8")
    assert ModelCard(text).data.to_dict().get("language") == found


def test_a_card_that_is_no_file_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "README.md")
    assert read_front(tmp_path) == {}
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").symlink_to(tmp_path / "nowhere")
    assert read_front(tmp_path) == {}


def test_a_card_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "README.md").open("wb") as card:
        card.write(b"---\nlicense: mit\n---\n")
        card.truncate(1 << 40)
    assert read_front(tmp_path) == {"license": "mit"}


def test_texts_are_told_by_name_and_long_lists_of_models_stay_whole() -> None:
    members = [parent(f"m{i}", f"{'long' * 10}-{i}", f"sha256:{i}") for i in range(20)]
    settings = {
        "probe": {"name": "old`s", "digest": "sha256:5b"},
        "models": [{"digest": p.digest, "weight": 0.05} for p in members],
        "prefix": "step 3 \n## x",
    }
    text = card_text(step("merge", *members, settings=settings), LLAMA, TENSORS, [{}] * 20)
    told = next(line for line in text.splitlines() if line.startswith("   Settings: "))
    assert "probe `old's`" in told and told.count("` x 0.05") == 20 and "prefix `step 3 \\n## x`" in told


def test_a_search_names_the_texts_that_chose_the_weights() -> None:
    search = {"objective": "min-max", "corpora": [{"name": "chat"}, {"name": "general"}]}
    lineage = step("merge-task-vectors", parent("base", "b", "sha256:b"), merge={"search": search})
    text = card_text(lineage, LLAMA, TENSORS, [{}])
    assert "from `b`: weights found by min-max of the losses on `chat`, `general`." in text


@pytest.mark.parametrize(("whole", "said"), [(8192, "`a` 4,096 tokens"), (8137, "`a` about 4,096 tokens")])
def test_parts_that_are_not_the_whole_are_said_to_be_estimates(whole: int, said: str) -> None:
    data = [{"name": name, "replay": False, "trained_tokens": 4096} for name in ("a", "b")]
    training = {"tokens": whole, "steps": 2, "trainable_parameters": 7, "data": data}
    text = card_text(step("cpt", parent("model", "m", "sha256:m"), training=training), LLAMA, TENSORS, [{}])
    assert f"{whole:,} tokens in 2 steps; 7 trainable parameters; {said}; `b`" in text


def test_a_title_is_no_markup() -> None:
    text = card_text(step("op", parent("model", "<b>*a_b*", "sha256:m")), LLAMA, TENSORS, [{}])
    assert "\n# \\<b>\\*a_b\\*, after op\n" in text
