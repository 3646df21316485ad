"""A task of lm-eval on this machine: endings of little stories to choose from."""

from __future__ import annotations

import json
from pathlib import Path

QUESTIONS = [
    {"text": "Once upon a", "choices": ["time", "car", "blue"], "answer": 0},
    {"text": "The little girl was very", "choices": ["happy", "the"], "answer": 0},
    {"text": "He went to the", "choices": ["and", "park"], "answer": 1},
    {"text": "One day, a boy named Tim", "choices": ["was", "of", "."], "answer": 1},  # not all are to be right
    {"text": "She was so sad that she", "choices": ["tree", "cried"], "answer": 1},
]
TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
fewshot_split: test
output_type: multiple_choice
num_fewshot: {shots}
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def write_task(folder: Path, name: str = "story_end", shots: str = "null") -> Path:
    """The folder for --task-folder, which is made, with one more task in it."""
    folder.mkdir(exist_ok=True)
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, path=path, shots=shots))
    return folder
