"""What the authors' public files say of the optimizer is in the recipes: our own defaults are others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from surgeon.train.settings import CptSettings

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TORCHS = [0.9, 0.999]


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        # lamm-mit/LLM-finetuning, config_full_CPT-Base.yaml and config_full_SFT-Base.yaml, on the Trainer's defaults
        ("buehler-slerp", {"weight-decay": 0, "betas": TORCHS, "clip": 1.0, "lr": "2e-5"}),
        # orthogonal-subspace-learning, notebooks/finetune_svd.py: torch's AdamW with a rate alone
        ("osf", {"weight-decay": 0.01, "betas": TORCHS, "lr": "1e-5"}),
        # fomo_in_flux, configs/config.yaml and its AdamW
        ("sequential-merge", {"weight-decay": 0.2, "betas": TORCHS, "clip": 1.0}),
        # chandar-lab/continual-pretraining, configs/1B_reptile.yml
        ("mer", {"weight-decay": 0.1, "betas": [0.9, 0.95], "clip": 1.0}),
    ],
)
def test_every_training_has_them(recipe: str, told: dict[str, Any]) -> None:
    stages = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8"))["stages"]
    trainings = [stage["with"] for stage in stages.values() if stage["run"] == "cpt"]
    assert len(trainings) >= 2
    for settings in trainings:
        assert {key: settings[key] for key in told} == told


def test_our_defaults_are_others() -> None:
    defaults = {name: field.default for name, field in CptSettings.model_fields.items()}
    assert (defaults["weight_decay"], defaults["betas"]) == (0.1, (0.9, 0.95))
