"""Processes of a run that were not started alike are refused: each would train on a batch of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torchrun import in_several

PROGRAM = Path(__file__).parents[1] / "cli" / "refusals_of_several.py"


def test_other_corpora_and_rates_in_one_process_are_refused(
    tiny: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    other, out = tmp_path / "elsewhere.jsonl", tmp_path / "out"
    other.write_text(corpus.read_text() + '{"text": "One more."}\n')
    words = ["cpt", str(tiny("llama")), str(out), "--tokens", "128", "--seq-len", "16", "--batch-tokens", "64"]
    words += ["--device", "cpu", "--data"]
    given = [[*words, f"d={corpus}"], [*words, f"d={other}", "--lr", "0.01", "--save-every", "1"]]
    done = in_several(PROGRAM, json.dumps(given), cwd=tmp_path)
    said = "error: processes 0 and 1 were started otherwise: data, lr, save_every\nwhere: torchrun\n mend: give all"
    assert done.stderr.count(said) == 1, done.stderr[-2000:]
    assert not list(tmp_path.glob("out*"))
    assert [(tmp_path / f"code-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]
