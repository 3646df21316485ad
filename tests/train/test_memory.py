"""The peak of a run's memory is where it computes."""

from __future__ import annotations

import pytest
import torch

from surgeon.ops.memory import peak_rss_bytes
from surgeon.train.memory import peak_memory


def test_on_a_cpu_it_is_that_of_the_process() -> None:
    before = peak_rss_bytes()
    found = peak_memory(torch.device("cpu"))
    assert before <= found <= peak_rss_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_holds_the_largest_tensor() -> None:
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.ones(1 << 20, device=device)
    size = held.nbytes
    del held
    assert size <= peak_memory(device) == torch.cuda.max_memory_allocated(device)
