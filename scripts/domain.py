"""Does a model know which texts are unlike those it was trained on? `in_domain` on other languages, code and gibberish.

Requires liminal_hf with its extra benchmark, and the corpora (`LIMINAL_DATA_DIR`).

    python scripts/domain.py [CHECKPOINT]
    python scripts/domain.py --fit [CHECKPOINT]    first fits the gauge anew on EmoBank's and GoEmotions' training texts

The gauge has seen no language but the training texts' own: it is fitted against scrambled copies of them (see
`liminal_hf.training.domain`). Intervals are measured on EmoITA, the Italian translations of EmoBank's test sentences,
whose raters are others.
"""

import argparse
import csv
import email
import logging
import random
import string
import sys
from pathlib import Path
from typing import Any

import build_default_checkpoint
import numpy as np
from research import checkpoint as checkpoints
from research.emobank import load_emoita
from research.report import Array, add_folders, line, number, rounded, save
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import liminal_hf
from liminal_hf.data import load_emobank
from liminal_hf.data.goemotions import load_goemotions
from liminal_hf.export.checkpoint import open_checkpoint
from liminal_hf.inference import read
from liminal_hf.io import require_file
from liminal_hf.modeling.answers import interval
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.training.domain import drop_domain, fit_domain
from liminal_hf.training.run_folder import hardware

MOST = 300  # texts of each kind
LANGUAGES = {
    **{"amh": "Amharic", "arq": "Algerian Arabic", "chn": "Chinese", "deu": "German", "esp": "Spanish", "hau": "Hausa"},
    **{"ptbr": "Portuguese", "ron": "Romanian", "rus": "Russian", "ukr": "Ukrainian"},
}


def column(folder: str, name: str, header: str, delimiter: str = ",", **where: str) -> list[str]:
    """A column of a corpus, of the rows where other columns hold some value."""
    path = require_file(folder, name, None, folder)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter)
        return [row[header] for row in rows if all(row[key] == value for key, value in where.items())]


def inside() -> dict[str, list[str]]:
    """English prose, chat, reviews and posts, by kind."""
    return {
        "EmoBank, test": load_emobank()["test"]["text"][:],
        "film dialogue (MELD, test)": column("meld", "test_sent_emo.csv", "Utterance"),
        "Reddit comments (GoEmotions, test)": load_goemotions()["test"]["text"][:],
        "posts (BRIGHTER, English)": column("brighter", "intensity.csv", "text", lang="eng"),
        **{name: column("vader", f"{file}.csv", "text") for name, file in _HUTTO.items()},
    }


_HUTTO = {"tweets": "tweets", "product reviews": "amazon", "film reviews": "movie", "editorials": "nyt"}


def outside(seed: int = 1) -> dict[str, list[str]]:
    """Other languages, code and gibberish, by kind."""
    generator = random.Random(seed)
    words = [[generator.randint(2, 9) for _ in range(generator.randint(3, 12))] for _ in range(MOST)]
    gibberish = [
        "".join(generator.choice(string.ascii_lowercase) for _ in range(size)) for row in words for size in row
    ]
    rows = iter(gibberish)
    sources = sorted(Path(str(email.__file__)).parent.glob("*.py"))
    lines = [one.strip() for path in sources for one in path.read_text(encoding="utf-8").splitlines()]
    return {
        "Italian (EmoITA, test)": load_emoita()["test"]["text"][:],
        **{name: column("brighter", "intensity.csv", "text", lang=code) for code, name in LANGUAGES.items()},
        "code (Python's own library)": [one for one in lines if len(one) > 25 and one[0] not in "#\"'"],
        "gibberish": [" ".join(next(rows) for _ in row) for row in words],
    }


def answers(source: Any, texts: list[str]) -> dict[str, Array]:
    """What the model says of texts; those that it can't read at all are left out."""
    kept = [text for text in texts if text.strip()]
    answer = read(source.model, source.tokenizer, kept, outputs=("logits", "uncertainty", "in_domain"))
    return {name: values[~answer["unreadable"]].astype(np.float64) for name, values in answer.items()}


def measure(source: Any) -> dict[str, Any]:
    """The report: in_domain by kind, intervals on Italian, and what the gauge changes on EmoBank's test split."""
    draw = random.Random(0)
    config = source.model.config
    kinds = {True: inside(), False: outside()}
    said = {
        is_inside: {name: answers(source, draw.sample(texts, min(MOST, len(texts)))) for name, texts in rows.items()}
        for is_inside, rows in kinds.items()
    }
    everything = np.concatenate([answer["in_domain"] for answer in said[True].values()])
    table = {}
    for is_inside, rows in said.items():
        for name, answer in rows.items():
            score = answer["in_domain"]
            table[name] = {
                "inside": is_inside,
                "rows": len(score),
                "below half": float((score < 0.5).mean()),
                "uncertainty": [float(value) for value in answer["uncertainty"].mean(axis=0)],
            }
            if not is_inside:
                labels = np.r_[np.ones(len(everything)), np.zeros(len(score))]
                table[name]["auroc"] = float(roc_auc_score(labels, np.r_[everything, score]))
    italian = load_emoita()["test"]
    gold = np.asarray(italian["labels"][:], dtype=np.float64)
    with_gauge, rows = answers(source, italian["text"][:]), load_emobank()["test"]
    labels, here = np.asarray(rows["labels"][:], dtype=np.float64), answers(source, rows["text"][:])
    drop_domain(source.model)
    without, before = answers(source, italian["text"][:]), answers(source, rows["text"][:])
    report = {}
    for index, name in enumerate(DIMENSIONS):
        quantiles = config.residual_quantiles[index] if config.residual_quantiles else None

        def covered(answer: dict[str, Array], wanted: Array, index: int = index, quantiles: Any = quantiles) -> float:
            pairs = zip(answer["logits"][:, index], answer["uncertainty"][:, index], strict=True)
            ends = np.array([interval(mean, deviation, 0.9, quantiles) for mean, deviation in pairs])
            return float(np.mean((ends[:, 0] <= wanted[:, index]) & (wanted[:, index] <= ends[:, 1])))

        def ranking(answer: dict[str, Array], index: int = index) -> float:
            errors = np.abs(answer["logits"][:, index] - labels[:, index])
            return float(spearmanr(answer["uncertainty"][:, index], errors).statistic)

        report[name] = {
            "label spread": float(config.label_std[index]),
            "Italian, coverage": [covered(without, gold), covered(with_gauge, gold)],
            "Italian, uncertainty": [float(answer["uncertainty"][:, index].mean()) for answer in (without, with_gauge)],
            "Italian, spread of the labels": float(gold[:, index].std()),
            "EmoBank, coverage": [covered(before, labels), covered(here, labels)],
            "EmoBank, uncertainty": [float(answer["uncertainty"][:, index].mean()) for answer in (before, here)],
            "EmoBank, ranking": [ranking(before), ranking(here)],
        }
    return {"kinds": table, "intervals": report}


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["texts", "rows", "in_domain below .5", "AUROC", *(f"± {name}" for name in DIMENSIONS)]
    lines = [line(heads), line(["---"] * len(heads))]
    for name, kind in report["kinds"].items():
        area = number(kind["auroc"]) if "auroc" in kind else "(inside)"
        spreads = [number(value, 2) for value in kind["uncertainty"]]
        lines.append(line([name, str(kind["rows"]), f"{kind['below half']:.1%}", area, *spreads]))
    spread = [number(report["intervals"][name]["label spread"], 2) for name in DIMENSIONS]
    lines.append(line(["spread of the training labels", "", "", "", *spread]))
    heads = ["without the gauge, with it", *DIMENSIONS]
    lines += ["", line(heads), line(["---"] * len(heads))]
    titles = {
        "Italian, coverage": "EmoITA's test ids: coverage of 90% intervals",
        "Italian, uncertainty": "EmoITA's test ids: mean uncertainty",
        "EmoBank, coverage": "EmoBank's test split: coverage of 90% intervals",
        "EmoBank, uncertainty": "EmoBank's test split: mean uncertainty",
        "EmoBank, ranking": "EmoBank's test split: Spearman of uncertainty and error",
    }
    for key, title in titles.items():
        pairs = [report["intervals"][name][key] for name in DIMENSIONS]
        shown = [", ".join(f"{value:.1%}" if "coverage" in key else number(value) for value in pair) for pair in pairs]
        lines.append(line([title, *shown]))
    spreads = [number(report["intervals"][name]["Italian, spread of the labels"]) for name in DIMENSIONS]
    lines.append(line(["EmoITA's test ids: spread of the labels", *spreads]))
    lines += ["", f"`{report['command']}`; {report['machine']}; up to {MOST} texts of each kind."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure what a checkpoint knows of its domain.")
    checkpoints.add_checkpoint(parser)
    parser.add_argument("--fit", action="store_true", help="fit the gauge first, and write it into the checkpoint")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    folder = liminal_hf.DEFAULT_CHECKPOINT if given.checkpoint == checkpoints.DEFAULT else given.checkpoint
    source = open_checkpoint(folder)
    if given.fit:
        texts = [*load_emobank()["train"]["text"][:], *load_goemotions()["train"]["text"][:8000]]
        fit_domain(source.model, source.tokenizer, [text for text in texts if text.strip()])
        build_default_checkpoint.write(source, Path(folder))
    report = rounded(
        {
            "command": checkpoints.command("domain", given.checkpoint),
            "machine": hardware(),
            **measure(source),
        }
    )
    save(given.results, "domain", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
