"""What cpt_gpu.py runs in processes of their own.

MAKE writes a random model and texts whose words are tokens: folder, configuration, tokens, longest document. FLOPS
gives those of a token by what is trained: model, parts, length of rows. TRAINER is transformers' Trainer on the same
tokens. WITHOUT is surgeon as if a package were not installed: its name, then the words.
"""

from __future__ import annotations

MAKE = """
import itertools, json, string, sys, numpy as np, torch
from pathlib import Path
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
root, config, tokens, longest = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
kind, vocab = config.pop("model_type"), config["vocab_size"]
torch.manual_seed(0)
config = AutoConfig.for_model(kind, **config, bos_token_id=None, eos_token_id=0, pad_token_id=None)
with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
model.save_pretrained(root / "model")
# words of four letters behind a space, one token each: (a, B), (space, aB), (space aB, cD) are merged
pairs = list(itertools.product(string.ascii_lowercase, string.ascii_uppercase))
merges = pairs + [("\u0120", a + b) for a, b in pairs]
first = 1 + len(ByteLevel.alphabet()) + len(merges)
fours = itertools.islice(itertools.product(pairs, pairs), vocab - first)
words = [("\u0120" + a + b, c + d) for (a, b), (c, d) in fours]
merges += words
pieces = ["<|endoftext|>", *sorted(ByteLevel.alphabet()), *(a + b for a, b in merges)]
made = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, merges))
made.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>").save_pretrained(root / "model")
texts = [" " + a[1:] + b for a, b in words]
loaded = AutoTokenizer.from_pretrained(root / "model")  # of the model's own class, which may read it otherwise
rng, stream = np.random.default_rng(0), []
with (root / "text.jsonl").open("w") as file:
    while sum(map(len, stream)) < tokens:
        length = int(np.clip(rng.lognormal(np.log(min(600, longest / 4)), 1.0), min(32, longest / 4), longest))
        ids = rng.integers(first, vocab, length)
        text = "".join(texts[i - first] for i in ids)
        assert stream or loaded(text, add_special_tokens=False)["input_ids"] == ids.tolist()
        file.write(json.dumps({"text": text}) + "\\n")
        stream += [ids, [0]]
np.save(root / "ids.npy", np.concatenate(stream))
"""

FLOPS = """
import json, sys
from pathlib import Path
from surgeon.loading import load_skeleton
from surgeon.train.flops import flops_per_token
from surgeon.train.trainable import select
model = load_skeleton(Path(sys.argv[1]))
model.tie_weights()
parts = json.loads(sys.argv[2])
print(json.dumps({part: flops_per_token(model, select(model, part, None), int(sys.argv[3])) for part in parts}))
"""

TRAINER = """
import json, os, sys, time
from pathlib import Path
import numpy as np, torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, default_data_collator
given = json.loads(sys.argv[1])
S, rows, micro, steps, warm, cuda = (given[k] for k in ("seq_len", "rows", "micro", "steps", "warm", "cuda"))
if given["compile"] == "regional":  # read by accelerate
    os.environ["ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION"] = "1"
stream = np.load(given["ids"])
held = torch.from_numpy(stream[: steps * rows * S].reshape(-1, S))
marks = []
class Marks(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step in (warm, steps):
            if cuda:
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
arguments = TrainingArguments(
    given["out"], per_device_train_batch_size=micro, gradient_accumulation_steps=rows // micro, max_steps=steps,
    learning_rate=1e-4, optim="adamw_torch_fused", adam_beta2=0.95, weight_decay=0.1, max_grad_norm=1.0, bf16=cuda,
    save_strategy="no", report_to="none", use_cpu=not cuda, disable_tqdm=True, torch_compile=bool(given["compile"]),
    use_liger_kernel=given["liger"], liger_kernel_config=given.get("liger_parts"))
model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32, attn_implementation="sdpa")
data = [{"input_ids": row, "labels": row} for row in held]
Trainer(model, arguments, train_dataset=data, data_collator=default_data_collator, callbacks=[Marks()]).train()
memory = torch.cuda.max_memory_allocated() if cuda else 0
found = {"tokens_per_s": (steps - warm) * rows * S / (marks[1] - marks[0]), "memory_bytes": memory}
print(json.dumps(found))
"""

WITHOUT = """
import runpy, sys
sys.modules[sys.argv.pop(1)] = None
runpy.run_module("surgeon", run_name="__main__", alter_sys=True)
"""
