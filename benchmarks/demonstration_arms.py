"""What is demonstrated: for each paper the arms that are trained, and the direction that is expected of them.

Everything is plain data. An arm is the stages that lead from the base to the model that is measured; a stage holds
settings of `cpt`, or of the operation that its key `do` names. In texts {general}, {domain}, {third} stand for
corpora, {general_valid}, {domain_valid}, {third_valid} for held-out texts, {graded} for domain text with graded noise,
{length} and {long} for the length the model was trained at and twice that. `lr_times` and `share` scale the rate and
the tokens of the scale in use; every arm must train on the same number of tokens.

The direction is written down before a run, as claims that a measure of one arm is below that of another, plus a
margin where one is given. Strengths and rates are ours. Changed after a first run on the model of the quickstart, once
each: the strengths of EWC (100 times lower: with the first ones the domain stayed at 3.67 and 3.76 bits), averaging
(texts drawn anew for each seed, because the ascending order left no range, and one claim more, that the order itself
matters), and the rows of value-targets (256 in place of 128, where questions had no answers and the designer refused
them). The settings of the 8M model were written down before its runs; nothing was changed after.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Stage = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """`measure` of the arm `below` is less than that of the arm `above` plus `margin`, in bits per byte."""

    measure: str
    below: str
    above: str
    margin: float = 0.0

    def __str__(self) -> str:
        more = f" + {self.margin:g}" if self.margin else ""
        return f"{self.measure}: {self.below} < {self.above}{more}"


@dataclass(frozen=True)
class Demonstration:
    """common: settings of every cpt stage. corpora: held-out texts by measure. long: measured on windows of {long},
    with the loss within and beyond {length} of the domain's text as two further measures."""

    source: str
    about: str
    arms: dict[str, Stage | list[Stage]]
    claims: tuple[Claim, ...]
    common: Stage = field(default_factory=dict)
    corpora: dict[str, str] = field(
        default_factory=lambda: {"general": "{general_valid}", "domain": "{domain_valid}"},
    )
    long: bool = False


COSINE = {"schedule": "rewarm_cosine:warmup=0.05,min_ratio=0.1"}
DOMAIN = COSINE | {"data": ["domain={domain}"]}
REPTILE = {"meta": ["reptile:every=16,eps=0.5"]}
AVERAGE = {"do": "average", "last": 6}
KEPT = {"save_every": 3, "keep_checkpoints": 6}
CONSTANT = {"schedule": "constant:warmup=0.05"}
COSINE_TO_0 = {"schedule": "rewarm_cosine:warmup=0.05,min_ratio=0"}
MODERATE = {"schedule": "moderate_decay:warmup=0.05,decay=0.5"}
ASCENDING = {"order": "ascending:quality"}
DESIGNER, MOVES = "layers=2,width=128,every=2", "rate=1e-3"  # the paper's: every 8 of thousands of steps, at 1e-4


def replay(ratio: float) -> Stage:
    return {"replay": ["general={general}"], "replay_ratio": ratio}


def three(*schedules: str) -> list[Stage]:
    """General text, the domain and a third text after one another."""
    texts = ("general", "domain", "third")
    return [
        {"data": [f"{text}={{{text}}}"], "schedule": schedule, "share": 1 / 3}
        for text, schedule in zip(texts, schedules, strict=True)
    ]


def deeper(**select: Any) -> list[Stage]:
    """Two new blocks that start as the identity, and are trained alone."""
    return [{"do": "expand-layers", "add": 2, "fill": "zero"} | select, {"train": "new-blocks", "lr_times": 3}]


def by_importance(order: str) -> Stage:
    options = {"order": order, "tokens": 10_000, "context": 128, "resamples": 100}
    return {"select": "importance", "probe": "{general}", "option": options}


def reached(**context: Any) -> list[Stage]:
    return [
        {"do": "extend-context", "max_length": "{long}"} | context,
        {"seq_len": "{long}", "batch_tokens": "{long}", "packing": "concat"},
    ]


DEMONSTRATIONS: dict[str, Demonstration] = {
    "replay": Demonstration(
        "Ibrahim et al. 2024 (2403.08763); Abbes et al. 2025 (2508.01908)",
        "More replay forgets less, 5 % of it costs the domain next to nothing, and Reptile forgets less again.",
        {
            "plain": {},
            "replay 5 %": replay(0.05),
            "replay 25 %": replay(0.25),
            "Reptile": REPTILE,
            "5 % + Reptile": replay(0.05) | REPTILE,
            "25 % + Reptile": replay(0.25) | REPTILE,
        },
        (
            Claim("forgetting", "replay 5 %", "plain"),
            Claim("forgetting", "replay 25 %", "replay 5 %"),
            Claim("domain", "replay 5 %", "plain", 0.03),
            Claim("forgetting", "Reptile", "plain"),
            Claim("forgetting", "25 % + Reptile", "replay 25 %"),
        ),
        common=DOMAIN,
    ),
    "rewarm": Demonstration(
        "Gupta et al. 2023 (2308.04014)",
        "A higher peak learns more and forgets more; how long the warm-up is matters little.",
        {
            "peak / 2": {"lr_times": 0.5},
            "peak": {},
            "peak x 2": {"lr_times": 2.0},
            "peak, no warm-up": {"schedule": "rewarm_cosine:warmup=0,min_ratio=0.1"},
        },
        (
            Claim("domain", "peak", "peak / 2"),
            Claim("domain", "peak x 2", "peak"),
            Claim("forgetting", "peak / 2", "peak"),
            Claim("forgetting", "peak", "peak x 2"),
            Claim("domain", "peak, no warm-up", "peak", 0.03),
            Claim("domain", "peak", "peak, no warm-up", 0.03),
        ),
        common=DOMAIN,
    ),
    "infinite": Demonstration(
        "Singh et al. 2025 (2503.02844)",
        "Over three texts one schedule without re-warming ends with less loss on all of them than a cosine for each.",
        {
            "three cosines": three(*[COSINE["schedule"]] * 3),
            "infinite": three(
                "infinite:warmup=0.05,cooldown=0.4,anneal=0,const_ratio=0.55",
                "infinite:warmup=0,cooldown=0,anneal=0,const_ratio=0.55",
                "infinite:warmup=0,cooldown=0,anneal=0.3,const_ratio=0.55,min_ratio=0.1",
            ),
        },
        (Claim("mean", "infinite", "three cosines"), Claim("forgetting", "infinite", "three cosines")),
        corpora={"general": "{general_valid}", "domain": "{domain_valid}", "third": "{third_valid}"},
    ),
    "logit-swap": Demonstration(
        "Jiang et al. 2024 (2407.10804)",
        "Logit swap forgets less than plain training, and learns the domain better than unswapped KL.",
        {
            "plain": {},
            "KL 0.3": {"objective": "distill:weight=0.3,temperature=1"},
            "swap 0.3": {"objective": "logit_swap:weight=0.3"},
            "KL 1": {"objective": "distill:weight=1,temperature=1"},
            "swap 1": {"objective": "logit_swap:weight=1"},
        },
        (Claim("forgetting", "swap 0.3", "plain"), Claim("domain", "swap 0.3", "KL 0.3")),
        common=DOMAIN,
    ),
    "osf": Demonstration(
        "Nayak et al. 2025 (2504.07097)",
        "The more singular directions are kept, the less is forgotten, and the less is learned.",
        {
            "AdamW": {},
            "keep 25 %": {"optimizer": "osf:keep_ratio=0.25"},
            "keep 50 %": {"optimizer": "osf:keep_ratio=0.5"},
            "keep 75 %": {"optimizer": "osf:keep_ratio=0.75"},
        },
        (
            Claim("forgetting", "keep 25 %", "AdamW"),
            Claim("forgetting", "keep 50 %", "keep 25 %"),
            Claim("forgetting", "keep 75 %", "keep 50 %"),
            Claim("domain", "AdamW", "keep 25 %"),
            Claim("domain", "keep 25 %", "keep 50 %"),
            Claim("domain", "keep 50 %", "keep 75 %"),
        ),
        common=DOMAIN,
    ),
    "ewc-l2": Demonstration(
        "Kirkpatrick et al. 2017 (1612.00796); Xuhong et al. 2018 (1802.01483)",
        "A pull to the start forgets less than plain training, as a term of the loss and behind the step.",
        {
            "plain": {},
            "L2-SP": {"regularize": ["l2_to_base:strength=0.1"]},
            "EWC": {"regularize": ["ewc:probe=general={general},tokens=10000,strength=30"]},
            "proximal L2": {"meta": ["proximal_l2:strength=10"]},
            "proximal EWC": {"meta": ["proximal_ewc:probe=general={general},tokens=10000,strength=3000"]},
        },
        tuple(Claim("forgetting", arm, "plain") for arm in ("L2-SP", "EWC", "proximal L2", "proximal EWC")),
        common=DOMAIN,
    ),
    "averaging": Demonstration(
        "Luo et al. 2025 (2511.18903)",
        "Text in ascending quality at a constant rate, averaged, is better than a full decay in either order.",
        {
            "shuffled, decay to 0": COSINE_TO_0,
            "ascending, decay to 0": COSINE_TO_0 | ASCENDING,
            "shuffled, constant": CONSTANT,
            "ascending, constant": CONSTANT | ASCENDING,
            "shuffled, constant, average": [CONSTANT | KEPT, AVERAGE],
            "ascending, constant, average": [CONSTANT | ASCENDING | KEPT, AVERAGE],
            "ascending, to a third, average": [MODERATE | ASCENDING | KEPT, AVERAGE],
        },
        (
            Claim("domain", "ascending, constant, average", "shuffled, decay to 0"),
            Claim("domain", "ascending, constant, average", "ascending, decay to 0"),
            Claim("domain", "ascending, constant, average", "ascending, constant"),
            Claim("domain", "ascending, constant, average", "shuffled, constant, average"),
            Claim("domain", "ascending, to a third, average", "shuffled, decay to 0"),
        ),
        common={"data": ["graded={graded}"]},
    ),
    "adept": Demonstration(
        "Zhang et al. 2025 (2510.10071)",
        "Copies of the blocks that general text misses least forget less than copies of others, and learn more.",
        {
            "least": deeper(**by_importance("least")),
            "uniform": deeper(select="uniform"),
            "most": deeper(**by_importance("most")),
        },
        (
            Claim("forgetting", "least", "uniform"),
            Claim("forgetting", "least", "most"),
            Claim("domain", "least", "uniform"),
            Claim("domain", "least", "most"),
        ),
        common=DOMAIN,
    ),
    "kl-reference": Demonstration(
        "Zheng et al. 2023 (2303.06628); MoL (2505.12043)",
        "KL to the start on a tenth of reference text forgets less than plain training, on unrelated text too.",
        {
            "plain": {},
            "KL on general": replay(0.1) | {"objective": "kl_reference:learn_replay=false"},
            "KL on a third text": {"replay": ["third={third}"], "replay_ratio": 0.1}
            | {"objective": "kl_reference:learn_replay=false"},
            "replay 10 %": replay(0.1),
        },
        (Claim("forgetting", "KL on general", "plain"), Claim("forgetting", "KL on a third text", "plain")),
        common=DOMAIN,
    ),
    "rope": Demonstration(
        "Xiong et al. 2023 (2309.16039)",
        "Behind the length it was trained at, a model with a raised rotary base has less loss after equal training.",
        {
            "base as it is": reached(),
            "base 500,000": reached(rope_base=500_000),
            "positions divided": reached(rope_scaling="linear:2"),
        },
        (Claim("beyond", "base 500,000", "base as it is"),),
        common=DOMAIN,
        long=True,
    ),
    "value-targets": Demonstration(
        "V-Pretraining 2026 (2601.22108)",
        "Targets designed to serve another text lower its loss more than plain training and all controls do.",
        {
            "plain": {},
            "uniform smoothing": {"objective": "designed_targets:control=uniform"},
            "random feedback": {"objective": f"designed_targets:control=random,{DESIGNER},{MOVES}"},
            "designer at rest": {"objective": f"designed_targets:feedback={{third}},{DESIGNER},rate=0"},
            "designed": {"objective": f"designed_targets:feedback={{third}},{DESIGNER},{MOVES}"},
        },
        tuple(
            Claim("third", "designed", arm)
            for arm in ("plain", "uniform smoothing", "random feedback", "designer at rest")
        ),
        common=DOMAIN | {"seq_len": 256},  # rows of 128 hold questions of the quickstart without their answers
        corpora={"general": "{general_valid}", "domain": "{domain_valid}", "third": "{third_valid}"},
    ),
}
