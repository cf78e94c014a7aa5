"""What does a head say of a decoder's own states while it writes, and what does that cost?

Requires liminal_hf with its benchmark extra, EmoBank with `meta.tsv` (`LIMINAL_DATA_DIR`) and SmolLM2-135M-Instruct:
its Hub id, or the folder that `python scripts/encoders.py smollm2 -o FOLDER` writes (4-bit weights).

    python scripts/streaming.py --model FOLDER

Trains hub_configs/smollm2-emobank.yaml, then asks three things. Does the head, trained on sentences by themselves,
still read them in running text, where their states know what came before? Are the sentences that the model writes
itself read as another model reads them? How much longer does writing take? Runs and states are kept in `--work`.
"""

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from documents import in_order
from research.report import (
    RESAMPLES,
    Array,
    add_folders,
    interval,
    line,
    number,
    resample_counts,
    rounded,
    save,
    weighted_figures,
)
from transformers import AutoModelForCausalLM, TextStreamer, set_seed

import liminal_hf
from liminal_hf import EmotionStreamer, LiminalForPADRegression
from liminal_hf.data import load_emobank
from liminal_hf.scoring import Scorer
from liminal_hf.training.fit import fit
from liminal_hf.training.recipe import Recipe
from liminal_hf.training.run_folder import hardware

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
RECIPE = Path(__file__).parents[1] / "hub_configs" / "smollm2-emobank.yaml"
BEFORE = 3  # sentences of the document that a sentence is read after
MOODS = ("happy", "sad", "angry", "calm")
SCENES = ("a birthday party", "a train station", "the first day at work", "an old house")
TOKENS, ROUNDS = 60, 5


def train(model: str, work: Path) -> tuple[LiminalForPADRegression, Any, dict[str, Any]]:
    """The head on the decoder, its tokenizer, and its figures."""
    recipe = Recipe.from_yaml(RECIPE).override({"model.encoder": model})
    result = fit(recipe, work / "run")
    return result.model.eval(), result.tokenizer, result.metrics


@torch.no_grad()
def predict(model: LiminalForPADRegression, tokenizer: Any, texts: list[str], before: list[str]) -> Array:
    """PAD of each text from the states of its own tokens, read behind what came before it: `(texts, 3)`."""
    liminal, rows = model.liminal, []
    for text, context in zip(texts, before, strict=True):
        first = tokenizer(context + " " if context else "")["input_ids"]
        own = tokenizer(text)["input_ids"][: model.config.max_seq_length]
        states = liminal.encoder(torch.tensor([first + own]), output_hidden_states=True).hidden_states
        # The pooler leaves out the first token of a text, which in running text is not the sentence's.
        start = max(0, len(first) - 1)
        cut = tuple(state[:, start:] for state in states)
        mask = torch.ones(cut[0].shape[:2], dtype=torch.long)
        rows.append(model(pooled_embeds=liminal.pooler(cut[-1], cut, mask)[0]).logits[0].numpy())
    return np.array(rows, dtype=np.float64)


def in_running_text(model: LiminalForPADRegression, tokenizer: Any, work: Path) -> dict[str, Any]:
    """r and CCC of the test sentences by themselves and behind the sentences before them in their document."""
    corpus = load_emobank(extras=True)
    documents, labels, is_test = in_order(corpus)
    texts, names = documents["test"]["text"][:], documents["test"]["dialogue_id"][:]
    rows = np.flatnonzero(is_test).tolist()
    before = [
        [texts[other] for other in range(max(0, row - BEFORE), row) if names[other] == names[row]] for row in rows
    ]
    kept = work / "running.npz"
    if not kept.is_file():
        chosen = [texts[row] for row in rows]
        alone = predict(model, tokenizer, chosen, [""] * len(rows))
        behind = predict(model, tokenizer, chosen, [" ".join(each) for each in before])
        np.savez(kept, alone=alone, behind=behind)
    found = np.load(kept)
    gold = labels["test"][rows]
    weights = resample_counts(len(rows), RESAMPLES)
    figures = {}
    drawn = {}
    for name in ("alone", "behind"):
        once = weighted_figures(found[name], gold, np.ones((1, len(rows))))
        drawn[name] = weighted_figures(found[name], gold, weights)["r"].mean(1)
        figures[name] = {"r": once["r"][0].tolist(), "mean": float(once["r"].mean()), "ccc": float(once["ccc"].mean())}
    low, high = np.percentile(drawn["behind"] - drawn["alone"], (2.5, 97.5))
    moved = np.abs(found["behind"] - found["alone"]).mean()
    same = np.mean([np.corrcoef(found["alone"][:, i], found["behind"][:, i])[0, 1] for i in range(3)])
    gap = {"mean": figures["behind"]["mean"] - figures["alone"]["mean"], "low": float(low), "high": float(high)}
    return {"sentences": len(rows), **figures, "gap": gap, "moved": float(moved), "same": float(same)}


def own_sentences(model: LiminalForPADRegression, tokenizer: Any, writer: Any) -> dict[str, Any]:
    """Sentences that the model writes: what the streamer says, and what the default checkpoint says of the same."""
    reader, rows = Scorer(liminal_hf.DEFAULT_CHECKPOINT), []
    streamer = EmotionStreamer(model, writer, tokenizer)
    for mood in MOODS:
        for number_, scene in enumerate(SCENES):
            set_seed(number_)
            ids = _prompt(tokenizer, f"Write a {mood} story about {scene}.")
            writer.generate(**ids, streamer=streamer, max_new_tokens=TOKENS, do_sample=True, temperature=0.8)
            rows += [{"mood": mood, **row} for row in streamer.rows if row["error"] is None and not row["truncated"]]
    others = reader.rows([row["text"] for row in rows])
    values = {name: (np.array([row[name] for row in rows]), np.array([row[name] for row in others])) for name in PAD}
    by_mood = {
        mood: {name: float(np.mean([row[name] for row in rows if row["mood"] == mood])) for name in PAD}
        for mood in MOODS
    }
    r = {name: float(np.corrcoef(*pair)[0, 1]) for name, pair in values.items()}
    example = [{key: row[key] for key in ("mood", "text", *PAD)} for row in rows[:: max(1, len(rows) // 6)]][:6]
    return {"sentences": len(rows), "r": r, "moods": by_mood, "examples": example}


PAD = ("pleasure", "arousal", "dominance")


def cost(model: LiminalForPADRegression, tokenizer: Any, writer: Any) -> dict[str, Any]:
    """Milliseconds a token without a streamer, with ours, and for reading the text again by the default checkpoint."""
    ids = _prompt(tokenizer, "Write a story about a birthday party.")
    streamer, reader = EmotionStreamer(model, writer, tokenizer), Scorer(liminal_hf.DEFAULT_CHECKPOINT)
    silent = TextStreamer(tokenizer)
    silent.on_finalized_text = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
    times: dict[str, list[float]] = {"alone": [], "TextStreamer": [], "EmotionStreamer": [], "read again": []}
    for turn in range(ROUNDS + 1):
        for name, each in (("alone", None), ("TextStreamer", silent), ("EmotionStreamer", streamer)):
            start = time.perf_counter()
            writer.generate(**ids, streamer=each, **settings)
            times[name].append(time.perf_counter() - start)
        start = time.perf_counter()
        for row in streamer.rows:
            reader.rows([row["text"]])
        times["read again"].append(time.perf_counter() - start)
        if turn == 0:  # to warm up
            times = {name: [] for name in times}
    ratios = np.array(times["EmotionStreamer"]) / np.array(times["alone"])
    median = {name: 1000 * float(np.median(values)) / TOKENS for name, values in times.items()}
    return {"ms": median, "ratio": float(np.median(ratios)), "ratios": ratios.tolist()}


def _prompt(tokenizer: Any, text: str) -> Any:
    messages = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    seen, own, times = report["running"], report["own"], report["cost"]
    lines = [line(["EmoBank's test sentences", "r V / A / D", "mean r", "CCC"]), line(["---"] * 4)]
    titles = {"alone": "by themselves", "behind": f"behind up to {BEFORE} sentences of their document"}
    for name, title in titles.items():
        three = " / ".join(number(value) for value in seen[name]["r"])
        lines.append(line([title, three, number(seen[name]["mean"]), number(seen[name]["ccc"])]))
    gap = seen["gap"]
    lines += [
        "",
        f"Difference {interval(gap)}; "
        f"an answer moves by {number(seen['moved'])} on average, and both correlate by {number(seen['same'])} "
        f"({seen['sentences']} sentences, without headlines).",
        "",
        line(["asked for", *PAD]),
        line(["---"] * 4),
        *(line([mood, *(number(own["moods"][mood][name], 2, sign=True) for name in PAD)]) for mood in MOODS),
        "",
        f"{own['sentences']} whole sentences that the model wrote: r with the default checkpoint's reading of the same "
        + " / ".join(number(own["r"][name], 2) for name in PAD)
        + ".",
        "",
        line(["writing", "ms a token", "times"]),
        line(["---"] * 3),
    ]
    for name in ("alone", "TextStreamer", "EmotionStreamer"):
        lines.append(line([name, f"{times['ms'][name]:.1f}", number(times["ms"][name] / times["ms"]["alone"], 2)]))
    again = f"the default checkpoint reads the same sentences again: {times['ms']['read again']:.1f} more"
    lines += ["", f"In place of EmotionStreamer, {again}.", "", f"`{report['command']}`; {report['machine']}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL, help="Hub id or folder (default: %(default)s)")
    add_folders(parser, "runs/streaming")
    given = parser.parse_args(arguments)
    model, tokenizer, metrics = train(given.model, given.work)
    writer = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    report = {
        "command": "python scripts/streaming.py --model FOLDER",
        "machine": hardware(),
        "recipe": {split: metrics[split] for split in ("validation", "test") if split in metrics},
        "running": in_running_text(model, tokenizer, given.work),
        "own": own_sentences(model, tokenizer, writer),
        "cost": cost(model, tokenizer, writer),
    }
    save(given.results, "streaming", rounded(report), markdown(rounded(report)))
    print(markdown(rounded(report)))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
