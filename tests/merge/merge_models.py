"""Models for the merge tests: real checkpoints, changed at random or operated on, with the lineage they would have."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from surgeon.checkpoint.index import Checkpoint
from surgeon.checkpoint.lineage import LINEAGE_FILE, Lineage, Parent, dump_lineage, read_lineage
from surgeon.ops.execute import execute


def trained(parent: Path, out: Path, seed: int, *, lineage: bool = True, size: float = 0.02, **extra: str) -> Path:
    """A copy of `parent` with every tensor changed at random, as a training run would leave it; extra: files."""
    shutil.copytree(parent, out)
    (out / LINEAGE_FILE).unlink(missing_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(out / "model.safetensors")
    changed = {
        n: t + (torch.randn(t.shape, generator=generator) * size).to(t.dtype) for n, t in sorted(tensors.items())
    }
    save_file(changed, out / "model.safetensors", metadata={"format": "pt"})
    if lineage:
        step = Lineage(
            operation="cpt",
            kind="training",
            parents=[
                Parent(
                    role="model",
                    name=parent.name,
                    path="",
                    digest=Checkpoint.open(parent).digest,
                    lineage=read_lineage(parent),
                )
            ],
        )
        (out / LINEAGE_FILE).write_text(dump_lineage(step))
    for name, text in extra.items():
        (out / name.replace("__", ".")).write_text(text)
    return out


def expanded(parent: Path, out: Path, at: list[int], fill: str = "auto") -> Path:
    from surgeon.expand.plan import ExpandSettings, plan_expand

    execute(plan_expand(ExpandSettings(model=str(parent), out=out, at=at, fill=fill)), out)
    return out


def merged(out: Path, base: Path, add: dict[Path, float], **settings: Any) -> Path:
    from surgeon.merge.plan import MergeSettings, plan_merge

    words = [f"{model}={weight}" for model, weight in add.items()]
    execute(plan_merge(MergeSettings(base=str(base), out=out, add=words, **settings)), out)
    return out


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_tensors(a: Path, b: Path) -> bool:
    left, right = tensors(a), tensors(b)
    return left.keys() == right.keys() and all(
        torch.equal(left[n].view(torch.uint8), right[n].view(torch.uint8)) for n in left
    )


def logits(folder: Path, vocab: int = 90) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(3, vocab, (2, 20), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(input_ids=ids).logits


def extended(parent: Path, out: Path, num_new: int, seed: int, kind: str = "combine") -> Path:
    """`num_new` rows behind the old ones, each a random convex combination or stored, as extend-vocab has it."""
    from safetensors.torch import save

    from surgeon.arch.family import family_of
    from surgeon.checkpoint.lineage import NewRow, RowMap
    from surgeon.checkpoint.sidecars import sidecars
    from surgeon.ops.plan import Apply, Copy, Input, OutTensor, Piece, Plan, Rows, source_to_json

    checkpoint = Checkpoint.open(parent)
    family = family_of(checkpoint)
    old = checkpoint.tensors[family.embedding].shape[0]
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(num_new, 3, generator=generator, dtype=torch.float64)
    table_name = f"rows-{seed}.safetensors"
    width = checkpoint.tensors[family.embedding].shape[1]
    table = {
        "rows.offsets": torch.arange(0, 3 * num_new + 1, 3),
        "rows.indices": torch.randint(old, (3 * num_new,), generator=generator),
        "rows.weights": (weights / weights.sum(1, keepdim=True)).flatten(),
        "rows.rows": torch.randn(num_new, width, generator=generator),
    }
    initial, planned = {}, []
    for name, stored in checkpoint.tensors.items():
        shape, source = stored.shape, Copy("model", name)
        if name in (family.embedding, family.head):
            shape = (old + num_new, width)
            inputs = (Copy("model", name),) if kind == "combine" else ()
            new = Apply(f"kernel:{kind}", inputs, {"matrix": "rows"}, table_name)
            source = Rows((Piece(((0, old),), Copy("model", name)), Piece(((old, old + num_new),), new)))
            initial[name] = source_to_json(source)
        planned.append(OutTensor(name, stored.dtype, shape, source))
    rows = [NewRow(id=old + n, token=f"new{n}", pieces=[0]) for n in range(num_new)]
    plan = Plan(
        operation="extend-vocab",
        settings={},
        seed=seed,
        inputs=(Input("model", parent, checkpoint.digest, parent.name),),
        tensors=tuple(planned),
        config=checkpoint.config | {"vocab_size": old + num_new},
        lineage=Lineage(
            operation="extend-vocab",
            kind="surgery",
            rows=RowMap(old=old, rows=old + num_new, new=rows, method="x", method_output="x", weights=table_name),
            initial=initial,
        ),
        carried=dict.fromkeys(sidecars(parent), "model"),
        attachments={table_name: save(table)},
    )
    execute(plan, out)
    return out
