"""Every method that training can be given, and the same short run with each of them on tiny real models.

A case comes from the registries alone: a new file is one by being there. What its module declares for that: NEUTRAL,
options at which it changes nothing, to the byte; EXAMPLE, options to try it with, where it needs some or where its
defaults do nothing within six steps of a model of width 32 (a corpus in it is written ""). A corpus that it must have
is given to it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from surgeon import registry
from surgeon.checkpoint.lineage import Lineage, NewRow, RowMap, dump_lineage
from surgeon.registry import Method
from surgeon.train.objectives.masked_lm import Policy
from surgeon.train.run import run_cpt
from surgeon.train.settings import CptSettings

KINDS = {"schedule": False, "objective": False, "optimizer": False, "regularizer": True, "meta": True}  # several?
SETTING = {"regularizer": "regularize"}
STEPS, EVERY, NEW_ROWS = 6, 2, (300, 511)


@dataclass(frozen=True)
class Case:
    """A method; policy: of a masked objective, which are methods too, though not files of a registry."""

    kind: str
    name: str
    policy: str | None = None

    @property
    def method(self) -> Method:
        return registry.get(self.kind, self.name)

    @property
    def on(self) -> str:
        """The model that it is tried on."""
        if self.method.trait("FOR_ENCODERS", False):
            return "encoder"
        return "experts" if self.method.trait("FOR_EXPERTS", False) else "decoder"

    def __str__(self) -> str:
        return "-".join(filter(None, (self.kind, self.name, self.policy)))


def cases() -> list[Case]:
    found = [Case(kind, name) for kind in KINDS for name in registry.names(kind)]
    for kind in KINDS:
        found += [Case(kind, name) for family in registry.families(kind) for name in registry.members(kind, family)]
    return [c for case in found for c in _by_policy(case)]


def _by_policy(case: Case) -> Iterator[Case]:
    if "policy" in case.method.options:
        yield from (Case(case.kind, case.name, policy) for policy in get_args(Policy))
    else:
        yield case


@dataclass
class Lab:
    """Models, adapters and corpora in a folder, and the runs that were made of them."""

    folder: Path
    stories: Path
    dropout: float = 0.1  # so that a method that draws random numbers of the run's is found out
    tied: bool = True
    made: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.corpora = {name: self.folder / f"{name}.jsonl" for name in ("general", "domain")}
        for name, path in self.corpora.items():
            texts = (self.stories.parent / f"{name}.train.jsonl").read_text().splitlines()[:9]
            records = [json.loads(line) | {"score": number % 2} for number, line in enumerate(texts)]
            # documents of several windows, windows of several documents, and all of them within six steps
            for number, record in enumerate(records):
                record["text"] = " ".join(record["text"].split()[: 30 if number < 2 else 3])
            path.write_text("".join(json.dumps(r) + "\n" for r in records))
        self.words = self.folder / "words.txt"
        self.words.write_text("the\nis\nof\n")
        self.models = {
            "decoder": self._decoder("llama", intermediate_size=48),
            "experts": self._decoder("mixtral", intermediate_size=16, num_local_experts=4),
            "encoder": self._encoder(),
        }
        self.adapters = {on: self._adapter(path, on) for on, path in self.models.items()}

    def settings(self, case: Case | None, out: Path, *, neutral: bool = False, **changes: Any) -> dict[str, Any]:
        """Of six steps with a method (None: without any)."""
        found: dict[str, Any] = {
            "model": str(self.models[case.on if case else "decoder"]), "out": str(out),
            "data": [str(self.corpora["domain"])], "replay": [str(self.corpora["general"])], "replay_ratio": 0.3,
            "tokens": STEPS * 128, "seq_len": 32, "batch_tokens": 128, "micro_batch": 2, "lr": 1e-2, "device": "cpu",
            "save_every": 3,
        }  # fmt: skip
        if case is not None:
            found[SETTING.get(case.kind, case.kind)] = [case.name] if KINDS[case.kind] else case.name
            found["option"] = {f"{case.kind}.{k}": v for k, v in self.options(case, neutral).items()}
        return found | changes

    def options(self, case: Case, neutral: bool = False) -> dict[str, Any]:
        method, corpora = case.method, case.method.trait("CORPORA", ())
        example = {"every": EVERY} if "every" in method.options else {}
        example |= method.trait("EXAMPLE", {})
        found: dict[str, Any] = {k: str(self.corpora["general"]) if k in corpora else v for k, v in example.items()}
        for name, option in method.options.items():
            if option.required and name not in found:
                assert name in corpora, f"{case} needs {name}: let its module say EXAMPLE = {{{name!r}: ...}}"
                found[name] = str(self.corpora["general"])
        if case.policy is not None:
            found["policy"] = case.policy
            found |= {"entities": str(self.words)} if case.policy == "entity" else {}
            labels = {"labelled": str(self.corpora["domain"]), "label": "score", "least": 1}
            found |= labels if case.policy == "label_informative" else {}
        return found | (method.trait("NEUTRAL") if neutral else {})

    def on_adapter(self, on: str) -> dict[str, str]:
        """The changes that train an adapter in place of the model."""
        return {"model": f"{self.models[on]}+{self.adapters[on]}", "train": "adapter"}

    def run(self, case: Case | None, tag: str = "", *, neutral: bool = False, **changes: Any) -> Path:
        """The output of a run; one that was made before is given again."""
        key = json.dumps([str(case), tag, neutral, changes], default=str)
        if key not in self.made:
            out = self.folder / f"out{len(self.made)}{tag}"
            run_cpt(CptSettings(**self.settings(case, out, neutral=neutral) | changes))
            self.made[key] = out
        return self.made[key]

    def _decoder(self, family: str, **more: int) -> Path:
        """Three blocks and the tokenizer of the stories; two rows are new."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        target = self.folder / ("model" if family == "llama" else family)
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4}
        config = AutoConfig.for_model(
            family, vocab_size=512, max_position_embeddings=64, tie_word_embeddings=self.tied,
            attention_dropout=self.dropout, initializer_range=0.1, **sizes, **more,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(target)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(self.stories / name, target / name)
        rows = [NewRow(id=i, token="x", pieces=[5]) for i in NEW_ROWS]
        surgery = RowMap(old=510, rows=512, new=rows, method="m", method_output="m")
        (target / "surgeon.json").write_text(dump_lineage(Lineage(operation="surgery", kind="surgery", rows=surgery)))
        return target

    def _encoder(self) -> Path:
        """A BERT of three blocks whose words are single letters and their continuations."""
        import torch
        from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

        letters = "abcdefghijklmnopqrstuvwxyz0123456789.,"
        marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "is", "of"]
        words = [*marks, *letters, *(f"##{c}" for c in letters)]
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=64, hidden_dropout_prob=self.dropout, attention_probs_dropout_prob=self.dropout,
        )  # fmt: skip
        BertForMaskedLM(config).save_pretrained(self.folder / "encoder")
        BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(self.folder / "encoder")
        return self.folder / "encoder"

    def _adapter(self, model: Path, on: str) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

        plain = (AutoModelForMaskedLM if on == "encoder" else AutoModelForCausalLM).from_pretrained(model)
        targets = {"encoder": ["query", "value"], "decoder": ["q_proj", "down_proj"], "experts": ["q_proj", "o_proj"]}
        config = LoraConfig(r=2, target_modules=targets[on])
        target = self.folder / f"adapter-of-{model.name}"
        get_peft_model(plain, config).save_pretrained(target)
        return target
