"""What cpt_cpu.py runs in processes of their own.

COMMON comes before each of them: a clock, and the data as surgeon reads them. WAYS: the scripts by part and way; LOOP
comes before those of the loop, DATASETS before those that read, HEAD behind those of the head. MADE writes what is
read and resumed.
"""

from __future__ import annotations

COMMON = """
import json, os, resource, sys, time
from pathlib import Path
import numpy as np, torch
from transformers.utils import logging
logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
given = json.loads(sys.argv[1])
work, model_path, texts = Path(given["work"]), given["model"], [Path(p) for p in given["texts"]]
S, R, LR = given["seq_len"], given["rows"], given["lr"]
marks = []
def mark():
    used = resource.getrusage(resource.RUSAGE_SELF)
    marks.append((time.perf_counter(), used.ru_utime + used.ru_stime))
def done(**more):
    (a, b), (c, d) = marks[0], marks[-1]
    found = {"cpu_s": d - b, "wall_s": c - a}
    if len(marks) > 2:  # a mark a step
        found["step_cpu_s"] = float(np.quantile(np.diff([used for _, used in marks]), 0.25))
    print(json.dumps(found | more))
from surgeon.data.mixture import Mixture
from surgeon.data.pack import Packed
from surgeon.data.source import Corpus
from surgeon.data.token_cache import read_tokens
from surgeon.loading import load_tokenizer
from surgeon.train.batch import collate
tokenizer, place = load_tokenizer(Path(model_path)), torch.device("cpu")
def packed(corpus=0):
    return Packed(read_tokens(Corpus(f"c{corpus}", texts[corpus]), tokenizer).tokens, S, 0, corpus, "split")
def mixture():
    return Mixture([packed()], [1.0], R)
"""


LOOP = """
steps, warm = given["steps"], given["warm"]
def rows():
    return [collate(mixture_.batch(step), place) for step in range(steps)]
def model_of():
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
def decays(model):
    named = list(model.named_parameters())
    split = [[p for _, p in named if (p.ndim >= 2) is wide] for wide in (True, False)]
    return [{"params": split[0], "weight_decay": 0.1}, {"params": split[1], "weight_decay": 0.0}]
def trainer(log_every):
    from transformers import Trainer, TrainerCallback, TrainingArguments
    class Marks(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step >= warm:
                mark()
    batches = rows()
    data = [{"input_ids": i, "position_ids": p, "labels": l, "shift_labels": l} for b in batches
            for i, p, l in zip(b.ids, b.positions, b.labels, strict=True)]
    arguments = TrainingArguments(
        str(work / "trainer"), per_device_train_batch_size=R, max_steps=steps, learning_rate=LR, warmup_steps=0,
        lr_scheduler_type="constant", optim="adamw_torch_fused", adam_beta1=0.9, adam_beta2=0.95, weight_decay=0.1,
        max_grad_norm=1.0, train_sampling_strategy="sequential", save_strategy="no", report_to="none",
        logging_steps=log_every, disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
        dataloader_pin_memory=False)
    made = Trainer(model_of(), arguments, train_dataset=data, callbacks=[Marks()])
    made.train()
    return made
def final(model):
    batch = rows()[-1]
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten()))
mixture_ = mixture()
"""


WAYS = {
    "loop": {
        "bare": """
model, batches = model_of(), rows()
optimizer = torch.optim.AdamW(decays(model), lr=LR, betas=(0.9, 0.95), fused=True)
model.train()
for step, b in enumerate(batches):
    if step >= warm:
        mark()
    logits = model(input_ids=b.ids, position_ids=b.positions, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), b.labels.flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loss.item()
done(loss=final(model))
""",
        "surgeon": """
from surgeon.train.job import prepare
from surgeon.train.loop import Loop
from surgeon.train.settings import CptSettings
class Marked(Loop):
    def _step(self, step, windows):
        if step > warm:
            mark()
        return super()._step(step, windows)
settings = CptSettings(model=model_path, out=str(work / "out"), data=[f"c0={texts[0]}"], tokens=steps * R * S,
    seq_len=S, batch_tokens=R * S, lr=LR, schedule="constant", save_every=10 * steps, device="cpu")
settings.run_dir.mkdir()
loop = Marked(prepare(settings))
loop.run(None)
done(loss=final(loop.job.model))
""",
        "Trainer": "made = trainer(500)\ndone(loss=final(made.model))\n",
        "Trainer, every step logged": "made = trainer(1)\ndone(loss=final(made.model))\n",
    },
    "prepare": {
        "surgeon": "mark()\nfound = packed()\nmark()\ndone(tokens=found.tokens.num_tokens)\n",
        "datasets": "mark()\nheld = grouped()\nmark()\ndone(tokens=len(held) * S)\n",
    },
    "read": {
        "surgeon": """
mixture_, steps = mixture(), given["steps"]
collate(mixture_.batch(0), place)
mark()
for step in range(1, steps + 1):
    collate(mixture_.batch(step), place)
mark()
done(tokens=steps * R * S)
""",
        "datasets": """
steps = given["steps"]
batches = iter(loader(prepared()))
next(batches)
mark()
for _ in range(steps):
    next(batches)
mark()
done(tokens=steps * R * S)
""",
    },
    "resume": {
        "surgeon": """
mark()
collate(mixture().batch(given["step"]), place)
mark()
done()
""",
        "surgeon, mixture": """
from surgeon.data.turns import Turns
Turns([0.7, 0.3]).counts(given["step"] * R)
mark()
collate(Mixture([packed(0), packed(1)], [0.7, 0.3], R).batch(given["step"]), place)
mark()
done()
""",
        "surgeon, mixture, another machine": """
import shutil
from surgeon.checkpoint.known_digests import cache_home
shutil.rmtree(cache_home() / "turns", ignore_errors=True)
mark()
collate(Mixture([packed(0), packed(1)], [0.7, 0.3], R).batch(given["step"]), place)
mark()
done()
""",
        "Trainer, mapped": """
mark()
next(iter(skip_first_batches(loader(prepared()), given["step"])))
mark()
done()
""",
        "Trainer, streaming": """
mark()
next(iter(skip_first_batches(loader(grouped(streaming=True)), given["step"])))
mark()
done()
""",
    },
    "head": {
        "surgeon": "from surgeon.train.linear_loss import linear_nats\nloss_of = linear_nats\n",
        "logits": """
def loss_of(hidden, weight, bias, labels):
    return F.cross_entropy(hidden @ weight.t(), labels, reduction="sum")
""",
        "F.linear_cross_entropy": """
def loss_of(hidden, weight, bias, labels):
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, labels, reduction="sum", options=options)
""",
    },
}


DATASETS = """
import datasets
from accelerate import skip_first_batches
from itertools import chain
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator
datasets.disable_progress_bars()
model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
def grouped(streaming=False):
    held = datasets.load_dataset("json", data_files=str(texts[0]), split="train", streaming=streaming,
                                 cache_dir=str(work / "hf"))
    def tokens(batch):
        return tokenizer([t + tokenizer.eos_token for t in batch["text"]], return_attention_mask=False)
    def group_texts(batch):  # as in examples/pytorch/language-modeling/run_clm.py
        joined = {k: list(chain(*batch[k])) for k in batch}
        total = len(joined["input_ids"]) // S * S
        found = {k: [t[i : i + S] for i in range(0, total, S)] for k, t in joined.items()}
        found["labels"] = found["input_ids"].copy()
        return found
    names = ["text"] if streaming else held.column_names
    return held.map(tokens, batched=True, remove_columns=names).map(group_texts, batched=True)
def prepared():
    return datasets.load_from_disk(str(work / "prepared"))
def loader(data):
    arguments = TrainingArguments(str(work / "trainer"), per_device_train_batch_size=R, max_steps=1 << 20,
        report_to="none", use_cpu=True, dataloader_pin_memory=False)
    return Trainer(model, arguments, train_dataset=data, data_collator=default_data_collator).get_train_dataloader()
"""


MADE = "packed()\npacked(1)\nheld = grouped()\nheld.save_to_disk(str(work / 'prepared'))\nprint(len(held))\n"


HEAD = """
import torch.nn.functional as F
T, H, V = given["head"]
torch.manual_seed(0)
hidden, weight = torch.randn(T, H, requires_grad=True), (torch.randn(V, H) * 0.02).requires_grad_()
labels = torch.randint(0, V, (T,))
def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what + ":"))
loss_of(hidden[:8], weight, None, labels[:8]).backward()  # gradients are there, libraries are loaded
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
mark()
for _ in range(given["times"]):
    hidden.grad.zero_(), weight.grad.zero_()
    loss = loss_of(hidden, weight, None, labels)
    loss.backward()
mark()
done(bytes=memory("VmHWM") - before, loss=float(loss), gradient=float(weight.grad.norm()))
"""
