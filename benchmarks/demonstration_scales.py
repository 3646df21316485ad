"""The two models that the training methods of the literature are shown on, their texts, and how much is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MATERIAL = """MATERIAL, too large to ship, holds the 8M base in `models/base` (Llama architecture, bfloat16, trained
from scratch on general text and stories, in windows of 512 tokens) and `corpora/NAME.{train,valid}.jsonl`: general_en
(books, encyclopedic text) as `general`, medical_en (questions and answers) as `domain`, law_en (statutes) as `third`.
In the quickstart they are short stories, questions and answers on genetic conditions, and maths problems."""


@dataclass(frozen=True)
class Scale:
    """The base, its texts, and how much is trained. short: a column of the summary, and part of the results' names.
    places: what {name} stands for in the arms. eval_tokens: of each held-out text; long_tokens where windows are long,
    which few documents fill."""

    name: str
    short: str
    model: str
    places: dict[str, str]
    tokens: int
    seq_len: int
    batch_tokens: int
    lr: float
    eval_tokens: int
    long_tokens: int

    def settings(self) -> str:
        """What is the same in every arm, in words."""
        long = self.places["long"]
        return (
            f"{self.name}: about {self.tokens:,} tokens an arm, {self.batch_tokens} a step in rows of {self.seq_len} "
            f"(value-targets: rows of 256; rope: rows and steps of {long}), peak {self.lr:g}; scored on "
            f"{self.eval_tokens:,} tokens of each held-out text (rope: {self.long_tokens:,}), in whole documents."
        )


def quickstart() -> Scale:
    here = ROOT / "recipes" / "quickstart"
    names = {"general": "general", "domain": "domain", "third": "instruct"}
    places = {k: str(here / f"{v}.train.jsonl") for k, v in names.items()}
    places |= {f"{k}_valid": str(here / f"{v}.valid.jsonl") for k, v in names.items()}
    places |= {"length": "512", "long": "1024"}
    name = "quickstart (260K parameters)"
    return Scale(name, "260k", str(here / "model"), places, 32_768, 128, 512, 1e-3, 12_000, 12_000)


def of_material(folder: Path) -> Scale:
    names = {"general": "general_en", "domain": "medical_en", "third": "law_en"}
    places = {k: str(folder / "corpora" / f"{v}.train.jsonl") for k, v in names.items()}
    places |= {f"{k}_valid": str(folder / "corpora" / f"{v}.valid.jsonl") for k, v in names.items()}
    places |= {"length": "512", "long": "1024"}
    name, model = "material (8M parameters)", str(folder / "models" / "base")
    return Scale(name, "8m", model, places, 16_384, 256, 512, 5e-4, 8_000, 24_000)
