"""The items of `benchmark_speed.py`: what is measured, on the real thing or on a tiny model.

Requires liminal_hf with the extras `offline` and `onnx`, and `ray` for the item `scaling`.
"""

import os
import random
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from liminal_hf import DEFAULT_CHECKPOINT, LiminalConfig, LiminalForPADRegression
from liminal_hf.data import load_emobank
from liminal_hf.metrics import pearson
from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.scoring import Scorer, score_table
from liminal_hf.scoring.scorer import load
from liminal_hf.scoring.shards import ScoreSettings, make_plan, open_files, read_shard
from research.timing import ROOT, Line, again, aim, ratio, run_python, spread, take_turns

RECIPE = ROOT / "hub_configs" / "minilm-emobank.yaml"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
ONE_CORE = "many texts, Scorer {}, one core"
TWO_WORKERS = "Ray, int8: 2 workers against 1"
READING = "reading and writing alone, one core"
BYTES = "a text, on average"

FIT = """
import sys, tempfile, time
from liminal_hf.training.fit import fit
from liminal_hf.training.recipe import Recipe
recipe = Recipe.from_yaml(sys.argv[1])
if sys.argv[2:]:
    recipe.phases[0].training["num_train_epochs"] = int(sys.argv[2])
clock, cpu = time.perf_counter(), time.process_time()
fit(recipe, tempfile.mkdtemp())
print("\\nseconds", time.perf_counter() - clock, time.process_time() - cpu)
"""
IMPORTS = """
import time
start = time.process_time()
from transformers import AutoModel
middle = time.process_time()
import liminal_hf
print(middle - start, time.process_time() - middle)
"""
PEAK = """
import resource, sys, time
from liminal_hf.scoring import score_table
start = time.process_time()
score_table(*sys.argv[1:], threads=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.process_time() - start)
"""
WORDS = [f"w{number}" for number in range(5, 200)]


@dataclass
class Setting:
    """What the items work on."""

    quick: bool
    checkpoint: str
    encoder: str
    texts: list[str]
    labels: np.ndarray
    rounds: int
    memory_rows: int
    folder: Path
    backends: tuple[str, ...]
    scorers: dict[str, Scorer] = field(default_factory=dict)

    def scorer(self, backend: str) -> Scorer:
        """The scorer of a back end, on one thread; made once."""
        if backend not in self.scorers:
            self.scorers[backend] = Scorer(self.checkpoint, backend, threads=1)
        return self.scorers[backend]


def tiny_models(folder: Path) -> tuple[str, str]:
    """A checkpoint on an encoder of one layer of width 32, and the plain classifier on such an encoder."""
    config = BertConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, num_labels=3,
    )  # fmt: skip
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1} | {word: int(word[1:]) for word in WORDS}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    torch.manual_seed(0)
    model = LiminalForPADRegression(LiminalConfig(text_config=config, latent_size=16, max_seq_length=64))
    folders = str(folder / "checkpoint"), str(folder / "plain")
    model.save_pretrained(folders[0])
    BertForSequenceClassification(config).save_pretrained(folders[1])
    for place in folders:
        fast.save_pretrained(place)
    return folders


def make_setting(quick: bool, rounds: int, memory_rows: int, folder: Path) -> Setting:
    """The real thing, or the tiny one."""
    if quick:
        checkpoint, encoder = tiny_models(folder / "tiny")
        generator = random.Random(0)
        texts = [" ".join(generator.choices(WORDS, k=generator.randrange(2, 40))) for _ in range(48)]
        labels = np.random.default_rng(0).uniform(-1, 1, (48, 3))
        return Setting(True, checkpoint, encoder, texts, labels, rounds, min(memory_rows, 2000), folder, ("torch",))
    rows = load_emobank()["test"]
    labels = np.asarray(rows["labels"][:], dtype=np.float64)
    return Setting(
        False, DEFAULT_CHECKPOINT, resolve_encoder(MINILM)[0], list(rows["text"]), labels, rounds, memory_rows, folder,
        ("torch", "onnx", "int8"),
    )  # fmt: skip


def _pipelines(setting: Setting) -> tuple[Any, Any]:
    """The plain pipeline, with a linear head on the same encoder, and ours."""
    plain = pipeline(
        "text-classification",
        model=AutoModelForSequenceClassification.from_pretrained(setting.encoder, num_labels=3).eval(),
        tokenizer=AutoTokenizer.from_pretrained(setting.encoder),
        top_k=None, function_to_apply="none", device="cpu", truncation=True, max_length=128,
    )  # fmt: skip
    model, tokenizer = load(setting.checkpoint)
    return plain, pipeline("pad-regression", model=model, tokenizer=tokenizer, device="cpu")


def _against_plain(what: str, found: dict[str, list[float]], target: float) -> list[Line]:
    names = {name: f"Scorer {name}" for name in found} | {"ours": "the pad-regression pipeline"}
    lines = [
        ratio(f"{what}: {names[name]}, times faster", found["plain"], found[name]) for name in found if name != "plain"
    ]
    aim(max(lines, key=lambda line: line.value), at_least=target)
    return lines


def latency(setting: Setting) -> list[Line]:
    """(a) One text at a time, against the plain torch pipeline."""
    plain, ours = _pipelines(setting)
    texts = setting.texts[: 4 if setting.quick else 24]

    def one_by_one(read: Callable[[Any], Any], wrap: bool) -> None:
        for text in texts:
            read([text] if wrap else text)

    systems = {"plain": again(1, one_by_one, plain, False), "ours": again(1, one_by_one, ours, False)}
    systems |= {name: again(1, one_by_one, setting.scorer(name).score, True) for name in setting.backends}
    found = take_turns(systems, setting.rounds)
    each = spread("one text, plain torch pipeline", [1e3 * value / len(texts) for value in found["plain"]], "ms")
    return [each, *_against_plain("one text", found, target=2)]


def throughput(setting: Setting) -> list[Line]:
    """(a) Many texts, against the plain torch pipeline at batch 32."""
    plain, ours = _pipelines(setting)
    texts = setting.texts[: 32 if setting.quick else 256]
    systems = {
        "plain": again(1, plain, texts, batch_size=32),
        "ours": again(1, ours, texts, batch_size=32),
        **{name: again(1, setting.scorer(name).score, texts) for name in setting.backends},
    }
    found = take_turns(systems, setting.rounds)
    speed = {name: [len(texts) / value for value in values] for name, values in found.items()}
    return [
        spread("many texts, plain torch pipeline at batch 32", speed["plain"], "texts/s"),
        *_against_plain("many texts", found, target=2.5),
        *(spread(ONE_CORE.format(name), speed[name], "texts/s") for name in setting.backends),
    ]


@torch.inference_mode()
def head(setting: Setting) -> list[Line]:
    """(b) The head's share of a forward pass."""
    model, tokenizer = load(setting.checkpoint)
    lines = []
    for size in (1, 32):
        tokens = tokenizer(setting.texts[:size], padding=True, truncation=True, max_length=128, return_tensors="pt")
        pooled = model.liminal.pool(**tokens)
        repeats = 1 if setting.quick else 96 // size
        systems = {"head": again(repeats, model, pooled_embeds=pooled), "whole": again(repeats, model, **tokens)}
        found = take_turns(systems, setting.rounds)
        what = f"the head's share of a torch forward pass, batch {size}, K = {model.config.num_outer_steps}"
        lines.append(ratio(what, found["head"], found["whole"], "%"))
    aim(lines[1], below=5)
    return lines


def train(setting: Setting) -> list[Line]:
    """(c) An epoch of the head on cached states, against encoding the texts again, as the original does."""
    texts = setting.texts[: 16 if setting.quick else 128]
    ours, tokenizer = load(setting.checkpoint)
    config = ours.config.to_dict() | {"head": "v6", "num_inner_steps": None, "memory_slots": None}
    theirs = LiminalForPADRegression(LiminalConfig(**config), encoder=ours.liminal.encoder)
    labels = torch.from_numpy(setting.labels[: len(texts)]).float()

    @torch.inference_mode()
    def encode(size: int) -> torch.Tensor:
        states = []
        for start in range(0, len(texts), size):
            some = texts[start : start + size]
            tokens = tokenizer(some, padding=True, truncation=True, max_length=128, return_tensors="pt")
            states.append(ours.liminal.pool(**tokens))
        return torch.cat(states).clone()

    def epoch(model: LiminalForPADRegression, states: torch.Tensor) -> None:
        optimizer = torch.optim.AdamW(model.liminal.head.parameters(), lr=1e-3)
        model.train()
        for start in range(0, len(texts), 128):
            rows = slice(start, start + 128)
            model(pooled_embeds=states[rows].clone(), labels=labels[rows]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()

    cached = encode(32)
    found = take_turns(
        {
            "cached": lambda: epoch(ours, cached),
            "encoded": lambda: epoch(ours, encode(32)),
            "original": lambda: epoch(theirs, encode(1)),
        },
        max(3, setting.rounds // 2),
    )
    what = "an epoch that encodes {} takes, against one from the cache"
    return [
        ratio(what.format("every text again"), found["encoded"], found["cached"]),
        ratio(what.format("them one by one and trains v6, as the original,"), found["original"], found["cached"]),
    ]


def fit_time(setting: Setting) -> list[Line]:
    """(c) The default recipe from a filled cache, by the clock."""
    recipe = RECIPE
    if setting.quick:
        content = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        rows = pa.table({"text": setting.texts, **{name: [0.1] * len(setting.texts) for name in "VAD"}})
        pq.write_table(rows, setting.folder / "rows.parquet")
        content["model"] |= {"encoder": setting.encoder, "revision": None, "latent_size": 16}
        content["data"] = {"files": {"train": str(setting.folder / "rows.parquet")}, "scale": [-1, 1], "max_length": 32}
        content["phases"][0]["training"]["num_train_epochs"] = 1
        recipe = setting.folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    run_python(FIT, recipe, 1, OMP_NUM_THREADS="2")  # fills the cache, if need be
    printed, _ = run_python(FIT, recipe, OMP_NUM_THREADS="2")
    clock, cpu = map(float, printed.rsplit("seconds", 1)[1].split())
    return [
        aim(Line("training the default recipe from a filled cache, 2 cores, by the clock", clock, "s"), below=45),
        Line("the same, processor time", cpu, "s"),
    ]


@torch.no_grad()
def backends(setting: Setting) -> list[Line]:
    """(d) The same batches on every back end, and what each makes of EmoBank's test texts."""
    model, tokenizer = load(setting.checkpoint)
    lines = []
    compiled = None if setting.quick else torch.compile(model, fullgraph=True, dynamic=True)
    try:
        if compiled is not None:
            compiled(**tokenizer(setting.texts[:2], padding=True, return_tensors="pt"))
    except RuntimeError as error:
        print(f"torch.compile does not work here: {error}", file=sys.stderr)
        compiled = None
    for size in (1, 32):
        tokens = tokenizer(setting.texts[:size], padding=True, truncation=True, max_length=128, return_tensors="np")
        arrays = {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        repeats = 1 if setting.quick else 96 // size
        systems = {name: again(repeats, setting.scorer(name)._run, arrays) for name in setting.backends}
        if compiled is not None:
            tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
            systems["compiled"] = again(repeats, compiled, **tensors)
        found = take_turns(systems, setting.rounds)
        for name in [name for name in systems if name != "torch"]:
            lines.append(ratio(f"batch {size}: {name}, times faster than torch", found["torch"], found[name]))
    texts, gold = setting.texts, setting.labels
    r = {}
    for name in setting.backends:
        table = setting.scorer(name).score(texts)
        found_pad = np.stack([table[column].to_numpy() for column in table.column_names[:3]], axis=1)
        r[name] = float(np.nanmean(pearson(found_pad, gold)))
        lines.append(Line(f"mean r on EmoBank's test split, {name}", r[name], "r"))
    if "int8" in r:
        lines.append(aim(Line("what 8 bits lose in mean r", r["torch"] - r["int8"], "r"), below=0.005))
    return lines


@torch.inference_mode()
def growth(setting: Setting) -> list[Line]:
    """(e) How time grows with the rows, with the length, with K and with n."""
    model, _ = load(setting.checkpoint)
    scorer, texts = setting.scorer("torch"), setting.texts
    rows = 8 if setting.quick else 64
    few, many = texts[:rows], (texts * 4)[: 4 * rows]
    found = take_turns({"few": again(1, scorer.score, few), "many": again(1, scorer.score, many)}, setting.rounds)
    lines = [ratio("4 times the rows take", found["many"], found["few"])]
    limit = min(128, model.config.text_config.max_position_embeddings)
    ids = torch.randint(5, model.config.vocab_size, (8, limit), generator=torch.Generator().manual_seed(0))
    mask, short = torch.ones_like(ids), limit // 4
    systems = {
        "short": again(1, model, input_ids=ids[:, :short], attention_mask=mask[:, :short]),
        "long": again(1, model, input_ids=ids, attention_mask=mask),
    }
    found = take_turns(systems, setting.rounds)
    lines.append(ratio(f"4 times the length ({short} to {limit} tokens) takes", found["long"], found["short"]))
    pooled = torch.randn(32, model.liminal.pooled_size)
    steps = {"K = 1": (1, 1), "K = 5": (5, 1), "K = 10": (10, 1), "K = 5, n = 4": (5, 4)}
    systems = {
        name: again(4, model, pooled_embeds=pooled, num_outer_steps=k, num_inner_steps=n)
        for name, (k, n) in steps.items()
    }
    found = take_turns(systems, setting.rounds)
    for name in ("K = 1", "K = 10", "K = 5, n = 4"):
        lines.append(ratio(f"the head at {name} takes, against K = 5 and n = 1", found[name], found["K = 5"]))
    return lines


def memory(setting: Setting) -> list[Line]:
    """(e) The peak memory of `score` on a tiny encoder, few rows against many."""
    tiny, _ = tiny_models(setting.folder / "tiny-memory")
    sizes = (min(10_000, setting.memory_rows // 4), setting.memory_rows)
    peaks, seconds = [], 0.0
    generator = random.Random(0)
    for rows in sizes:
        path = setting.folder / f"{rows}.parquet"
        schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
        with pq.ParquetWriter(path, schema) as writer:
            for start in range(0, rows, 50_000):
                numbers = range(start, min(start + 50_000, rows))
                texts = [" ".join(generator.choices(WORDS, k=12)) for _ in numbers]
                writer.write_table(pa.table({"id": list(numbers), "text": texts}, schema=schema))
        printed, _ = run_python(PEAK, path, setting.folder / f"{rows}-out.parquet", tiny, OMP_NUM_THREADS="1")
        peak, seconds = map(float, printed.split())
        peaks.append(peak)
    what = f"peak memory of `score` on {sizes[1]:,} rows, above that on {sizes[0]:,}"
    return [
        aim(Line(what, peaks[1] - peaks[0], "MB"), below=300),
        Line("`score` with a tiny encoder on those, all in all", sizes[1] / seconds, "rows/s"),
    ]


def imports(setting: Setting) -> list[Line]:
    """(f) What importing costs."""
    theirs, ours, command = [], [], []
    for _ in range(1 if setting.quick else 5):
        first, second = map(float, run_python(IMPORTS)[0].split())
        theirs.append(first)
        ours.append(second)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_python("from liminal_hf.cli import main; main(['--version'])")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        command.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return [
        spread("from transformers import AutoModel", theirs, "s"),
        aim(spread("import liminal_hf after it", ours, "s"), below=0.3),
        spread("liminal --version, the whole process", command, "s"),
    ]


def gpu(setting: Setting) -> list[Line]:
    """(g) Many texts on a GPU, by the clock; nothing where there is none."""
    if not torch.cuda.is_available():
        return []
    plain, _ = _pipelines(setting)
    plain.model.to("cuda")
    plain.device = torch.device("cuda")
    scorer, texts = Scorer(setting.checkpoint), setting.texts * 20
    speed = {}
    for name, run in (("plain", lambda: plain(texts, batch_size=32)), ("scorer", lambda: scorer.score(texts))):
        run()
        start = time.perf_counter()
        run()
        speed[name] = len(texts) / (time.perf_counter() - start)
    return [
        Line(f"many texts, {torch.cuda.get_device_name()}, Scorer torch", speed["scorer"], "texts/s"),
        Line("the same, times faster than the plain pipeline at batch 32", speed["scorer"] / speed["plain"], "x"),
    ]


def scaling(setting: Setting) -> list[Line]:
    """For the estimate: Ray with one worker and with two, by the clock, and what reading and writing cost."""
    texts = setting.texts if setting.quick else (setting.texts * 2)[:2000]
    path = setting.folder / "scaling.parquet"
    pq.write_table(pa.table({"text": texts}), path)
    shard_rows = max(1, len(texts) // 20)
    backend, speed = setting.backends[-1], {}
    os.environ["PYTHONPATH"] = str(ROOT)
    for workers in (1, 2):
        told: list[tuple[float, int]] = []

        def tell(done: int, total: int, told: list[tuple[float, int]] = told) -> None:
            told.append((time.perf_counter(), done))

        output = f"{setting.folder}/scaling-{workers}/"
        score_table(
            path, output, setting.checkpoint, backend=backend, shard_rows=shard_rows, engine="ray", workers=workers,
            threads=1, progress=tell,
        )  # fmt: skip
        # From the first shards on: starting Ray and loading the model happen once, however many rows follow.
        (start, before), (end, done) = told[workers - 1], told[-1]
        speed[workers] = (done - before) / max(end - start, 1e-9)
    start = time.process_time()
    plan = make_plan(open_files([path], ScoreSettings()), ScoreSettings(), setting.folder)
    for number in range(len(plan.shards)):
        kept = read_shard(plan, setting.folder, number).kept
        pq.write_table(kept, setting.folder / f"copy-{number}.parquet", compression="zstd")
    copied = len(texts) / (time.process_time() - start)
    size = sum(len(text.encode()) for text in setting.texts) / len(setting.texts)
    return [
        Line(TWO_WORKERS.replace("int8", backend), speed[2] / speed[1], "x"),
        Line(READING, copied, "rows/s"),
        Line(BYTES, size, "bytes"),
    ]


ITEMS: dict[str, Callable[[Setting], list[Line]]] = {
    "latency": latency, "throughput": throughput, "head": head, "train": train, "fit": fit_time, "backends": backends,
    "growth": growth, "memory": memory, "imports": imports, "gpu": gpu, "scaling": scaling,
}  # fmt: skip
# What needs processes of its own is left out of a quick run, unless it is named.
QUICK_ITEMS = ("latency", "throughput", "head", "train", "backends", "growth", "gpu")
