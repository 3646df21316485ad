"""A real model, new tokens learned from real text, and texts that they were not learned from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from vocab_material import documents

from surgeon.arch.family import family_of
from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.reader import read
from surgeon.loading import load_model
from surgeon.vocab.body import Body
from surgeon.vocab.learn import learn
from surgeon.vocab.tokenizer_files import extend_files
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens, old_pieces
from surgeon.vocab.usable import usable_ids


@dataclass(frozen=True)
class Case:
    """new: learned from half of the documents and with their text. rest: the other half."""

    body: Body
    old: TokenizerFile
    new: NewTokens
    extended: TokenizerFile
    rest: tuple[str, ...]
    input_VD: torch.Tensor  # noqa: N815
    output_VD: torch.Tensor  # noqa: N815

    @property
    def tied(self) -> bool:
        return self.input_VD is self.output_VD

    def with_rows(self, input_ND: torch.Tensor, output_ND: torch.Tensor) -> Any:
        """The model as transformers has it with the rows added."""
        model = load_model(self.body.path, device=torch.device("cpu"), dtype=torch.float32).requires_grad_(False)
        first = len(self.input_VD)
        model.resize_token_embeddings(first + len(self.new), mean_resizing=False)
        model.get_output_embeddings().weight[first:] = output_ND.float()
        model.get_input_embeddings().weight[first:] = input_ND.float()
        return model


@cache
def case(material: Path, model: str, add: int = 60) -> Case:
    folder = material / "models" / model
    texts = documents(material, "medical_en", 40)
    old, checkpoint = TokenizerFile.open(folder), Checkpoint.open(folder)
    family = family_of(checkpoint)
    learned = learn(old, texts[::2], add)
    stored = checkpoint.tensor(family.embedding)
    first = stored.shape[0]
    file = extend_files(folder, old, learned.tokens, learned.merges, first).file
    tokenizer = file.load()
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts[::2]]
    new = NewTokens(
        learned.tokens,
        tuple(range(first, first + add)),
        old_pieces(old, learned.tokens),
        usable_ids(old, stored),
        lambda: ids,
    )
    matrix = read(stored)
    tied = family.tied or family.head is None
    head = matrix if tied else read(checkpoint.tensor(str(family.head)))
    return Case(Body(folder, "cpu"), old, new, file, tuple(texts[1::2]), matrix, head)
