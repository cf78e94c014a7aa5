"""How good is a model on texts without labels? What its uncertainties promise, beside what labels say.

Requires liminal_hf with its extra benchmark, and the corpora (`LIMINAL_DATA_DIR`).

    python scripts/unlabelled.py [CHECKPOINT ...]

Where E[label | text] is the prediction and the uncertainty is right, r is the root of Var(prediction) /
(Var(prediction) + mean square of the uncertainty): `liminal_hf.expectation.expected_pearson`. The page compares it with
the r that labels give. How far it is off on the corpora that may be trained on, whose raters are EmoBank's or others,
gives the interval of `liminal evaluate --unlabelled`; EmoBank's test split, WASSA-2023 and the diaries of
SemEval-2026 check it. BRIGHTER has no valence: joy minus the strongest of anger, disgust, fear and sadness stands
for it.
"""

import argparse
import csv
import logging
import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from research import checkpoint as checkpoints
from research.emobank import load_emoita
from research.report import Array, add_folders, line, number, rounded, save
from scipy.stats import spearmanr

import liminal_hf
from liminal_hf.data import load_emobank
from liminal_hf.expectation import expected_pearson
from liminal_hf.export.checkpoint import open_checkpoint
from liminal_hf.inference import read
from liminal_hf.io import require_file
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.training.run_folder import hardware

MOST = 500  # texts of a corpus
FEWEST = 100
RESAMPLES = 1000
ENDS = (0.1, 0.9)
HUTTO = {"tweets": "tweets", "product reviews": "amazon", "film reviews": "movie", "editorials": "nyt"}
CHECKS = ("EmoBank, test", "dialogue (WASSA)", "diaries (SemEval-2026)")
Corpus = tuple[list[str], Array]


def rows_of(folder: str, name: str) -> list[dict[str, str]]:
    """The rows of a corpus."""
    with require_file(folder, name, None, folder).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def labelled(rows: Sequence[dict[str, str]], *columns: str) -> Corpus:
    """Texts, and labels `(rows, 3)` from one or two columns for pleasure and arousal; NaN where there is none."""
    labels = np.full((len(rows), len(DIMENSIONS)), np.nan)
    for index, column in enumerate(columns):
        labels[:, index] = [float(row[column] or "nan") for row in rows]
    return [row["text"] for row in rows], labels


def brighter() -> dict[str, Corpus]:
    """BRIGHTER by language."""
    names = ("anger", "disgust", "fear", "sadness")
    by_language: dict[str, list[dict[str, str]]] = {}
    for row in rows_of("brighter", "intensity.csv"):
        bad = [float(row[name]) for name in names if row[name] not in ("", "nan")]
        if row["joy"] not in ("", "nan") and bad:
            row["valence"] = str(float(row["joy"]) - max(bad))
            by_language.setdefault(row["lang"], []).append(row)
    return {f"BRIGHTER, {name}": labelled(rows, "valence") for name, rows in sorted(by_language.items())}


def corpora() -> dict[str, Corpus]:
    """All corpora at hand that have labels, by name."""
    found: dict[str, Corpus] = {}
    splits = load_emobank(extras=True)
    for name, title in (("validation", "EmoBank, development"), ("test", "EmoBank, test")):
        found[title] = splits[name]["text"][:], np.asarray(splits[name]["labels"][:], dtype=np.float64)
    rows = splits["validation"].to_pandas()
    for genre, part in rows.groupby("genre"):
        if len(part) >= FEWEST:
            found[f"EmoBank, development, {genre}"] = list(part.text), np.stack(part.labels).astype(np.float64)
    italian = load_emoita()["test"]
    found["Italian (EmoITA, test ids)"] = italian["text"][:], np.asarray(italian["labels"][:], dtype=np.float64)
    found |= {title: labelled(rows_of("vader", f"{name}.csv"), "valence") for title, name in HUTTO.items()}
    found |= brighter()
    found["dialogue (WASSA)"] = labelled(rows_of("wassa23", "turns.csv"), "valence", "intensity")
    found["diaries (SemEval-2026)"] = labelled(rows_of("diary", "entries.csv"), "valence", "arousal")
    return found


def measure(checkpoint: str) -> list[dict[str, Any]]:
    """A row per corpus and dimension that has labels: r, what is expected of it, and what the uncertainty is worth."""
    source = open_checkpoint(liminal_hf.DEFAULT_CHECKPOINT if checkpoint == checkpoints.DEFAULT else checkpoint)
    draw, table = random.Random(0), []
    for name, (texts, labels) in corpora().items():
        kept = [index for index, text in enumerate(texts) if text and text.strip()]
        kept = draw.sample(kept, min(MOST, len(kept)))
        wanted = ("logits", "uncertainty", "in_domain")
        answer = read(source.model, source.tokenizer, [texts[index] for index in kept], outputs=wanted)
        inside = float(answer["in_domain"][~answer["unreadable"]].mean())
        for index, dimension in enumerate(DIMENSIONS):
            gold = labels[kept, index]
            rows = np.isfinite(gold) & ~answer["unreadable"]
            if rows.sum() < FEWEST:
                continue
            predictions, spread = answer["logits"][rows][:, [index]], answer["uncertainty"][rows][:, [index]]
            errors = np.abs(predictions[:, 0] - gold[rows])
            table.append(
                {
                    "checkpoint": checkpoint,
                    "corpus": name,
                    "dimension": dimension,
                    "rows": int(rows.sum()),
                    "in_domain": inside,
                    "r": float(np.corrcoef(predictions[:, 0], gold[rows])[0, 1]),
                    "expected": float(expected_pearson(predictions, spread)[0]),
                    "faith_plus": float(spearmanr(spread[:, 0], errors).statistic),
                }
            )
        print(f"{checkpoint}: {name}", file=sys.stderr)
    return table


def independent(corpus: str) -> str:
    """What is drawn as one: the parts of EmoBank share sentences and raters."""
    return "EmoBank" if corpus.startswith("EmoBank") else corpus


def agreement(table: list[dict[str, Any]]) -> dict[str, Any]:
    """Pearson's and Spearman's correlation of expected and found r, with 95% over resampled corpora."""
    names = sorted({independent(row["corpus"]) for row in table})
    found = [(row["expected"], row["r"]) for row in table]
    generator, draws = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        chosen = generator.choice(names, len(names))
        drawn = [(row["expected"], row["r"]) for name in chosen for row in table if independent(row["corpus"]) == name]
        draws.append(np.corrcoef(np.array(drawn).T)[0, 1])
    low, high = np.nanquantile(draws, (0.025, 0.975))
    pairs = np.array(found).T
    return {
        "pearson": {"mean": float(np.corrcoef(pairs)[0, 1]), "low": float(low), "high": float(high)},
        "spearman": float(spearmanr(*pairs).statistic),
        "rows": len(found),
        "corpora": len(names),
    }


def differences(table: list[dict[str, Any]], inside: bool) -> list[float]:
    """The low end, the middle and the high end of found minus expected r, of texts inside the domain or outside."""
    kept = [row["r"] - row["expected"] for row in table if (row["in_domain"] >= 0.5) == inside]
    return [float(value) for value in np.quantile(kept, (ENDS[0], 0.5, ENDS[1]))]


def held(row: dict[str, Any], ends: list[float]) -> bool:
    """Whether r lies in the interval that such differences give, with the chance of a sample of this size."""
    chance = 1.28 * (1 - row["expected"] ** 2) / np.sqrt(row["rows"])
    return bool(ends[0] - chance <= row["r"] - row["expected"] <= ends[2] + chance)


def summarize(table: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows say: the agreement, the differences that become the interval, and how often it holds."""
    fitted = [row for row in table if row["corpus"] not in CHECKS]
    ends = {inside: differences(fitted, inside) for inside in (True, False)}
    others = []
    for row in fitted:  # each corpus against the interval of the others
        rest = [other for other in fitted if other["corpus"].split(",")[0] != row["corpus"].split(",")[0]]
        others.append(held(row, differences(rest, row["in_domain"] >= 0.5)))
    checks = [held(row, ends[row["in_domain"] >= 0.5]) for row in table if row["corpus"] in CHECKS]
    return {
        "agreement": {
            "all": agreement(table),
            "texts like the training texts": agreement([row for row in table if row["in_domain"] >= 0.5]),
        },
        "difference": {"inside": ends[True], "outside": ends[False]},
        "held": {"left out": [sum(others), len(others)], "checks": [sum(checks), len(checks)]},
    }


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["model", "texts", "rows", "in_domain", "r expected / found: V", "A", "D", "Spearman V / A / D"]
    lines = [line(heads), line(["---"] * len(heads))]
    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in report["rows"]:
        groups.setdefault((row["checkpoint"], row["corpus"]), {})[row["dimension"]] = row
    for (checkpoint, corpus), found in groups.items():
        first = next(iter(found.values()))
        pairs = [
            f"{number(found[name]['expected'])} / {number(found[name]['r'])}" if name in found else ""
            for name in DIMENSIONS
        ]
        ranks = " / ".join(number(found[name]["faith_plus"], 2) if name in found else "-" for name in DIMENSIONS)
        model = "default" if checkpoint == checkpoints.DEFAULT else checkpoint
        lines.append(line([model, corpus, str(first["rows"]), number(first["in_domain"], 2), *pairs, ranks]))
    heads = ["expected and found r", "pairs", "corpora", "Pearson, 95% over corpora", "Spearman"]
    lines += ["", line(heads), line(["---"] * len(heads))]
    for name, found in report["agreement"].items():
        mean, low, high = (number(found["pearson"][key], 2) for key in ("mean", "low", "high"))
        pair = f"{mean} [{low}, {high}]"
        lines.append(line([name, str(found["rows"]), str(found["corpora"]), pair, number(found["spearman"], 2)]))
    heads = ["found minus expected r", "10%", "middle", "90%"]
    lines += ["", line(heads), line(["---"] * len(heads))]
    for key, name in (("inside", "texts like the training texts"), ("outside", "other texts")):
        lines.append(line([name, *(number(value, 2, sign=True) for value in report["difference"][key])]))
    (inside, of), (checked, all_checks) = report["held"]["left out"], report["held"]["checks"]
    lines += [
        "",
        f"80% intervals hold {inside} of {of} figures of a corpus that was left out, and {checked} of {all_checks} of "
        f"{', '.join(CHECKS)}, which no interval has seen.",
        "",
        f"`{report['command']}`; {report['machine']}; up to {MOST} texts of a corpus.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure what a model's uncertainties say of its r.")
    parser.add_argument("checkpoints", nargs="*", default=[checkpoints.DEFAULT], metavar="CHECKPOINT")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    table = [row for checkpoint in given.checkpoints for row in measure(checkpoint)]
    command = " ".join(["python scripts/unlabelled.py", *(arguments or sys.argv[1:])])
    report = rounded({"command": command, "machine": hardware(), "rows": table, **summarize(table)})
    save(given.results, "unlabelled", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
