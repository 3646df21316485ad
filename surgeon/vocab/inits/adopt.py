"""A new row is the row that another model of the same width has for that token.

A head with a bias has one number more a row, which comes along.

Shape suffixes: V our old rows, U rows of the donor, N new rows, D columns of both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.checkpoint.reader import read
from surgeon.errors import SurgeonError
from surgeon.vocab.donor import Donor, Missing
from surgeon.vocab.inits.subword_mean import subword_mean
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens

OPENS = {"donor": Donor}
HULL = False
BATCH_INDEPENDENT = True


def adopt(
    new: NewTokens,
    embed_VD: Tensor,
    role: str,
    tied: bool,
    old_file: TokenizerFile,
    *,
    donor: str,
    missing: Missing = "refuse",
) -> Tensor:
    """The donor's rows as they are: for a model that was extended and trained from the same one as ours, whose rows
    mean the same here.

    donor: a local folder or org/name[@revision] of the hub; its embedding serves for our input matrix, its head for
    the output matrix. Tokens are the same where their bytes are. A model of another origin has another basis of the
    residual stream, and its rows mean nothing here: use omp, which needs no common origin. missing: what becomes of a
    token that the donor does not have as one, or has a row of zeros for. Float64, exact. Raises SurgeonError on a
    donor of another width, on one without the tokens, and on one with a head of its own where ours is the embedding.
    """
    source = Donor(donor)
    if role == "input" and tied and not source.family.tied and source.family.head is not None:
        raise SurgeonError(
            "the donor has a head of its own, and here one matrix serves as both: its rows are two, not one",
            str(source.path),
            "add --untie, which gives this model a head of its own",
        )
    donor_UD, ids, _ = source.matrix(role)
    if donor_UD.shape[1] != embed_VD.shape[1]:
        raise SurgeonError(
            f"the donor's rows have {donor_UD.shape[1]} columns, ours {embed_VD.shape[1]}",
            str(source.path),
            "use --init omp, which writes rows of another width in ours",
        )
    return _rows(new, donor_UD, ids, embed_VD, old_file, source, missing)


def adopted_bias(new: NewTokens, bias_V: Tensor, old_file: TokenizerFile, *, donor: str, missing: Missing) -> Tensor:
    """The donor's biases [N] beside its output rows; zeros where its head has none. Float64, exact."""
    source = Donor(donor)
    head_UD, ids, _ = source.matrix("output")
    name = source.family.head_bias
    bias_U = torch.zeros(len(head_UD)) if name is None else read(source.checkpoint.tensor(name))
    return _rows(new, bias_U, ids, bias_V, old_file, source, missing)


BIAS = adopted_bias


def _rows(
    new: NewTokens, donor_U: Tensor, ids: dict[bytes, int], old_V: Tensor, old_file: TokenizerFile, source: Donor,
    missing: Missing,
) -> Tensor:  # fmt: skip
    """donor_U: [U, D], or [U] for a bias, as old_V; result [N, D] or [N] in float64."""
    held, lacking = source.parted(new, old_file, ids, missing)
    rows_N = torch.empty(len(new), *old_V.shape[1:], dtype=torch.float64)
    rows_N[list(held)] = donor_U[list(held.values())].to(torch.float64)
    if lacking:
        rows_N[lacking] = subword_mean(new.select(lacking)).rows(old_V).to(torch.float64)
    return rows_N
