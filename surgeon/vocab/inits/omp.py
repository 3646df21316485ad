"""Orthogonal matching pursuit: a donor model's row of a token, written in rows that both models have.

Shape suffixes: V our old rows, U rows of the donor, S tokens that both have, N new rows, D our columns, C the donor's,
K atoms of a new row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.errors import SurgeonError, UsageError
from surgeon.progress import Progress
from surgeon.vocab.donor import Donor, Missing, ids_by_bytes
from surgeon.vocab.inits.subword_mean import subword_mean
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens

OPENS = {"donor": Donor}
HULL = False  # coefficients may be negative
BATCH_INDEPENDENT = False  # the last bits of a matrix product depend on its size
_DEPENDENT = 1e-7  # of an atom's length: an atom that adds less is a sum of those before it
_CHUNK = 64  # new tokens at a time: _CHUNK * (S + C * K) numbers are held


def omp(
    new: NewTokens,
    embed_VD: Tensor,
    role: str,
    old_file: TokenizerFile,
    progress: Progress,
    *,
    donor: str,
    k: int = 64,
    missing: Missing = "refuse",
) -> Tensor:
    """For each new token the same sum of `k` of our rows that best gives its row in a donor model.

    The rows are those of tokens that both models have, chosen and weighted in the donor. donor: a local folder or
    org/name[@revision] of the hub; its embedding serves for our input matrix, its head for the output matrix. Tokens
    are the same where their bytes are, whatever the tokenizers' spelling of spaces and bytes; special tokens and rows
    that stand twice or are zero (never trained) are not chosen. missing: what becomes of a token that the donor does
    not have as one. The pursuit is mergekit's, the paper's own code, in float64; as there, atoms are not scaled to
    length 1. Raises SurgeonError where the donor lacks tokens, and where `k` of its rows are not independent.
    Source: Training-free tokenizer transplantation via orthogonal matching pursuit, arXiv 2506.06607, section 3.
    """
    source = Donor(donor)
    donor_UC, donor_ids, donor_atoms = source.matrix(role)
    ours = ids_by_bytes(old_file, new.usable)
    held, lacking = source.parted(new, old_file, donor_ids, missing)
    shared = [text for text in ours if text in donor_atoms]
    most = min(len(shared), donor_UC.shape[1])
    if not 1 <= k <= most:
        raise UsageError(
            f"k={k} is not between 1 and {most} ({len(shared)} shared tokens, {donor_UC.shape[1]} columns)",
            "--option k",
            f"for example k={max(1, min(64, most // 2))}",
        )
    atoms_SC = donor_UC[[donor_atoms[text] for text in shared]].to(torch.float64)
    our_ids = torch.tensor([ours[text] for text in shared])
    rows_ND = torch.empty(len(new), embed_VD.shape[1], dtype=torch.float64)
    if lacking:
        rows_ND[lacking] = subword_mean(new.select(lacking)).rows(embed_VD)
    places = list(held)
    with progress.task("orthogonal matching pursuit", len(held), "tokens") as advance:
        for start in range(0, len(held), _CHUNK):
            chunk = places[start : start + _CHUNK]
            targets_NC = donor_UC[[held[n] for n in chunk]].to(torch.float64)
            places_NK, weights_NK = pursue(targets_NC, atoms_SC, k, str(source.path))
            ours_NKD = embed_VD[our_ids[places_NK]].to(torch.float64)
            rows_ND[chunk] = torch.bmm(weights_NK.unsqueeze(1), ours_NKD).squeeze(1)
            advance(len(chunk))
    return rows_ND


def pursue(targets_NC: Tensor, atoms_SC: Tensor, k: int, where: str) -> tuple[Tensor, Tensor]:
    """The places of `k` atoms of each target, and their coefficients: both [N, K], in the order of their choice.

    The kernel is mergekit's, which divides by a small constant where an atom adds no direction to those before it,
    and so gives it any coefficient: that is refused.
    """
    from mergekit.tokensurgeon.omp import batch_omp

    places_NK, weights_NK = batch_omp(targets_NC, atoms_SC, k)
    chosen_NCK = atoms_SC[places_NK].transpose(1, 2)
    added_NK = torch.linalg.qr(chosen_NCK, mode="r").R.diagonal(dim1=1, dim2=2).abs()
    if bool((added_NK <= _DEPENDENT * chosen_NCK.norm(dim=1)).any()):
        raise SurgeonError(f"{k} atoms are more than the donor's shared rows support", where, "give a smaller k")
    return places_NK, weights_NK
