"""What a PEFT folder holds, in plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surgeon.adapters.peft_format import lora_modules, open_adapter
from surgeon.checkpoint.header import DTYPE_BYTES


def inspect_adapter(folder: Path) -> dict[str, Any]:
    """Kind, base, rank, scaling, modules and parameters. Raises SurgeonError where it is not plain LoRA."""
    adapter = open_adapter(folder)
    modules = lora_modules(adapter)
    lineage = adapter.lineage
    return {
        "kind": "lora",
        "base": adapter.config.get("base_model_name_or_path"),
        "ranks": sorted({m.rank for m in modules}),
        "alpha": adapter.config["lora_alpha"],
        "scaling": sorted({m.scaling for m in modules}),
        "rank_stabilized": bool(adapter.config.get("use_rslora")),
        "modules": [m.module for m in modules],
        "parameters": sum(t.nbytes // DTYPE_BYTES[t.dtype] for t in adapter.tensors.values()),
        "dtypes": sorted({t.dtype for t in adapter.tensors.values()}),
        "bytes": adapter.num_bytes,
        "changes_nothing": adapter_is_identity(folder)[0],
        "lineage": None if lineage is None else lineage.model_dump(mode="json", exclude_defaults=True),
    }


def adapter_is_identity(folder: Path) -> tuple[bool, str]:
    """Whether every update is exactly zero (a factor B without a non-zero element), and a line that says so."""
    from surgeon.checkpoint.reader import read

    adapter = open_adapter(folder)
    modules = lora_modules(adapter)
    changed = [m.module for m in modules if read(adapter.tensors[m.b]).any()]
    if changed:
        return False, f"{len(changed)} of {len(modules)} modules have a non-zero update, first {changed[0]}"
    return True, f"all {len(modules)} factors B are zero"
