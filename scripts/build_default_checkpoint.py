"""Builds `liminal_hf.DEFAULT_CHECKPOINT`: trains its recipe, or takes the finished run, and writes the folder.

    python scripts/build_default_checkpoint.py [--recipe hub_configs/NAME.yaml] [--work RUN] [--output FOLDER]
    python scripts/build_default_checkpoint.py --recipe hub_configs/NAME.yaml --teachers-only

The models that the recipe learns from are trained first, where they are not there yet: `../runs/NAME-SEED/model` is
what `NAME.yaml`, beside the recipe, gives with that seed, its own teachers first, and `../runs/plain-SEED/model` is
`AutoModelForSequenceClassification` fine-tuned as the benchmark does it. A recipe chooses its epoch on the development
split and evaluates the test split once, at the very end; both are printed. Requires liminal_hf with its benchmark
extra, EmoBank and GoEmotions (see `LIMINAL_DATA_DIR`) and the encoder. On two cores it takes two to three hours, most
of it the teachers; an interrupted run goes on when the command is given again.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from research import peers
from research.cells import load_corpus
from research.report import mean_r

from liminal_hf import DEFAULT_CHECKPOINT
from liminal_hf.export.checkpoint import Checkpoint, open_checkpoint
from liminal_hf.export.model_card import CORPORA
from liminal_hf.export.repository import write_repository
from liminal_hf.io import write_text
from liminal_hf.training.fit import fit
from liminal_hf.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
LIMIT, LIMIT_OF_OTHERS = 8_000_000, 12_000_000  # bytes of the default checkpoint and of another; the wheel has them
NEUTRAL_WIDTH = [0.24, 0.14, 0.14]  # of EmoBank's raters, as scripts/answers.py measures it
PLAIN = "plain"
PLAIN_RATE = 1e-4  # that of the grids; see what the README says of it and 5e-5


def teachers(recipe: Path) -> list[tuple[Path | None, int, Path]]:
    """What has to be trained before a recipe can be: recipe, seed and run folder of each of its teachers, in order.

    Args:
        recipe: file of the recipe.

    Returns:
        Each teacher once, behind its own teachers; the recipe is None for a plain fine-tune.

    Raises:
        ValueError: a teacher's folder does not say which recipe and seed it comes from.
    """
    distill = Recipe.from_yaml(recipe).distill
    found: list[tuple[Path | None, int, Path]] = []
    for teacher in distill.teachers if distill else []:
        run = Path(teacher).parent
        name, _, seed = run.name.rpartition("-")
        source = None if name == PLAIN else recipe.parent / f"{name}.yaml"
        if Path(teacher).name != "model" or not seed.isdecimal() or not (source is None or source.is_file()):
            raise ValueError(
                f"The teacher {teacher} is not the `model` of a run RECIPE-SEED with {source} as its recipe. "
                "Name the folder so, or train the model with `liminal train` and call `write` for it."
            )
        found += teachers(source) if source else []
        found.append((source, int(seed), run))
    return list(dict.fromkeys(found))


def train_plain(recipe: Path, seed: int, run: Path) -> None:
    """Fine-tunes `AutoModelForSequenceClassification` on the recipe's encoder and data, unless that is done.

    Args:
        recipe: the student's.
        seed: seeds the classifier, the order of the data and dropout.
        run: folder; the model will be in `run / "model"`.
    """
    known = Recipe.from_yaml(recipe).override({"distill": None})  # a teacher has none itself
    about = json.dumps(
        {
            **{name: known.model.get(name) for name in ("encoder", "revision")},
            "data": known.to_dict()["data"],
            "training": peers.PLAIN,
            "rate": PLAIN_RATE,
            "seed": seed,
        },
        sort_keys=True,
    )
    identity = run / "plain.json"
    there = identity.read_text(encoding="utf-8") if identity.is_file() else None
    if there != about and run.is_dir() and any(run.iterdir()):
        raise ValueError(f"{run} holds another model than the one that {recipe.name} asks for. Move it away.")
    run.mkdir(parents=True, exist_ok=True)
    write_text(identity, about)
    if (run / "model").is_dir():
        return
    corpus = load_corpus(known)
    made, _ = peers.plain(known, corpus, {"learning_rate": PLAIN_RATE}, seed, run)
    for split, predictions in made.items():
        labels = np.asarray(corpus[split]["labels"][:], dtype=np.float64)
        print(f"{split}: mean r {mean_r(predictions, labels):.4f}")


def write(source: Checkpoint, target: Path) -> None:
    """Writes a checkpoint as it ships.

    Args:
        source: a finished run, or the shipped checkpoint. Its encoder is frozen, trained by adapters or cut to a rank.
        target: folder of the checkpoint; replaced.

    Raises:
        ValueError: the checkpoint is too large to ship, or the encoder was trained as a whole.
    """
    source.model.config.neutral_width = NEUTRAL_WIDTH
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / "checkpoint"
        facts = {"name": target.name, "language": "en", "human_ceiling": CORPORA["emobank"].ceiling}
        write_repository(source, new, facts=facts, head_only=True)
        # The package itself is the code of this checkpoint; a copy beside it could only go stale.
        for code in new.glob("*.py"):
            code.unlink()
        config = json.loads((new / "config.json").read_text(encoding="utf-8"))
        for name in ("auto_map", "custom_pipelines"):
            config.pop(name, None)
        (new / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (new / "model.safetensors").chmod(0o644)
        size = sum(path.stat().st_size for path in new.iterdir())
        limit = LIMIT if target == Path(DEFAULT_CHECKPOINT) else LIMIT_OF_OTHERS
        if size > limit:
            raise ValueError(
                f"The checkpoint has {size:,} bytes; at most {limit:,} may ship. Lower peft.r or encoder_rank."
            )
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(new, target)


def main() -> None:
    """Trains, prints the figures, writes the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=ROOT / "hub_configs" / "minilm-emobank-distilled.yaml")
    parser.add_argument("--work", type=Path, help="folder of the run (default: runs/RECIPE-SEED, as of a teacher)")
    parser.add_argument("--output", type=Path, help="of the checkpoint, replaced (default: that of the package)")
    parser.add_argument("--teachers-only", action="store_true", help="train what the recipe learns from, and stop")
    arguments = parser.parse_args()
    target = arguments.output or Path(DEFAULT_CHECKPOINT)
    own = Recipe.from_yaml(arguments.recipe).seed
    work = arguments.work or Path("runs") / f"{arguments.recipe.stem}-{own}"
    last = [] if arguments.teachers_only else [(arguments.recipe, own, work)]
    for recipe, seed, run in [*teachers(arguments.recipe), *last]:
        print(f"{recipe.stem if recipe else PLAIN}, seed {seed}, in {run}", flush=True)
        if recipe is None:
            train_plain(arguments.recipe, seed, run)
            continue
        metrics = fit(recipe, run, seed=seed).metrics
        for split in ("validation", "test"):
            print(f"{split}: mean r {metrics[split]['pearson_mean']:.4f}, mean CCC {metrics[split]['ccc_mean']:.4f}")
    if last:
        write(open_checkpoint(work), target)
        print(f"written to {target}")


if __name__ == "__main__":
    main()
