"""One model for many languages: multilingual-e5-small on EmoBank, EmoITA and BRIGHTER, measured language by language.

Requires liminal_hf with its extra benchmark, the encoder (a folder, `python scripts/encoders.py multilingual-e5-small
-o FOLDER`, or its Hub id), EmoBank, EmoITA and BRIGHTER (`LIMINAL_DATA_DIR`).

    python scripts/multilingual.py --encoder FOLDER
    python scripts/multilingual.py --encoder intfloat/multilingual-e5-small    the Hub's own weights

Trained on EmoBank's training split (English), EmoITA's training ids (Italian) and up to 1,000 training texts of each
language of BRIGHTER. BRIGHTER has no valence: joy minus the strongest of anger, disgust, fear and sadness stands for
it, brought to the spread of EmoBank's labels; arousal and dominance are missing there. Choices were made on the
development splits. The head's checkpoint is left in `--work`.

"Never seen" is a ridge on the same states, fitted without the language; Romanian has no training texts.
"""

import argparse
import csv
import logging
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray
from research.emobank import load_emoita
from research.report import Array, add_folders, interval, line, number, rounded, save
from transformers import AutoTokenizer

from liminal_hf.data import load_emobank, pooled_dataset
from liminal_hf.io import require_file
from liminal_hf.metrics import bootstrap_intervals, ccc, pearson
from liminal_hf.modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL
from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.training.fit import fit
from liminal_hf.training.recipe import Recipe
from liminal_hf.training.run_folder import hardware

RECIPE = Path(__file__).parents[1] / "hub_configs" / "multilingual-e5-small-emobank.yaml"
LANGUAGES = {
    **{"amh": "Amharic", "arq": "Algerian Arabic", "chn": "Chinese", "deu": "German", "eng": "English"},
    **{"esp": "Spanish", "hau": "Hausa", "ptbr": "Portuguese", "ron": "Romanian", "rus": "Russian"},
    "ukr": "Ukrainian",
}
MOST = {"train": 1000, "validation": 200, "test": 500}  # texts of a language of BRIGHTER
ALPHAS = (1e2, 1e3, 1e4, 1e5)
SPLITS = {"train": "train", "dev": "validation", "test": "test"}
BAD = ("anger", "disgust", "fear", "sadness")


def brighter(spread: float) -> dict[str, dict[str, Dataset]]:
    """BRIGHTER by split and language, with labels like EmoBank's: a stand-in for valence, the others missing."""
    found: dict[str, dict[str, list[tuple[str, float]]]] = {split: {} for split in SPLITS.values()}
    path = require_file("brighter", "intensity.csv", None, "emotion-analysis-project/SemEval2025-Task11")
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            bad = [float(row[name]) for name in BAD if row[name] not in ("", "nan")]
            if row["joy"] not in ("", "nan") and bad and row["text"].strip():
                rows = found[SPLITS[row["split"]]].setdefault(row["lang"], [])
                rows.append((row["text"], float(row["joy"]) - max(bad)))
    draw = random.Random(0)
    for split, languages in found.items():
        for name, rows in languages.items():
            languages[name] = draw.sample(rows, min(MOST[split], len(rows)))
    scale = spread / np.std([value for rows in found["train"].values() for _, value in rows])
    return {
        split: {
            name: dataset(
                [text for text, _ in rows], [[scale * value, MISSING_LABEL, MISSING_LABEL] for _, value in rows]
            )
            for name, rows in sorted(languages.items())
        }
        for split, languages in found.items()
    }


def dataset(texts: Sequence[str], labels: Any) -> Dataset:
    """Texts and labels in -1..1."""
    return Dataset.from_dict({"text": list(texts), "labels": np.asarray(labels, dtype=np.float32).tolist()})


def corpora() -> dict[str, dict[str, Dataset]]:
    """All texts by split and language: "EmoBank", "EmoITA", and the languages of BRIGHTER by their codes."""
    english, italian = load_emobank(), load_emoita()
    spread = float(np.asarray(english["train"]["labels"][:])[:, 0].std())
    found: dict[str, dict[str, Dataset]] = {}
    for split, languages in brighter(spread).items():
        own = {"EmoBank": english[split], "EmoITA": italian[split]}
        found[split] = {name: dataset(rows["text"][:], rows["labels"][:]) for name, rows in own.items()} | languages
    return found


class States:
    """The encoder's states of all texts, one block of rows per split and language."""

    def __init__(self, texts: dict[str, dict[str, Dataset]], recipe: Recipe) -> None:
        source, revision = resolve_encoder(recipe.model["encoder"], recipe.model.get("revision"))
        options = {name: value for name, value in recipe.model.items() if name not in ("encoder", "revision")}
        model = LiminalForPADRegression.from_encoder_pretrained(source, revision=revision, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        parts = [(split, name, rows) for split, languages in texts.items() for name, rows in languages.items()]
        everything = concatenate_datasets([rows for _, _, rows in parts])
        pooled = pooled_dataset(model, tokenizer, everything, max_length=recipe.data.max_length)
        self.rows: dict[tuple[str, str], Dataset] = {}
        start = 0
        for split, name, rows in parts:
            self.rows[split, name] = pooled.select(range(start, start + len(rows)))
            start += len(rows)

    def together(self, split: str) -> Dataset:
        """All languages of a split."""
        return concatenate_datasets([rows for (of, _), rows in self.rows.items() if of == split])

    def arrays(self, split: str, name: str) -> tuple[NDArray[np.float32], Array]:
        """States `(rows, width)` and labels `(rows, 3)`, NaN where there is none."""
        rows = self.rows[split, name]
        labels = np.asarray(rows["labels"][:], dtype=np.float64)
        return np.asarray(rows["pooled_embeds"][:], np.float32), np.where(labels == MISSING_LABEL, np.nan, labels)


class Ridge:
    """Ridge regression from sums per language, so that leaving a language out costs one solution."""

    def __init__(self, states: States, names: Sequence[str]) -> None:
        self.sums: dict[str, list[tuple[Array, Array]]] = {}
        for name in names:
            x, y = states.arrays("train", name)
            known = np.isfinite(y)
            shared: dict[bytes, Array] = {}
            self.sums[name] = []
            for index in range(len(DIMENSIONS)):
                rows = known[:, index]
                inputs = np.c_[x[rows], np.ones(rows.sum(), np.float32)]
                key = rows.tobytes()
                if key not in shared:
                    shared[key] = (inputs.T @ inputs).astype(np.float64)
                self.sums[name].append((shared[key], (inputs.T @ y[rows, index].astype(np.float32)).astype(np.float64)))

    def weights(self, names: Sequence[str], alpha: float, index: int) -> Array:
        """The solution for a dimension on some languages."""
        gram = np.sum([self.sums[name][index][0] for name in names], axis=0)
        gram[np.arange(len(gram) - 1), np.arange(len(gram) - 1)] += alpha  # the last one is the intercept
        return np.asarray(np.linalg.solve(gram, np.sum([self.sums[name][index][1] for name in names], axis=0)))


def predict(weights: Array, x: NDArray[np.float32]) -> Array:
    """A ridge's predictions."""
    return x @ weights[:-1] + weights[-1]


def figures(predictions: Array, labels: Array) -> dict[str, Any]:
    """r of each dimension that has labels, with 95% of bootstrap resamples for pleasure, and CCC of all three."""
    kept = np.isfinite(labels).all(axis=0)
    found: dict[str, Any] = {"r": pearson(predictions[:, kept], labels[:, kept]).tolist(), "rows": len(labels)}
    low, high = bootstrap_intervals(predictions[:, :1], labels[:, :1], targets=["pleasure"])["pearson_pleasure"]
    found["pleasure"] = {"mean": found["r"][0], "low": float(low), "high": float(high)}
    if kept.all():
        found["ccc"] = ccc(predictions, labels).tolist()
    return found


def measure(states: States, model: LiminalForPADRegression, names: Sequence[str]) -> dict[str, Any]:
    """For each language, the head and the ridges: English alone, all but the language, all."""
    trained = [name for name in names if ("train", name) in states.rows]
    ridge = Ridge(states, trained)
    scores = {}
    for alpha in ALPHAS:
        weights = ridge.weights(trained, alpha, 0)
        found = []
        for name in names:
            x, y = states.arrays("validation", name)
            found.append(np.corrcoef(predict(weights, x), y[:, 0])[0, 1])
        scores[alpha] = float(np.mean(found))
    alpha = max(scores, key=lambda one: scores[one])
    report: dict[str, Any] = {"alpha": alpha, "languages": {}}
    english, everything = ridge.weights(["EmoBank"], alpha, 0), ridge.weights(trained, alpha, 0)
    for name in names:
        row: dict[str, Any] = {"trained": len(states.rows["train", name]) if name in trained else 0}
        for split in ("validation", "test"):
            x, y = states.arrays(split, name)
            with torch.inference_mode():
                said = model(pooled_embeds=torch.from_numpy(x)).logits.double().numpy()
            without = ridge.weights([other for other in trained if other != name], alpha, 0)
            row[split] = figures(said, y)
            for title, weights in (("english", english), ("never seen", without), ("all", everything)):
                row[split][title] = float(np.corrcoef(predict(weights, x), y[:, 0])[0, 1])
        report["languages"][name] = row
    return report


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["language", "texts in training", "test", "r of pleasure, 95%", "dev"]
    heads += ["ridge, all", "ridge, never seen", "ridge, English alone"]
    lines = [line(heads), line(["---"] * len(heads))]
    titles = {"EmoBank": "English (EmoBank)", "EmoITA": "Italian (EmoITA)"}
    for name, row in report["languages"].items():
        test, dev = row["test"], row["validation"]
        title = titles.get(name) or f"{LANGUAGES[name]} (BRIGHTER)"
        others = [number(test[key]) for key in ("all", "never seen", "english")]
        cells = [title, f"{row['trained']:,}", str(test["rows"]), interval(test["pleasure"], sign=False)]
        lines.append(line([*cells, number(dev["pleasure"]["mean"]), *others]))
    heads = ["test", "r V / A / D", "mean r", "CCC V / A / D", "mean CCC", "dev mean r"]
    lines += ["", line(heads), line(["---"] * len(heads))]
    for name, title in titles.items():
        row = report["languages"][name]
        r, agreement = row["test"]["r"], row["test"]["ccc"]
        cells = [" / ".join(map(number, r)), number(float(np.mean(r)))]
        cells += [" / ".join(map(number, agreement)), number(float(np.mean(agreement)))]
        lines.append(line([title, *cells, number(float(np.mean(row["validation"]["r"])))]))
    lines += ["", f"`{report['command']}`; {report['machine']}; seed {report['seed']}; {report['encoder']}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="folder or Hub id of multilingual-e5-small")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    add_folders(parser, "runs/multilingual")
    given = parser.parse_args(arguments)
    is_folder = Path(given.encoder).is_dir()
    encoder = str(Path(given.encoder).resolve()) if is_folder else given.encoder
    recipe = Recipe.from_yaml(RECIPE).override({"model.encoder": encoder})
    states = States(corpora(), recipe)
    names = list(dict.fromkeys(name for _, name in states.rows))
    data = {"train": states.together("train").shuffle(seed=0), "validation": states.together("validation")}
    model = fit(recipe, given.work / f"seed-{given.seed}", seed=given.seed, data=data).model.eval()
    report = {
        "command": "python scripts/multilingual.py --encoder " + ("FOLDER" if is_folder else given.encoder),
        "machine": hardware(),
        "seed": given.seed,
        "encoder": "multilingual-e5-small, " + ("a 4-bit copy of its weights" if is_folder else "the Hub's weights"),
        **measure(states, model, names),
    }
    report = rounded(report)
    save(given.results, "multilingual", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
