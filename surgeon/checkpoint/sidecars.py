"""The files beside the weights that an operation carries along: tokenizer, chat template, generation config, code."""

from __future__ import annotations

from pathlib import Path

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "chat_template.jinja",
    "chat_template.json",
)
# what the tokenizers of some models are read from beside these, or in their place (mistral-common, tiktoken by code of
# its own): carried along, never written, and so left out where tokens are added
FOREIGN_TOKENIZERS = ("tekken.json", "tiktoken.model", "emoji.json")
# how images, videos and sounds are made ready for a multimodal model
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_OTHERS = ("generation_config.json", *PROCESSOR_FILES)
_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "NOTICE", "NOTICE.txt", "USE_POLICY.md")
METRICS_PREFIX = "metrics-"
SURGEON_DIR = "surgeon"  # data that a lineage refers to, such as the weights of new rows


def sidecars(folder: Path) -> list[str]:
    """Names (relative, sorted) of the files that go along with a checkpoint; never weights, config or lineage."""
    found = [
        name for name in (*TOKENIZER_FILES, *FOREIGN_TOKENIZERS, *_OTHERS, *_LICENCES) if (folder / name).is_file()
    ]
    found += [path.name for path in folder.glob("*.py") if path.is_file()]
    found += [path.relative_to(folder).as_posix() for path in (folder / SURGEON_DIR).rglob("*") if path.is_file()]
    templates = (folder / "additional_chat_templates").glob("*.jinja")
    found += [f"additional_chat_templates/{path.name}" for path in templates]
    return sorted(found)


def read_beside_weights(folder: Path) -> list[str]:
    """Names (relative, sorted) of the files here that transformers or peft take up with the weights if they are there:
    of the tokenizer, the generation, code, an index, an adapter. Not licences, cards or reports."""
    named = (*TOKENIZER_FILES, *FOREIGN_TOKENIZERS, *_OTHERS, "config.json", "adapter_config.json")
    found = {name for name in named if (folder / name).is_file()}
    for pattern in ("*.py", "*.index.json", "*.bin", "additional_chat_templates/*.jinja"):
        found |= {path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


def metrics_name(plan_digest: str) -> str:
    """The file under surgeon/ with the metrics of the training that has this digest, beside its ancestors'."""
    return f"{METRICS_PREFIX}{plan_digest.removeprefix('sha256:')[:12]}.jsonl"


def vectors_name(plan_digest: str) -> str:
    """The file under surgeon/ with how the deltas of the merge that has this digest lie to each other."""
    return f"{METRICS_PREFIX}vectors-{plan_digest.removeprefix('sha256:')[:12]}.json"
