"""Do uncertainties tell a good training run from a bad one, on texts without labels?

Requires liminal_hf with its extra benchmark, and the corpora (`LIMINAL_DATA_DIR`).

    python scripts/unlabelled_runs.py

Trains heads on the frozen MiniLM, from bad ones to as good as the recipe's: few texts or all, short or long training.
Each reads texts without labels, and `liminal_hf.expectation.expected_pearson` says what r its uncertainties promise.
The page compares that, run by run, with the r that labels give. An interrupted call goes on when it is given again.
"""

import argparse
import itertools
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from research.report import Array, add_folders, interval, line, number, rounded, save
from scipy.stats import spearmanr
from unlabelled import corpora

from liminal_hf.data import load_emobank, pooled_dataset
from liminal_hf.expectation import expected_pearson
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.encoders import load_tokenizer
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.training.fit import fit
from liminal_hf.training.recipe import Recipe
from liminal_hf.training.run_folder import hardware

RECIPE = Path(__file__).resolve().parents[1] / "hub_configs" / "minilm-emobank.yaml"
TEXTS = (200, 600, 2000, None)  # of the training split; None is all
EPOCHS = (2, 12, 40)
MOST = 500  # texts of a corpus
RESAMPLES = 2000
READ = ("EmoBank, test", "tweets", "product reviews", "film reviews", "editorials", "BRIGHTER, eng")


def trained(work: Path, smallest: bool) -> dict[str, LiminalForPADRegression]:
    """The runs, by name."""
    recipe = Recipe.from_yaml(RECIPE)
    encoder, revision = recipe.model["encoder"], recipe.model["revision"]
    options = {"pooled_layers": recipe.model["pooled_layers"], "pooling": recipe.model["pooling"]}
    reader = LiminalForPADRegression.from_encoder_pretrained(encoder, revision, head="linear", **options)
    splits = DatasetDict({name: part.select_columns(["text", "labels"]) for name, part in load_emobank().items()})
    pooled = pooled_dataset(reader, load_tokenizer(encoder), splits, max_length=recipe.data.max_length)
    runs: dict[str, LiminalForPADRegression] = {}
    grid = list(itertools.product(TEXTS, EPOCHS))
    for seed, (texts, epochs) in enumerate(grid[:2] if smallest else grid):
        train = pooled["train"].shuffle(seed=seed)
        train = train if texts is None else train.select(range(texts))
        name = f"{len(train):,} texts, {epochs} epochs"
        changed = {"phases.head.training.num_train_epochs": epochs}
        result = fit(recipe, work / f"run-{seed}", seed=seed, overrides=changed, data={**pooled, "train": train})
        runs[name] = result.model.eval()
        print(name, flush=True)
    return runs


def states_of(model: LiminalForPADRegression, texts: list[str]) -> torch.Tensor:
    """Pooled states of texts, `(texts, pooled size)`, from the cache."""
    name = str(model.config.encoder_name_or_path)
    rows = Dataset.from_dict({"text": texts})
    found = pooled_dataset(model, load_tokenizer(name), rows, max_length=model.config.max_seq_length)
    return torch.tensor(np.asarray(found.with_format("numpy")["pooled_embeds"][:]))


@torch.inference_mode()
def measure(runs: dict[str, LiminalForPADRegression]) -> list[dict[str, Any]]:
    """A row for each corpus, dimension and run: r, and the r that is expected without labels."""
    table, known = [], corpora()
    generator = np.random.default_rng(0)
    for corpus in READ:
        texts, labels = known[corpus]
        kept = np.array([index for index, text in enumerate(texts) if text and text.strip()])
        kept = np.sort(generator.permutation(kept)[:MOST])
        states = states_of(next(iter(runs.values())), [texts[index] for index in kept])
        for run, model in runs.items():
            output = model(pooled_embeds=states)
            predictions, spread = output.logits.double().numpy(), output.uncertainty.double().numpy()
            for index, dimension in enumerate(DIMENSIONS):
                gold = labels[kept, index]
                rows = np.isfinite(gold)
                if rows.sum() < 2:
                    continue
                expected = expected_pearson(predictions[rows][:, [index]], spread[rows][:, [index]])[0]
                found = np.corrcoef(predictions[rows, index], gold[rows])[0, 1]
                table.append(
                    {"corpus": corpus, "dimension": dimension, "run": run, "r": found, "expected": float(expected)}
                )
    return table


def over_runs(table: list[dict[str, Any]], corpus: str, dimension: str) -> dict[str, Any] | None:
    """How expected and found r go together over the runs, and what choosing the most promising run costs."""
    rows = [row for row in table if (row["corpus"], row["dimension"]) == (corpus, dimension)]
    if not rows:
        return None
    expected, found = (np.array([row[key] for row in rows]) for key in ("expected", "r"))
    generator, draws = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(rows), size=len(rows))
        if np.ptp(expected[drawn]) > 0 and np.ptp(found[drawn]) > 0:
            draws.append(spearmanr(expected[drawn], found[drawn]).statistic)
    low, high = np.quantile(draws, (0.025, 0.975)) if draws else (np.nan, np.nan)
    return {
        "spearman": {"mean": float(spearmanr(expected, found).statistic), "low": float(low), "high": float(high)},
        "found": [float(found.min()), float(found.max())],
        "expected": [float(expected.min()), float(expected.max())],
        "chosen": float(found[expected.argmax()]),
        "best run": rows[int(found.argmax())]["run"],
        "chosen run": rows[int(expected.argmax())]["run"],
    }


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["texts", "dimension", "Spearman over runs, 95%", "r found", "r expected", "r of the most promising run",
             "that run", "best run"]  # fmt: skip
    lines = [line(heads), line(["---"] * len(heads))]
    for key, found in report["over runs"].items():
        corpus, dimension = key.split(" / ")
        spans = [" to ".join(number(end) for end in found[name]) for name in ("found", "expected")]
        rank = interval(found["spearman"], 2, sign=False)
        last = [number(found["chosen"]), found["chosen run"], found["best run"]]
        lines.append(line([corpus, dimension, rank, *spans, *last]))
    lines += [
        "",
        f"Mean over the rows: Spearman {number(report['mean spearman'], 2)}; the run that promises most is "
        f"{number(report['mean regret'])} below the best one.",
        "",
        f"`{report['command']}`; {report['machine']}; {report['runs']} runs, a seed each; up to {MOST} texts of a "
        "corpus; intervals over resampled runs.",
    ]
    return "\n".join(lines) + "\n"


def summarize(table: list[dict[str, Any]]) -> dict[str, Any]:
    """The agreement over runs for each corpus and dimension, and its mean."""
    pairs = {f"{corpus} / {name}": over_runs(table, corpus, name) for corpus in READ for name in DIMENSIONS}
    known: dict[str, dict[str, Any]] = {key: value for key, value in pairs.items() if value is not None}
    regrets: Array = np.array([value["found"][1] - value["chosen"] for value in known.values()])
    return {
        "over runs": known,
        "mean spearman": float(np.mean([value["spearman"]["mean"] for value in known.values()])),
        "mean regret": float(regrets.mean()),
    }


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure whether uncertainties rank training runs without labels.")
    parser.add_argument("--smallest", action="store_true", help="two runs: does it still work?")
    add_folders(parser, "runs/unlabelled")
    given = parser.parse_args(arguments)
    runs = trained(given.work, given.smallest)
    table = measure(runs)
    command = "python scripts/unlabelled_runs.py"
    about = {"command": command, "machine": hardware(), "runs": len(runs)}
    report = rounded({**about, "rows": table, **summarize(table)})
    save(given.results, "unlabelled_runs", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
