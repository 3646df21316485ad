"""Rows from a donor by orthogonal matching pursuit: the kernel against numpy, and donors that are rotations of us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from body_material import Case, case
from safetensors.torch import load_file, save_file
from vocab_material import documents

from surgeon.errors import SurgeonError, UsageError
from surgeon.ops.execute import execute
from surgeon.progress import SILENT
from surgeon.vocab.donor import ids_by_bytes
from surgeon.vocab.inits.omp import omp, pursue
from surgeon.vocab.inits.subword_mean import subword_mean
from surgeon.vocab.plan import plan_extend_vocab
from surgeon.vocab.settings import ExtendVocabSettings
from surgeon.vocab.tokenizer_json import TokenizerFile

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def reference(target: np.ndarray, atoms: np.ndarray, k: int) -> tuple[list[int], np.ndarray]:
    """As the paper writes it: the atom of the greatest product with the residual, then all coefficients again."""
    chosen: list[int] = []
    residual, weights = target, np.zeros(0)
    for _ in range(k):
        products = np.abs(atoms @ residual)
        products[chosen] = -1
        chosen.append(int(products.argmax()))
        weights = np.linalg.lstsq(atoms[chosen].T, target, rcond=None)[0]
        residual = target - weights @ atoms[chosen]
    return chosen, weights


@pytest.mark.parametrize(("size", "width", "k"), [(30, 12, 1), (30, 12, 7), (200, 64, 40), (15, 15, 15)])
def test_the_kernel_is_orthogonal_matching_pursuit(size: int, width: int, k: int) -> None:
    draw = np.random.default_rng(size + k)
    atoms, targets = draw.normal(size=(size, width)), draw.normal(size=(5, width))
    places, weights = pursue(torch.from_numpy(targets), torch.from_numpy(atoms), k, "here")
    for n, target in enumerate(targets):
        expected = reference(target, atoms, k)
        assert places[n].tolist() == expected[0]
        np.testing.assert_allclose(weights[n].numpy(), expected[1], rtol=1e-8, atol=1e-10)


def test_more_atoms_than_directions_are_refused() -> None:
    """mergekit's kernel divides by its tolerance there, and gives rows far from the target without a word."""
    draw = np.random.default_rng(0)
    atoms = torch.from_numpy(draw.normal(size=(20, 3)) @ draw.normal(size=(3, 10)))
    target = torch.from_numpy(draw.normal(size=(1, 10)))
    pursue(target, atoms, 3, "here")
    with pytest.raises(SurgeonError, match="6 atoms are more than the donor's shared rows support"):
        pursue(target, atoms, 6, "here")


def rotated(held: Case, folder: Path, support: int = 5) -> tuple[Path, dict[str, torch.Tensor]]:
    """A donor whose space is ours turned (another turn for the head), with planted new rows: sums of a few old rows,
    coefficients of both signs. The rows in our space are returned."""
    old = load_file(held.body.path / "model.safetensors")
    draw = np.random.default_rng(3)
    planted, tensors = {}, {name: tensor.float() for name, tensor in old.items()}
    for name in (EMBEDDING, HEAD):
        rows = old[name].double()
        turn = torch.from_numpy(np.linalg.qr(draw.normal(size=(rows.shape[1],) * 2))[0])
        new = torch.zeros(len(held.new), rows.shape[1], dtype=torch.float64)
        for row in new:
            chosen = draw.choice(held.new.usable, support, replace=False)
            size = draw.uniform(1, 2, support) * draw.choice([-1, 1], support)
            row += torch.from_numpy(size) @ rows[torch.from_numpy(chosen)]
        planted[name] = new
        tensors[name] = (torch.cat([rows, new]) @ turn).float().contiguous()
    folder.mkdir()
    (folder / "tokenizer.json").write_text(held.extended.text(), encoding="utf-8")
    config = json.loads((held.body.path / "config.json").read_text())
    size = {"vocab_size": len(tensors[EMBEDDING])}
    (folder / "config.json").write_text(json.dumps(config | size | {"dtype": "float32"}), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder, planted


def given(held: Case, role: str, donor: Path, **options: Any) -> torch.Tensor:
    matrix = held.input_VD if role == "input" else held.output_VD
    return omp(held.new, matrix, role, held.old, SILENT, donor=str(donor), **options)


@pytest.mark.material
def test_rows_of_a_turned_donor_are_recovered(material: Path, tmp_path: Path) -> None:
    """Sums of 5 rows, looked for among 4,000: what the pursuit finds in the turned space is what it finds in ours,
    for most tokens the planted row itself; with as many atoms as directions for all. Up to the donor's float32."""
    held = case(material, "base", 20)
    donor, planted = rotated(held, tmp_path / "donor")
    old = load_file(held.body.path / "model.safetensors")
    for role, name in (("input", EMBEDDING), ("output", HEAD)):
        rows, size = given(held, role, donor, k=12), planted[name].norm(dim=1)
        assert rows.dtype == torch.float64
        exact = (rows - planted[name]).norm(dim=1) / size < 1e-6
        assert int(exact.sum()) >= 15
        ours = list(ids_by_bytes(held.old, held.new.usable).values())
        atoms = old[name][ours].double().numpy()
        for n in range(0, 20, 4):
            places, weights = reference(planted[name][n].numpy(), atoms, 12)
            torch.testing.assert_close(rows[n], torch.from_numpy(weights @ atoms[places]), rtol=0, atol=1e-5)
    rows, size = given(held, "input", donor, k=256), planted[EMBEDDING].norm(dim=1)
    assert float(((rows - planted[EMBEDDING]).norm(dim=1) / size).max()) < 1e-5
    one = given(held, "input", donor, k=1)
    assert float(((one - planted[EMBEDDING]).norm(dim=1) / size).min()) > 0.1  # one atom is not enough


@pytest.mark.material
def test_a_donor_that_surgeon_extended_gives_its_rows_back(material: Path, tmp_path: Path) -> None:
    """base-instruct with the same tokens as means of their pieces: sums of few rows there are the same sums here."""
    corpus = str(material / "corpora" / "medical_en.valid.jsonl")
    for name, model, init, option in (
        ("donor", "base-instruct", "subword_mean", {}),
        ("out", "base", "omp", {"donor": str(tmp_path / "donor"), "k": 64}),
    ):
        settings = ExtendVocabSettings(
            model=str(material / "models" / model), out=tmp_path / name, corpus=[corpus], add=20, init=init,
            option=option,
        )  # fmt: skip
        execute(plan_extend_vocab(settings), tmp_path / name, threads=1)
    held = case(material, "base", 20)
    after, before = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", held.body.path))
    tokens = TokenizerFile.open(tmp_path / "out").ids
    pieces = dict(zip(held.new.tokens, held.new.pieces, strict=True))
    both = [i for i in range(4096, 4116) if tokens[i] in pieces]
    assert len(both) > 5
    for name in (EMBEDDING, HEAD):
        assert torch.equal(after[name][:4096], before[name])
        for i in both:
            mean = before[name][list(pieces[tokens[i]])].float().mean(0)
            assert float((after[name][i].float() - mean).norm() / mean.norm()) < 0.05  # both are rounded to bfloat16


@pytest.mark.material
@pytest.mark.parametrize(
    ("one", "other", "least"), [("gpt2", "mistral-v1", 15_000), ("qwen2", "minimind-6400", 5_000)]
)
def test_tokens_of_other_tokenizers_are_matched_by_their_text(
    material: Path, one: str, other: str, least: int
) -> None:
    files = [TokenizerFile.open(material / "tokenizers" / name) for name in (one, other)]
    found = [ids_by_bytes(file, tuple(file.ids)) for file in files]
    shared = found[0].keys() & found[1].keys()
    assert len(shared) > least
    loaded = [file.load() for file in files]
    texts = documents(material, "general_en", 10)
    # what both tokenizers, by themselves, cut out of a text as one token is one token here too
    checked = 0
    for text in texts:
        spans = []
        for tokenizer in loaded:
            encoding = tokenizer.encode(text, add_special_tokens=False)
            spans.append({text[a:b]: i for i, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)})
        for word in spans[0].keys() & spans[1].keys():
            if word.isascii() and word.startswith(" ") and word.strip().isalpha():
                assert [found[n][word.encode()] for n in (0, 1)] == [spans[n][word] for n in (0, 1)]
                checked += 1
    assert checked > 100


@pytest.mark.material
def test_tokens_that_the_donor_lacks(material: Path, tmp_path: Path) -> None:
    held = case(material, "base", 20)
    fewer = case(material, "base", 12)
    donor, _ = rotated(fewer, tmp_path / "donor")
    absent = [n for n, token in enumerate(held.new.tokens) if token not in fewer.extended.vocab]
    assert absent
    with pytest.raises(SurgeonError, match=f"the donor lacks {len(absent)} of the 20 new tokens"):
        given(held, "input", donor)
    rows = given(held, "input", donor, missing="subword_mean")
    present = [n for n in range(20) if n not in absent]
    assert torch.equal(rows[absent], subword_mean(held.new).rows(held.input_VD)[absent])
    alone = omp(held.new.select(present), held.input_VD, "input", held.old, SILENT, donor=str(donor))
    torch.testing.assert_close(rows[present], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.material
def test_a_token_whose_row_equals_another_is_held_and_a_zero_row_is_not(material: Path, tmp_path: Path) -> None:
    held = case(material, "base", 20)
    donor, _ = rotated(held, tmp_path / "donor")
    tensors = load_file(donor / "model.safetensors")
    old = held.new.usable[700]
    tensors[EMBEDDING][4096] = tensors[EMBEDDING][old]
    save_file(tensors, donor / "model.safetensors", {"format": "pt"})
    row = given(held, "input", donor, k=256)[0]
    torch.testing.assert_close(row, held.input_VD[old].double(), rtol=0, atol=1e-4)
    tensors[EMBEDDING][4096] = 0
    save_file(tensors, donor / "model.safetensors", {"format": "pt"})
    with pytest.raises(SurgeonError, match="the donor lacks 1 of the 20"):
        given(held, "input", donor)


@pytest.mark.material
def test_refusals(material: Path, tmp_path: Path) -> None:
    held = case(material, "base", 20)
    donor, _ = rotated(held, tmp_path / "donor")
    for k in (0, 257):
        with pytest.raises(UsageError, match=f"k={k} is not between 1 and 256"):
            given(held, "input", donor, k=k)
    with pytest.raises(SurgeonError, match="there is no such folder"):
        given(held, "input", tmp_path / "absent")
