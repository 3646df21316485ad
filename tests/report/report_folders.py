"""Material for the tests of reports: lineages, checkpoints with metrics, and a strict reader of the page."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from surgeon.checkpoint.digest import json_digest
from surgeon.checkpoint.lineage import BlockMap, Lineage, NewBlock, NewRow, Parent, RowMap, dump_lineage
from surgeon.checkpoint.sidecars import metrics_name

HOSTILE = [
    "<script>alert(1)</script>",
    "</title></svg><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{1}{",
    "\x00\x07\n\u202egnp.exe\u2028",
    "_hidden",
    "&lt;b&gt;",
    "https://example.org/x.js",
]
VOID = {"meta", "br", "img", "input", "link", "hr"}
DIGEST = "sha256:" + "ab" * 32


class Page(HTMLParser):
    """Every element with its attributes, every text but the style sheet, and whether the tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str, name: str) -> int:
        return sum(t == tag and a.get("class") == name for t, a in self.elements)


def corpus(name: str, bits: float, ratio: float) -> dict[str, Any]:
    return {
        "name": name, "documents": 3, "bytes": 1000, "tokens": 310, "nats_per_token": bits * math.log(2) / ratio,
        "bits_per_byte": bits, "perplexity": 4.25, "tokens_per_word": 1.5, "tokens_per_byte": ratio,
    }  # fmt: skip


def metrics(count: int) -> list[dict[str, Any]]:
    return [
        {"step": i, "tokens": 512 * i, "loss": 3.0 + 1 / i, "lr": 1e-3 / i, "grad_norm": 0.5, "tokens_per_second": 9e3}
        for i in range(1, count + 1)
    ]


def metrics_path(folder: Path, lineage: Lineage) -> Path:
    return folder / "surgeon" / metrics_name(lineage.plan)


def checkpoint(
    folder: Path, lineage: Lineage, lines: list[dict[str, Any]] | None = None, of: Lineage | None = None
) -> Path:
    """A folder with a lineage and, where lines are given, the metrics of that training (or of the training `of`)."""
    (folder / "surgeon").mkdir(parents=True)
    (folder / "surgeon.json").write_text(dump_lineage(lineage), encoding="utf-8")
    if lines is not None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        metrics_path(folder, of or lineage).write_text(text, encoding="utf-8")
    return folder


def deepened() -> Lineage:
    new = [NewBlock(block=2, source=1, fill="zero"), NewBlock(block=5, source=3, fill="zero")]
    return Lineage(
        operation="expand-layers", kind="surgery", settings={"add": 2}, plan=DIGEST, versions={"torch": "2.13.0"},
        parents=[Parent(role="model", name="base", path="../base", digest=DIGEST)],
        blocks=BlockMap(source=[0, 1, 1, 2, 3, 3, 4], new=new), files={"model.safetensors": DIGEST},
    )  # fmt: skip


def extended(parent: Lineage) -> Lineage:
    tokens = HOSTILE + [f"▁word{i}" for i in range(51)]
    rows = [NewRow(id=512 + i, token=t, pieces=[300 + i, 301 + i]) for i, t in enumerate(tokens)]
    return Lineage(
        operation="extend-vocab", kind="surgery", plan=DIGEST, versions={"torch": "2.13.0"},
        parents=[Parent(role="model", name="deep", path="../deep", digest=DIGEST, lineage=parent)],
        rows=RowMap(old=512, rows=576, new=rows, method="convex_hull", method_output="mean"),
    )  # fmt: skip


def trained(parent: Lineage, settings: dict[str, Any] | None = None) -> Lineage:
    plan = json_digest([parent.model_dump(mode="json"), settings])
    return Lineage(
        operation="cpt", kind="training", settings=settings or {}, plan=plan, versions={"torch": "2.13.0"},
        parents=[Parent(role="model", name="wide", path="../wide", digest=DIGEST, lineage=parent)],
        training={"steps": 40},
    )  # fmt: skip
