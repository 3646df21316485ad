"""The training methods of the literature on a small real model and real texts: was the paper's direction seen?

    python benchmarks/demonstrations.py replay rewarm --out benchmarks/results
    python benchmarks/demonstrations.py replay rewarm --out benchmarks/results --material DIR
    python benchmarks/demonstrations.py --docs

Every arm starts from the same base and trains on the same number of tokens, with the same seeds (they decide the order
of the data); then held-out text is scored, in bits per byte. The base is the story model of the quickstart (260K
parameters; its own text is `general`), or with --material DIR the 8M model and the corpora there. What is expected is
written down in demonstration_arms.py. Of several names in one call, arms that are the same are trained once. A claim
is seen where all seeds of one arm lie below all of the other, not seen where all lie above, and null where the ranges
overlap or there is none (one seed). Beside it stands the difference, seed by seed, which the order of the data moves
less: it is told, and decides nothing. --docs writes docs/demonstrations.md from the results in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from demonstration_arms import DEMONSTRATIONS, Claim, Demonstration, Stage
from demonstration_report import Values, document, file_of, printed
from demonstration_scales import ROOT, Scale, of_material, quickstart
from expand import machine

RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs" / "demonstrations.md"
NOISE = 0.6  # of the words of the worst graded piece
Known = dict[str, dict[str, float]]  # measures of an arm, by seed and settings


def demonstrate(name: str, scale: Scale, seeds: int, work: Path, known: Known | None = None) -> dict[str, Any]:
    """The result of a demonstration as plain data. known: what was measured before, to which is added; of the same
    scale. Raises SystemExit where its arms do not train on equal tokens."""
    chosen, load, known = DEMONSTRATIONS[name], os.getloadavg(), {} if known is None else known
    scale.places["graded"] = str(work / "graded.jsonl")
    arms = {arm: stages_of(chosen, stages, scale) for arm, stages in chosen.arms.items()}
    budgets = {arm: sum(s["tokens"] for s in stages if s["do"] == "cpt") for arm, stages in arms.items()}
    if len(set(budgets.values())) != 1:
        raise SystemExit(f"{name}: the arms train on different numbers of tokens: {budgets}")
    base = measured(chosen, scale, scale.model, None)
    values: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        if any("{graded}" in text for text in chosen.common.get("data", [])):
            graded(scale, seed, Path(scale.places["graded"]))  # anew: the ascending order itself draws nothing
        for arm, stages in arms.items():
            key = json.dumps([seed, stages, chosen.corpora, chosen.long], sort_keys=True)
            if key not in known:
                known[key] = measured(chosen, scale, trained(stages, scale.model, seed, work / "arm"), base)
                shutil.rmtree(work / "arm")
            found = known[key]
            for measure, value in found.items():
                values.setdefault(arm, {}).setdefault(measure, []).append(value)
            print(name, seed, arm, {k: round(v, 4) for k, v in found.items()}, file=sys.stderr, flush=True)
    claims = [judged(claim, values) for claim in chosen.claims]
    return {
        "name": name,
        "source": chosen.source,
        "direction": chosen.about,
        "scale": scale.name,
        "tokens": next(iter(budgets.values())),
        "seeds": seeds,
        "base": base,
        "arms": values,
        "claims": claims,
        "verdict": verdict([c["found"] for c in claims]),
        "machine": machine(load),
    }


def judged(claim: Claim, values: Values) -> dict[str, Any]:
    """What was found of a claim, and by how much its first arm is above the second, seed by seed."""
    pairs = zip(values[claim.below][claim.measure], values[claim.above][claim.measure], strict=True)
    return {"claim": str(claim), "found": finding(claim, values), "difference": [a - b for a, b in pairs]}


def finding(claim: Claim, values: Values) -> str:
    """seen, not seen, or null where the ranges over seeds overlap; null too where there is no range: with one seed, or
    in an arm that the seeds leave as it is."""
    below = values[claim.below][claim.measure]
    above = [v + claim.margin for v in values[claim.above][claim.measure]]
    if not all(map(math.isfinite, [*below, *above])):
        raise SystemExit(f"{claim}: a loss is not finite")
    if min(below) == max(below) or min(above) == max(above):
        return "null"
    if max(below) < min(above):
        return "seen"
    return "not seen" if min(below) > max(above) else "null"


def verdict(findings: Sequence[str]) -> str:
    """seen where every claim is, not seen where one is contradicted, else null."""
    if "not seen" in findings:
        return "not seen"
    return "null" if "null" in findings else "seen"


def stages_of(chosen: Demonstration, stages: Stage | list[Stage], scale: Scale) -> list[Stage]:
    """An arm's stages with everything filled in but model, out and seed. do: the operation."""
    return [_stage(chosen, stage, scale) for stage in (stages if isinstance(stages, list) else [stages])]


def _stage(chosen: Demonstration, stage: Stage, scale: Scale) -> Stage:
    if stage.get("do", "cpt") != "cpt":
        return {k: _filled(v, scale.places) for k, v in stage.items()}
    held: Stage = {"seq_len": scale.seq_len, "batch_tokens": scale.batch_tokens, "save_every": 1 << 20}
    held |= chosen.common | stage
    share, times = held.pop("share", 1.0), held.pop("lr_times", 1.0)
    steps = round(scale.tokens * share / scale.batch_tokens)
    held |= {"do": "cpt", "tokens": steps * scale.batch_tokens, "lr": scale.lr * times}
    return {k: _filled(v, scale.places) for k, v in held.items()}


def _filled(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return value.format_map(places)
    return [_filled(v, places) for v in value] if isinstance(value, list) else value


def trained(stages: Sequence[Stage], model: str, seed: int, work: Path) -> str:
    """The model that the stages lead to."""
    from surgeon.operations import operation, perform

    work.mkdir()
    for number, stage in enumerate(stages):
        do, out = stage["do"], str(work / f"stage-{number}")
        given = {k: v for k, v in stage.items() if k != "do"} | {"out": out, "seed": seed}
        given["run" if do == "average" else "model"] = model
        perform(do, operation(do).settings_class()(**given))
        model = out
    return model


def measured(chosen: Demonstration, scale: Scale, model: str, base: Mapping[str, float] | None) -> dict[str, float]:
    """Bits per byte by measure; base: those before, for the change of general."""
    from surgeon.measure.settings import EvaluateSettings, run_evaluate

    at: dict[str, Any] = {"context": scale.seq_len, "tokens": scale.eval_tokens}
    if chosen.long:
        length, long = int(scale.places["length"]), int(scale.places["long"])
        at = {"context": long, "by_position": True, "positions": [length, long]} if base else {"context": length}
        at["tokens"] = scale.long_tokens
    data = [f"{k}={v.format_map(scale.places)}" for k, v in chosen.corpora.items()]
    result = run_evaluate(EvaluateSettings(models=[model], data=data, **at))
    corpora = {c["name"]: c for c in result["models"][0]["corpora"]}
    found = {name: c["bits_per_byte"] for name, c in corpora.items()}
    if len(found) > 2:
        found["mean"] = fmean(found.values())
    if base:
        found["forgetting"] = found["general"] - base["general"]
    if "by_position" in at:
        bits = corpora["domain"]["tokens_per_byte"] / math.log(2)  # of all of the text: positions hold no bytes
        for name, bucket in zip(("within", "beyond"), corpora["domain"]["by_position"]["buckets"], strict=True):
            found[name] = bucket["nats_per_token"] * bits
    return found


def graded(scale: Scale, seed: int, path: Path) -> Path:
    """Domain text in pieces, as much as an arm trains on; of a piece of `quality` 1 - x a share x of the words is put
    in place of others of it."""
    from surgeon.loading import load_tokenizer

    tokenizer, draw = load_tokenizer(Path(scale.model)), random.Random(seed)
    lines, tokens = [], 0
    with Path(scale.places["domain"]).open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
        draw.shuffle(texts)
        for piece in (text[at : at + 800] for text in texts for at in range(0, len(text), 800)):
            share, words = draw.random() * NOISE, piece.split()
            for place in draw.sample(range(len(words)), round(share * len(words))):
                words[place] = draw.choice(words)
            text = " ".join(words)
            lines.append(json.dumps({"text": text, "quality": 1 - share}) + "\n")
            tokens += len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
            if tokens >= scale.tokens:
                break
    path.write_text("".join(lines), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what is demonstrated: {', '.join(DEMONSTRATIONS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for the results, a JSON file each")
    parser.add_argument("--material", type=Path, help="a folder with models/base and corpora, in place of quickstart")
    parser.add_argument("--docs", action="store_true", help="write docs/demonstrations.md from benchmarks/results")
    options = parser.parse_args()
    if bool(options.names) is options.docs or options.seeds < 1:
        parser.error("give names and at least one seed, or --docs alone")
    if unknown := [name for name in options.names if name not in DEMONSTRATIONS]:
        parser.error(f"no demonstration is called {unknown[0]}; there are {', '.join(DEMONSTRATIONS)}")
    if options.docs:
        files = [file_of(n, s, RESULTS) for n in DEMONSTRATIONS for s in (quickstart(), of_material(Path("MATERIAL")))]
        DOCS.parent.mkdir(exist_ok=True)
        about = (__doc__ or "").split("\n\n", 2)[2].strip()
        DOCS.write_text(document([json.loads(p.read_text()) for p in files if p.exists()], about), encoding="utf-8")
        return
    import torch

    torch.set_num_threads(1)  # small matrices: more threads take longer
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_CACHE_HOME"] = str(Path(work) / "cache")
        scale, known = of_material(options.material) if options.material else quickstart(), Known()
        for name in options.names:
            result = demonstrate(name, scale, options.seeds, Path(work), known)
            print(printed(result), flush=True)
            if options.out:
                file_of(name, scale, options.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
