"""What the tests of the evidence scripts share: a tiny EmoBank in its own files, a grid for it, a checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.training.fit import load_tokenizer

GENRES = ("fiction", "letters", "blog")
WORDS = {"good": 4.6, "fine": 3.8, "plain": 3.0, "poor": 2.2, "awful": 1.4}
THINGS = ("soup", "train", "song", "letter", "garden", "window", "answer", "coat")
PAIRS = [(thing, word) for thing in THINGS for word in WORDS]


def write_emobank(folder: Path) -> Path:
    """Forty sentences whose labels follow from their words, in eight documents of three genres, by several raters.

    Sentence 1 stands in two documents.
    """
    generator = np.random.default_rng(0)
    target = folder / "emobank"
    target.mkdir(parents=True)
    tables: dict[str, list[str]] = {
        "emobank.csv": ["id,split,V,A,D,text"],
        "meta.tsv": ["id\tdocument\tcategory\tsubcategory"],
    }
    for perspective in ("reader", "writer"):
        tables[f"{perspective}.csv"] = ["id,V,A,D,stdV,stdA,stdD,N"]
        tables[f"individual_{perspective}_ratings.csv"] = ["id,V,A,D"]
    for row, (thing, word) in enumerate(PAIRS):
        name, value, document = f"s{row:02d}", WORDS[word], THINGS.index(thing)
        mean = np.array([value, 3 + abs(value - 3) / 2, 3.0]) + generator.normal(0, 0.1, 3)
        split = ("train", "train", "dev", "test")[row % 4]
        text = "This soup is fine." if row in (1, 6) else f"This {thing} is {word}."
        tables["emobank.csv"].append(f"{name},{split},{','.join(f'{number:.2f}' for number in mean)},{text}")
        tables["meta.tsv"].append(f"{name}\tdocument-{document}\t{GENRES[document % 3]}\t")
        for perspective in ("reader", "writer"):
            ratings = np.clip(np.round(mean + generator.normal(0, 0.7, (4, 3))), 1, 5)
            cells = [*ratings.mean(axis=0), *ratings.std(axis=0)]
            tables[f"{perspective}.csv"].append(f"{name},{','.join(f'{number:.4f}' for number in cells)},4")
            tables[f"individual_{perspective}_ratings.csv"] += [
                f"{name},{','.join(f'{number:g}' for number in rating)}" for rating in ratings
            ]
    for file, lines in tables.items():
        (target / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_grid(folder: Path, encoder: Path, systems: list[dict[str, Any]], **more: Any) -> Path:
    """A grid with its recipe: a small head on the frozen encoder, two epochs."""
    recipe = {
        "model": {"encoder": str(encoder), "head": "v7", "pooling": "mean", "pooled_layers": "all", "latent_size": 8},
        "data": {"dataset": "emobank", "max_length": 16},
        "phases": [
            {
                "name": "head",
                "trainable": "head",
                "cache": True,
                "training": {"num_train_epochs": 2, "learning_rate": 1e-3, "use_cpu": True},
            }
        ],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    path = folder / "tiny.yaml"
    content = {"recipe": "recipe.yaml", "systems": systems, **more}
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def write_checkpoint(folder: Path, encoder: Path, head: str = "v7") -> Path:
    """A checkpoint whose head has random weights."""
    torch.manual_seed(0)
    model = LiminalForPADRegression.from_encoder_pretrained(str(encoder), head=head, latent_size=8)
    with torch.no_grad():  # what starts at zero would be constant
        for parameter in model.liminal.head.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    model.save_head_only(folder)
    load_tokenizer(str(encoder)).save_pretrained(folder)
    return folder
