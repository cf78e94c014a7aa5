"""What the seven families of sounds and images give on made-up signals: proof of the plumbing, and not of affect.

    python scripts/senses.py [--families vit,whisper] [-o FOLDER]

Requires the extras audio, image and onnx. Each family gets a tiny encoder with random weights; a clip is a sine over
noise whose loudness and pitch are the labels, an image one colour. Three figures for each: r on held-out signals after
`fit`, the largest change of an answer by padding and neighbours, and the largest difference between ONNX and torch.
Real speech, images of people and pretrained weights were not at hand.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "scripts" / "results"
_NAMES = {"clip_vision_model": "CLIP, vision", "siglip_vision_model": "SigLIP, vision", "vit": "ViT"}


def measure(family: str, folder: Path) -> dict[str, Any]:
    """Trains a family's tiny model in a folder; the three figures."""
    from liminal_hf.export.onnx import export_onnx
    from liminal_hf.inference import read
    from liminal_hf.scoring.onnx_runtime import OnnxPAD
    from liminal_hf.training.fit import fit

    kit: Any = importlib.import_module("senses_kit")
    result = fit(kit.signal_recipe(folder / "data", family), folder / "run")
    signals = kit.signals_and_labels(family, 16, 5)[0]
    together = read(result.model, result.tokenizer, signals, batch_size=16)["logits"]
    alone = read(result.model, result.tokenizer, signals, batch_size=1)["logits"]
    export_onnx(result.model, folder / "onnx", tokenizer=result.tokenizer)
    by_onnx = OnnxPAD(folder / "onnx").predict(signals, batch_size=5)["logits"]
    return {
        "family": family,
        "trains": "all weights" if family in kit.SOUNDS else "the head on cached states",
        "r": {name: result.metrics["test"][f"pearson_{name}"] for name in ("pleasure", "arousal", "dominance")},
        "padding": float(np.abs(together - alone).max()),
        "onnx": float(np.abs(by_onnx - alone).max()),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# Does the head work on sounds and images?",
        "",
        "As plumbing, yes. **This says nothing about affect**: no real speech, no images of people and no pretrained",
        "weights of such encoders were at hand. Each encoder is tiny and has random weights. A clip is a sine over",
        "noise whose loudness is its pleasure and whose pitch its arousal; an image has one colour, whose redness and",
        "blueness are. So the right answer is known, and an r near 1 only says that signals, masks, labels and weights",
        "meet as they should.",
        "",
        "<!-- table -->",
        "| family | trains | test r (V / A / D), 48 signals | change in a batch of 16 | difference of ONNX |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        r = " / ".join(f"{value:.3f}".replace("0.", ".", 1) for value in row["r"].values())
        name = _NAMES.get(row["family"], row["family"])
        lines.append(f"| {name} | {row['trains']} | {r} | {row['padding']:.1e} | {row['onnx']:.1e} |")
    lines += [
        "",
        "`python scripts/senses.py`; 96 training signals, seed 0, labels in -1..1. The change is the largest between",
        "an answer read alone and among others, with padding; the difference the largest from torch. wav2vec2, HuBERT",
        "and WavLM have layer norms here; with a group norm, as the base models have one, clips are read one by one.",
        "<!-- end -->",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    sys.path.insert(0, str(ROOT / "tests"))
    families = importlib.import_module("senses_kit").SENSES
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", default=",".join(families), help="names, separated by commas")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder for senses.md and senses.json")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIMINAL_CACHE_DIR"] = f"{folder}/cache"
        for family in options.families.split(","):
            rows.append(measure(family, Path(folder) / family))
            print(json.dumps(rows[-1]), flush=True)
            content = json.dumps({"families": rows}, indent=1) + "\n"
            (options.output / "senses.json").write_text(content, encoding="utf-8")
            (options.output / "senses.md").write_text(markdown(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
