"""What each init is worth before any training: bits per byte of new text, and what old text loses.

For every text the tokens are learned once on its training part; then for every init the new rows are made as
`extend-vocab` makes them (probe, budget and projection included), put behind the old rows in memory, and measured:
bits per byte of the held-out text in the new encoding, nats a token that held-out old text loses, the share of its
positions at which an old token still wins (in float32, and with hidden states and rows in bfloat16), and the margin.

    python benchmarks/vocab_step0.py --model MODEL --text NAME=STEM ... --old STEM [--inits a,b] [--json FILE]

STEM.train.jsonl and STEM.valid.jsonl are read; the probe is the old training part.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import Tensor

from surgeon.arch.family import family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.reader import read
from surgeon.checkpoint.rounding import round_once
from surgeon.data.items import Item
from surgeon.errors import SurgeonError
from surgeon.train.score import score
from surgeon.vocab.body import Body
from surgeon.vocab.hull import Combination
from surgeon.vocab.learn import learn
from surgeon.vocab.old_loss import NewRowsBeside, OldModel
from surgeon.vocab.rows import new_rows
from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.vocab.texts import Encoded, Texts
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens, old_pieces
from surgeon.vocab.windows import start_ids

CONTEXT = 512
INITS: dict[str, dict[str, Any]] = {
    "default": {"probe": True},
    "default without a probe": {},
    "default untied": {"probe": True, "untie": True},
    "weighted_pieces within 0.02": {"init": "weighted_pieces", "probe": True, "old_loss_budget": 0.02},
    "subword_mean": {"init": "subword_mean"},
    "subword_mean within 0.02": {"init": "subword_mean", "probe": True, "old_loss_budget": 0.02},
    "last / first piece": {
        "init": "subword_mean", "option": {"lean": "last"},
        "init_output": "subword_mean", "option_output": {"lean": "first"},
    },
    "mean": {"init": "mean"},
    "univariate": {"init": "univariate"},
    "gaussian 1e-5": {"init": "gaussian"},
    "gaussian 1 (Hewitt)": {"init": "gaussian", "option": {"scale": 1.0}},
    "random": {"init": "random"},
    "zero": {"init": "zero"},
    "convex_hull": {"init": "convex_hull"},
    "align": {"init": "align"},
    "cw2v": {"init": "cw2v"},
    "focus": {"init": "focus"},
}  # fmt: skip


class Case:
    """A model, a text whose tokens it has learned, and old text."""

    def __init__(self, model: str, stem: str, old_stem: str, add: int, documents: int, positions: int) -> None:
        self.model, self.train, self.probe = model, f"{stem}.train.jsonl", f"{old_stem}.train.jsonl"
        self.checkpoint = Checkpoint.open(Path(model))
        self.family = family_of(self.checkpoint)
        self.tied = self.family.tied or self.family.head is None
        self.head = self.family.embedding if self.tied else self.family.head
        self.old = TokenizerFile.open(Path(model))
        settings = self.settings({})
        learned = learn(self.old, islice(Texts([self.train], settings), 400), add)
        self.file = self.old.extended(learned.tokens, learned.merges)
        rows = self.checkpoint.tensor(self.family.embedding).shape[0]
        assert rows == self.old.next_id, "a model without padding rows is wanted here"
        self.new = NewTokens(
            learned.tokens, tuple(range(rows, rows + add)), old_pieces(self.old, learned.tokens), (),
            Encoded(self.file, Texts([self.train], settings)),
        )  # fmt: skip
        self.start = start_ids(Path(model))
        self.body = Body(Path(model), "cpu")
        self.items = [self.item(t) for t in islice(Texts([f"{stem}.valid.jsonl"], settings), documents)]
        held = Encoded(self.old, Texts([f"{old_stem}.valid.jsonl"], settings))
        with torch.no_grad():
            hidden = self.body.hidden_states(held, positions)
            self.beside = NewRowsBeside(
                OldModel.measure(self.body.head, hidden, []), read(self.checkpoint.tensor(self.head)), self.new
            )
        self.before = score(self.body.model, [self.item(t, old=True) for t in self._texts], CONTEXT).bits_per_byte

    _texts: list[str]

    def item(self, text: str, old: bool = False) -> Item:
        """The first tokens of a text, at most 2 windows, with the bytes they spell."""
        if not old:
            encoding = self.file.load().encode(text, add_special_tokens=False)
            text = text[: encoding.offsets[min(len(encoding.ids), 600) - 1][1]]
            self._texts = [*getattr(self, "_texts", []), text]
        ids = (self.old if old else self.file).load().encode(text, add_special_tokens=False).ids
        whole = np.asarray([*self.start, *ids], dtype=np.int64)
        scored = np.ones(len(whole), dtype=np.bool_)
        scored[: max(len(self.start), 1)] = False
        return Item(whole, scored, len(self.start), len(text.encode("utf-8")), len(text.split()))

    def settings(self, words: dict[str, Any]) -> ExtendVocabSettings:
        words = dict(words)
        if words.pop("probe", False):
            words["probe"] = [self.probe]
        out = Path(tempfile.gettempdir()) / "not-written"
        return ExtendVocabSettings(model=self.model, out=out, corpus=[self.train], add=1, device="cpu", **words)

    def given(self, words: dict[str, Any]) -> tuple[Any, Any, dict[str, Any] | None]:
        """(input rows, output rows, calibration)."""
        settings = self.settings(words)
        rows = new_rows(settings, self.checkpoint, self.family, self.old, self.new, self.new.ids[-1] + 1)
        first, *_, last = [*rows.given.values()] * 2  # one matrix where they are tied
        return first, last, rows.calibration

    def stored(self, name: str, given: Any) -> Tensor:
        matrix = read(self.checkpoint.tensor(name))
        rows = given.rows(matrix) if isinstance(given, Combination) else given
        return round_once(rows, matrix.dtype).float()

    def measure(self, given_input: Any, given_output: Any) -> dict[str, float]:
        with torch.no_grad():
            found = self.beside.measure(self.beside.stored(given_output))
            output = self.stored(self.head, given_output)
            model = self._extended(self.stored(self.family.embedding, given_input), output)
            bits = score(model, self.items, CONTEXT).bits_per_byte
            return {
                "bits_per_byte": bits, "lost": found.loss, "kept": found.kept,
                "kept_bf16": self._kept_in_bfloat16(output), "margin": found.margin,
            }  # fmt: skip

    def _extended(self, rows_input: Tensor, rows_output: Tensor) -> Any:
        model = copy.deepcopy(self.body.model)
        weight = model.get_input_embeddings().weight
        joined = torch.nn.Parameter(torch.cat([weight, rows_input]), requires_grad=False)
        model.get_input_embeddings().weight = joined
        head = model.get_output_embeddings()
        both = torch.cat([self.body.head.weight, rows_output])  # for a tied model two equal copies
        head.weight = torch.nn.Parameter(both, requires_grad=False)
        model.config.get_text_config().vocab_size = len(joined)
        return model

    def _kept_in_bfloat16(self, output: Tensor) -> float:
        """What a model that runs in bfloat16 sees: hidden states, rows and logits rounded to it."""
        beaten, hidden = 0, self.beside.old.hidden
        weight = self.body.head.weight.bfloat16()
        for start in range(0, len(hidden), 512):
            states = hidden[start : start + 512].bfloat16()
            old, new = states @ weight.T, states @ output.bfloat16().T
            beaten += int((new.amax(1) > old.amax(1)).sum())
        return 1 - beaten / len(hidden)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", action="append", required=True, help="NAME=STEM")
    parser.add_argument("--old", required=True, help="STEM of the old text")
    parser.add_argument("--inits", default=",".join(INITS), help="names, separated by commas")
    parser.add_argument("--add", type=int, default=300)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for text in args.text:
        name, _, stem = text.partition("=")
        case = Case(args.model, stem, args.old, args.add, args.documents, args.positions)
        print(f"{name}: {case.before:.3f} bits per byte before, in the old encoding", file=sys.stderr)
        found[name] = {"before": case.before}
        for init in args.inits.split(","):
            started = time.perf_counter()
            try:
                given_input, given_output, calibration = case.given(INITS[init])
            except SurgeonError as error:
                print(f"  {init:26} refused: {error.problem}", file=sys.stderr)
                continue
            numbers = case.measure(given_input, given_output)
            share = "" if calibration is None else f" share {calibration['share']:.3f}"
            print(
                f"  {init:26} {numbers['bits_per_byte']:7.3f} bits/byte  lost {numbers['lost']:.4f}  "
                f"kept {numbers['kept']:.5f} (bf16 {numbers['kept_bf16']:.5f})  margin {numbers['margin']:.2f}"
                f"{share}  {time.perf_counter() - started:.1f} s",
                flush=True,
            )
            found[name][init] = numbers | {"calibration": calibration}
    if args.json:
        about = {"command": " ".join(["python", *sys.argv]), "torch": torch.__version__, "add": args.add}
        args.json.write_text(json.dumps(about | {"texts": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
