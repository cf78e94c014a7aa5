"""Does a sharp turn find escalations? The rule of `liminal chat` against simpler and learned ones, on MELD.

Requires liminal_hf with its extra benchmark, and MELD (`LIMINAL_DATA_DIR`; evaluation only).

    python scripts/escalation.py

The event: a speaker whose last turn in the dialogue was not angry, disgusted or afraid, by MELD's annotators, now is.
Rules give a score to each turn that has an earlier one of the same speaker. Thresholds are tuned on train (best F1) and
reported on test; the shipped rule is also reported at its own threshold, which no corpus was used for.
"""

import argparse
import logging
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from research.meld import load_meld
from research.report import RESAMPLES, Array, add_folders, interval, line, number, resample_counts, rounded, save
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

import liminal_hf
from liminal_hf.export.checkpoint import open_checkpoint
from liminal_hf.inference import read

ESCALATED = ("anger", "disgust", "fear")
SHARP_DEVIATIONS = 2.0  # of `liminal_hf.chat.sharp_turn`
RULE = "sharp turn: fall and rise together, each by its uncertainty"


def events(rows: Any, logits: Array, doubt: Array) -> dict[str, Any]:
    """What rules may look at, for each turn with an earlier one of its speaker, and whether it is an event.

    Returns:
        `features` `(turns, 4)`: fall of pleasure and rise of arousal since the last turn, each by the standard
        deviation of a difference, and the present pleasure and arousal by theirs; `raw`, fall and rise in label units;
        `before`, the same four of the speaker's last turn (zeros where it had none before it); `event`; `dialogue`.
    """
    dialogues, speakers, emotions = (rows[name][:] for name in ("dialogue_id", "speaker", "emotion"))
    last: dict[Any, tuple[int, list[float]]] = {}
    found: dict[str, list[Any]] = {name: [] for name in ("features", "raw", "before", "event", "dialogue")}
    for turn, key in enumerate(zip(dialogues, speakers, strict=True)):
        features = [0.0, 0.0, logits[turn, 0] / doubt[turn, 0], logits[turn, 1] / doubt[turn, 1]]
        if key in last:
            earlier, before = last[key]
            fall, rise = logits[earlier, 0] - logits[turn, 0], logits[turn, 1] - logits[earlier, 1]
            spread = np.hypot(doubt[earlier, :2], doubt[turn, :2])
            features[:2] = [fall / spread[0], rise / spread[1]]
            found["features"].append(features)
            found["raw"].append([fall, rise])
            found["before"].append(before)
            found["event"].append(emotions[turn] in ESCALATED and emotions[earlier] not in ESCALATED)
            found["dialogue"].append(dialogues[turn])
        last[key] = turn, features
    return {name: np.array(values) for name, values in found.items()}


def sharpness(features: Array) -> Array:
    """What `sharp_turn` compares with its threshold; below 0 where pleasure does not fall or arousal does not rise."""
    fall, rise = features[:, 0], features[:, 1]
    return np.where((fall > 0) & (rise > 0), (fall + rise) / np.sqrt(2), np.minimum(fall, rise))


def scores_of(train: dict[str, Any], test: dict[str, Any]) -> dict[str, tuple[Array, Array]]:
    """Each rule's scores of train and test."""

    def learned(name: str) -> tuple[Array, Array]:
        model = LogisticRegression(max_iter=1000).fit(train[name], train["event"])
        return model.decision_function(train[name]), model.decision_function(test[name])

    def both(rule: Any) -> tuple[Array, Array]:
        return rule(train), rule(test)

    return {
        RULE: both(lambda part: sharpness(part["features"])),
        "fall of pleasure, by its uncertainty": both(lambda part: part["features"][:, 0]),
        "rise of arousal, by its uncertainty": both(lambda part: part["features"][:, 1]),
        "fall and rise, in label units": both(lambda part: sharpness(part["raw"])),
        "present pleasure alone": both(lambda part: -part["features"][:, 2]),
        "present pleasure and arousal": both(lambda part: part["features"][:, 3] - part["features"][:, 2]),
        "learned on train: fall, rise, present pleasure, present arousal": learned("features"),
        "early warning: the same of the turn before, learned": learned("before"),
    }


def hits(scores: Array, event: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    """What alarms above a threshold come to."""
    alarm = scores > threshold
    right = int((alarm & event).sum())
    return {
        "alarms": float(alarm.mean()),
        "precision": right / max(int(alarm.sum()), 1),
        "recall": right / int(event.sum()),
        "false alarms": float(alarm[~event].mean()),
    }


def best_threshold(scores: Array, event: NDArray[np.bool_]) -> float:
    """The one with the best F1."""
    candidates = np.quantile(scores, np.linspace(0.5, 0.99, 50))

    def f1(threshold: float) -> float:
        found = hits(scores, event, threshold)
        return 2 * found["precision"] * found["recall"] / max(found["precision"] + found["recall"], 1e-9)

    return float(max(candidates, key=f1))


def measure(train: dict[str, Any], test: dict[str, Any]) -> dict[str, Any]:
    """Average precision with intervals over dialogues, and what thresholds from train come to."""
    event = test["event"]
    index = np.unique(test["dialogue"], return_inverse=True)[1]
    counts = resample_counts(int(index.max()) + 1, min(RESAMPLES, 500))[:, index]
    report: dict[str, Any] = {}
    for name, (of_train, of_test) in scores_of(train, test).items():
        draws = [average_precision_score(event, of_test, sample_weight=count) for count in counts]
        low, high = np.percentile(draws, [2.5, 97.5])
        report[name] = {
            "in train": float(average_precision_score(train["event"], of_train)),
            "average precision": {
                "mean": float(average_precision_score(event, of_test)), "low": float(low), "high": float(high)
            },
            "tuned": hits(of_test, event, best_threshold(of_train, train["event"])),
        }  # fmt: skip
    report[RULE]["shipped"] = hits(scores_of(train, test)[RULE][1], event, SHARP_DEVIATIONS)
    return report


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = [
        "rule",
        "average precision, 95% over dialogues",
        "threshold",
        "alarms",
        "precision",
        "recall",
        "false alarms",
    ]
    lines = [line(heads), line(["---"] * len(heads))]
    names = ("alarms", "precision", "recall", "false alarms")

    def row(rule: str, precision: str, how: str, found: dict[str, float]) -> str:
        shares = [f"{found[name]:.1%}" if "alarms" in name else number(found[name], 2) for name in names]
        return line([rule, precision, how, *shares])

    for name, entry in report["rules"].items():
        lines.append(row(name, interval(entry["average precision"], sign=False), "best F1 in train", entry["tuned"]))
        if "shipped" in entry:
            lines.append(row("the same, as shipped", "", "2 standard deviations", entry["shipped"]))
    lines.append(line(["chance", number(report["rate"]), *[""] * 5]))
    lines += [
        "",
        f"`{report['command']}`; {report['turns']:,} test turns of MELD after another of the same speaker; default "
        "checkpoint. False alarms: the share of the other turns that has an alarm.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compare rules for escalations.")
    parser.add_argument("--data-dir", help="the folder above meld/")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    source, data, parts = open_checkpoint(liminal_hf.DEFAULT_CHECKPOINT), load_meld(given.data_dir), {}
    for split in ("train", "test"):
        answer = read(source.model, source.tokenizer, data[split]["text"][:])
        parts[split] = events(data[split], *(answer[name].astype(np.float64) for name in ("logits", "uncertainty")))
    report = rounded(
        {
            "command": "python scripts/escalation.py",
            "turns": len(parts["test"]["event"]),
            "rate": float(parts["test"]["event"].mean()),
            "rules": measure(parts["train"], parts["test"]),
        }
    )
    save(given.results, "escalation", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
