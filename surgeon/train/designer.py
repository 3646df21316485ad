"""A small network that proposes soft targets: for each token a distribution over a few candidates, and how much of it.

It looks at whole documents, ahead as well: it is used in training alone, and the learner never reads its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surgeon.data.pack import IGNORED
from surgeon.train.batch import Batch


@dataclass(frozen=True)
class Candidates:
    """Of T tokens with a label: at, int64 [T], their places in the flattened batch; ids, int64 [T, K], the label first
    and then the K - 1 most likely other tokens; logs: float32 [T, K], their log-probabilities, with a graph."""

    at: Tensor
    ids: Tensor
    logs: Tensor


def candidates(logits: Tensor, labels: Tensor, count: int) -> Candidates:
    """Of logits [rows, tokens, V] and labels [rows, tokens]; arithmetic in float32."""
    at = (labels.reshape(-1) != IGNORED).nonzero()[:, 0]
    logs = logits.reshape(-1, logits.shape[-1])[at].float().log_softmax(-1)
    own = labels.reshape(-1)[at][:, None]
    ids = logs.detach().scatter(1, own, torch.inf).topk(count, dim=-1).indices
    return Candidates(at, ids, logs.gather(1, ids))


class Designer(nn.Module):
    """Reads, at every token, what the learner's head reads and the label; gives r and alpha of
    q = (1 - alpha) onehot(label) + alpha r. At the start r is the learner's own distribution over the candidates and
    alpha is half of `most`: the two parts that say otherwise begin at zero."""

    def __init__(self, hidden: int, width: int, layers: int, heads: int, most: float) -> None:
        super().__init__()
        self.most = most
        self.norm, self.read = nn.LayerNorm(hidden), nn.Linear(hidden, width)
        self.rows, self.label = nn.Linear(hidden, width, bias=False), nn.Linear(width, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.choose, self.gate = nn.Linear(width, width), nn.Linear(width, 1)
        for part in (self.choose, self.gate):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, hidden: Tensor, matrix: Tensor, batch: Batch, found: Candidates) -> Tensor:
        """q: float32 [T, K], every row on the simplex. hidden: what the head reads, [rows, tokens, H]; matrix: the
        head's rows, [V, H]; neither gets a gradient. batch: as the logits are arranged."""
        place = hidden.device.type
        with torch.autocast(place, enabled=False):
            table = self.rows(matrix.detach().float())
            read = self.read(self.norm(hidden.detach().float())).reshape(-1, table.shape[1])
            read = read.index_add(0, found.at, self.label(table[found.ids[:, 0]]))
            index, there = _documents(batch)
            context = self.blocks(read[index], src_key_padding_mask=~there)
            held = torch.zeros_like(read).index_copy(0, index[there], context[there])[found.at]
            fit = (self.choose(held)[:, None, :] * table[found.ids]).sum(-1) / table.shape[1] ** 0.5
            r = (found.logs.detach() + fit).softmax(-1)
            alpha = self.most * self.gate(held).sigmoid()
            return mixed(r, alpha)


def mixed(r: Tensor, alpha: Tensor) -> Tensor:
    """(1 - alpha) onehot + alpha r, the label being the first candidate."""
    q = alpha * r
    label = q[:, :1] + (1 - alpha)
    return torch.cat([label, q[:, 1:]], dim=1)


def _documents(batch: Batch) -> tuple[Tensor, Tensor]:
    """(places in the flattened batch, whether there is a token): int64 and bool [documents, longest]."""
    device = batch.labels.device
    lengths = torch.tensor(batch.lengths, device=device)
    steps = torch.arange(max(batch.lengths), device=device)
    packed = batch.labels.numel() == sum(batch.lengths)
    starts = lengths.cumsum(0) - lengths if packed else torch.arange(len(lengths), device=device) * len(steps)
    there = steps < lengths[:, None]
    return torch.where(there, starts[:, None] + steps, starts[:, None]), there
