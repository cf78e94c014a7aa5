"""Does a reward move a language model, and what does the model do for it? GRPO on SmolLM2-135M, on a CPU.

Requires liminal_hf with its extras rewards and benchmark, and SmolLM2-135M-Instruct: its Hub id, or the folder that
`python scripts/encoders.py smollm2 -o FOLDER` writes (4-bit weights).

    python scripts/grpo.py --model FOLDER

TRL's own GRPOTrainer trains LoRA adapters towards a pleasure of 0.6, twice: with the KL term, and without it and
without the guards of `PADReward`, which is the attempt to hack the reward. Before and after, the model
writes to prompts that it was not trained on. What it wrote is read by the reward, by two other readers that it was not
trained for (mpnet's checkpoint, VADER), and by the model as it was (perplexity). Each run saves its steps in `--work`;
an interrupted command goes on when it is given again.
"""

import argparse
import json
import logging
import math
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from research.report import Array, add_folders, line, number, rounded, save
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer

import liminal_hf
from liminal_hf import PADReward
from liminal_hf.io import atomic_write
from liminal_hf.scoring import Scorer
from liminal_hf.training.run_folder import hardware

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
GOAL = {"pleasure": 0.6}
OPEN = {"least_in_domain": 0.0, "widest": math.inf, "least_words": 1, "most_repeated": 1.0}
RUNS: dict[str, dict[str, Any]] = {
    "KL term (beta .04)": {"beta": 0.04},
    "no KL term, no guards": {"beta": 0.0, "guards": OPEN},
}
THINGS = (
    """
a kitchen table, a bus stop, a Monday morning, the weather, a small town, an old phone, a neighbour, a train ride,
the office, a supermarket, a dog, the sea, a school, a letter, a bridge, the winter, a library, a dinner, a garden,
a long road, a birthday, a meeting, a hospital, a river, the news, a shop, a holiday, a street at night,
a football match, a house for sale, a lost key, a waiting room
""".strip()
    .replace("\n", " ")
    .split(", ")
)
SYSTEM = {"role": "system", "content": "You write."}  # short: the template puts a longer one where there is none
HELD_OUT = 8  # of the things above; the model is not trained on them
TOKENS, SAMPLES = 30, 4


def prompts(things: list[str]) -> list[list[dict[str, str]]]:
    """A conversation for each thing."""
    return [[SYSTEM, {"role": "user", "content": f"Write a sentence about {thing}."}] for thing in things]


def train(name: str, model: str, folder: Path, steps: int) -> tuple[Path, list[dict[str, float]]]:
    """Trains one run, or finds it; returns the adapter's folder, and reward and KL of each step."""
    settings = RUNS[name]
    log = folder / "log.json"
    if not log.is_file():
        set_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(model)
        arguments = GRPOConfig(
            output_dir=str(folder / "checkpoints"),
            max_steps=steps,
            per_device_train_batch_size=8,
            num_generations=8,
            gradient_checkpointing=False,
            max_completion_length=TOKENS,
            learning_rate=5e-4,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=3,
            beta=settings["beta"],
            temperature=1.0,
            logging_steps=1,
            save_steps=10,
            save_total_limit=1,
            use_cpu=True,
            bf16=False,
            report_to=[],
            dataloader_pin_memory=False,
        )
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            reward_funcs=[PADReward(GOAL, **settings.get("guards", {}))],
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": prompts(THINGS[HELD_OUT:])}),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        trainer.train(
            resume_from_checkpoint=get_last_checkpoint(str(arguments.output_dir)) if folder.is_dir() else None
        )
        trainer.save_model(str(folder / "adapter"))
        kept = ("step", "reward", "kl", "completions/mean_length", "pad_reward/zero")
        entries = [
            {key: float(entry[key]) for key in kept if key in entry}
            for entry in trainer.state.log_history
            if "reward" in entry
        ]
        with atomic_write(log) as temporary:
            temporary.write_text(json.dumps(entries), encoding="utf-8")
    return folder / "adapter", json.loads(log.read_text(encoding="utf-8"))


@torch.no_grad()
def written(model: str, adapter: Path | None) -> tuple[list[str], Array, Array]:
    """What a model writes to the held-out prompts, and the log-likelihood of each text, by it and by the first model.

    Returns:
        Texts, `SAMPLES` for each prompt; nats per token by the one that wrote it, and by the model without adapters.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    writer: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    if adapter is not None:
        writer = PeftModel.from_pretrained(writer, str(adapter)).eval()
    set_seed(1)
    texts, own, first = [], [], []
    for prompt in prompts(THINGS[:HELD_OUT]):
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        start = ids["input_ids"].shape[1]
        settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        whole = writer.generate(
            **ids, max_new_tokens=TOKENS, num_return_sequences=SAMPLES, pad_token_id=tokenizer.pad_token_id, **settings
        )
        texts += tokenizer.batch_decode(whole[:, start:], skip_special_tokens=True)
        own.append(_likelihood(writer, whole, start, tokenizer.eos_token_id))
        if adapter is not None:
            with writer.disable_adapter():
                first.append(_likelihood(writer, whole, start, tokenizer.eos_token_id))
    mine = np.concatenate(own)
    return texts, mine, np.concatenate(first) if first else mine


def _likelihood(model: Any, whole: torch.Tensor, start: int, end: int) -> Array:
    """Nats per token of what stands behind the prompt, up to the token that ends it: `(rows,)`."""
    logits = model(whole).logits[:, start - 1 : -1].log_softmax(-1)
    ids = whole[:, start:]
    each = logits.gather(-1, ids[..., None])[..., 0]
    before = (ids == end).int().cumsum(1) - (ids == end).int()
    counted = (before == 0).double()
    found: Array = ((each.double() * counted).sum(1) / counted.sum(1)).numpy()
    return found


def read(texts: list[str], readers: dict[str, Any]) -> dict[str, Any]:
    """Means over the texts: the reward, each reader's pleasure, repetition; with 95% intervals over the prompts."""
    values = {"reward": np.array(PADReward(GOAL, readers["default"])(completions=texts))}
    strict = PADReward(GOAL, readers["default"], least_in_domain=0.9)(completions=texts)
    values["refused at .9"] = np.array([float(reward == 0) for reward in strict])
    for name, reader in readers.items():
        values[name] = np.array([np.nan if value is None else value for value in reader_values(reader, texts)])
    words = [text.lower().split() for text in texts]
    pairs = [list(pairwise(each)) for each in words]
    values["repeated"] = np.array([1 - len(set(each)) / len(each) if each else 0.0 for each in pairs])
    values["words"] = np.array([float(len(each)) for each in words])
    draws = np.random.default_rng(0).integers(0, HELD_OUT, (2000, HELD_OUT))
    found = {}
    for name, each in values.items():
        by_prompt = np.nanmean(each.reshape(HELD_OUT, SAMPLES), axis=1)
        low, high = np.nanpercentile(np.nanmean(by_prompt[draws], axis=1), (2.5, 97.5))
        found[name] = {"mean": float(np.nanmean(each)), "low": float(low), "high": float(high)}
    return found


def reader_values(reader: Any, texts: list[str]) -> list[float | None]:
    """Pleasure, -1..1, of each text."""
    if isinstance(reader, Scorer):
        return [row["pleasure"] for row in reader.rows(texts)]
    return [reader.polarity_scores(text)["compound"] for text in texts]


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["what writes", "reward [95%]", "pleasure: the reward's reader", "mpnet's", "VADER's"]
    heads += ["nats from the first model", "its perplexity", "words", "repeated pairs", "no reward at in_domain .9"]
    lines = [line(heads), line(["---"] * len(heads))]
    for name, entry in report["runs"].items():
        seen = entry["read"]
        reward = f"{number(seen['reward']['mean'], 2)} [{number(seen['reward']['low'], 2)}, "
        cells = [name, f"{reward}{number(seen['reward']['high'], 2)}]"]
        cells += [number(seen[reader]["mean"], 2, sign=True) for reader in ("default", "mpnet", "VADER")]
        cells += [number(entry["kl"], 2), f"{entry['perplexity']:.0f}", f"{seen['words']['mean']:.0f}"]
        cells += [f"{seen['repeated']['mean']:.0%}", f"{seen['refused at .9']['mean']:.0%}"]
        lines.append(line(cells))
    lines += ["", *_while_it_trained(report), "", "The same held-out prompts, the first sample of each:", ""]
    for name, entry in report["runs"].items():
        lines += [f"**{name}**", ""]
        lines += [f"- {' '.join(text.split())}" for text in entry["texts"][::SAMPLES][:4]] + [""]
    note = f"`{report['command']}`; {report['machine']}; {report['steps']} steps of 8 completions each, one seed; "
    note += f"{HELD_OUT} held-out prompts, {SAMPLES} samples each, intervals over the prompts."
    return "\n".join([*lines, note]) + "\n"


def _while_it_trained(report: dict[str, Any]) -> list[str]:
    """Reward and KL over the steps, in means of five."""
    runs = {name: entry["log"] for name, entry in report["runs"].items() if entry["log"]}
    starts = range(0, report["steps"], 5)
    lines = [line(["steps", *(f"{start + 1} to {start + 5}" for start in starts)]), line(["---"] * (1 + len(starts)))]
    for name, log in runs.items():
        for key, title in (("reward", "reward"), ("kl", "KL, nats a token")):
            if key in log[0]:
                means = [float(np.mean([entry[key] for entry in log[start : start + 5]])) for start in starts]
                lines.append(line([f"{name}: {title}", *(number(mean, 2) for mean in means)]))
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL, help="Hub id or folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="of each run (default: %(default)s)")
    add_folders(parser, "runs/grpo")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    readers = {"default": Scorer(liminal_hf.DEFAULT_CHECKPOINT), "mpnet": Scorer(liminal_hf.checkpoints["mpnet"])}
    readers |= {"VADER": SentimentIntensityAnalyzer()}
    command = "python scripts/grpo.py --model FOLDER"
    report: dict[str, Any] = {"command": command, "machine": hardware(), "steps": given.steps, "runs": {}}
    for name in (None, *RUNS):
        adapter: Path | None = None
        log: list[dict[str, float]] = []
        if name is not None:
            folder = given.work / "-".join("".join(c if c.isalnum() else " " for c in name).split())
            adapter, log = train(name, given.model, folder, given.steps)
        texts, own, first = written(given.model, adapter)
        report["runs"][name or "before"] = {
            "read": read(texts, readers),
            "kl": float((own - first).mean()),
            "perplexity": float(np.exp(-first.mean())),
            "texts": texts,
            "log": log,
        }
        save(given.results, "grpo", rounded(report), markdown(rounded(report)))
        print(markdown(rounded(report)), flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
