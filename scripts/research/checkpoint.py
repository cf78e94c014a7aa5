"""What a checkpoint says about texts, kept on disk: shared by the scripts that measure a checkpoint.

Requires liminal_hf. A reading is named after the checkpoint's files and the texts, so that a rebuilt checkpoint is read
anew.
"""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from safetensors.numpy import load_file, save_file
from transformers import pipeline

import liminal_hf
from liminal_hf.cli import find_checkpoint
from liminal_hf.io import file_sha256
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from research.report import Array, content_hash

DEFAULT = "liminal_hf.DEFAULT_CHECKPOINT"


@dataclass
class Reading:
    """What the pipeline gives for each text.

    Args:
        pad: `(rows, 3)`.
        uncertainty: `(rows, 3)`, standard deviations; None for a head without.
        confidence: `(rows,)`, 0..1; None for a head without.
    """

    pad: Array
    uncertainty: Array | None = None
    confidence: Array | None = None


def read(checkpoint: str, texts: list[str], work: Path) -> Reading:
    """Reads texts with the pipeline of "pad-regression", or takes the reading that is kept in `work`.

    Args:
        checkpoint: folder or Hub id, or the word `liminal_hf.DEFAULT_CHECKPOINT`.
        texts: what to read.
        work: folder that keeps the readings; one of a checkpoint that is no folder is not kept.

    Raises:
        FileNotFoundError, ValueError: there is no such checkpoint; the message says what is there.
    """
    source = find_checkpoint(liminal_hf.DEFAULT_CHECKPOINT if checkpoint == DEFAULT else checkpoint)
    kept = None
    if Path(source).is_dir():
        files = [path for path in sorted(Path(source).iterdir()) if path.suffix in (".json", ".safetensors")]
        digests = {path.name: file_sha256(path) for path in files}
        kept = work / "readings" / f"{content_hash([digests, texts])}.safetensors"
        if kept.is_file():
            return Reading(**load_file(kept))
    # Texts of one length together: padding costs time.
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    rows = pipeline("pad-regression", model=source)([texts[row] for row in order], batch_size=64)
    found = {"pad": [[row[name] for name in DIMENSIONS] for row in rows]}
    if rows[0]["uncertainty"] is not None:
        found["uncertainty"] = [[row["uncertainty"][name] for name in DIMENSIONS] for row in rows]
    if rows[0]["confidence"] is not None:
        found["confidence"] = [row["confidence"] for row in rows]
    back = np.argsort(order)
    arrays = {name: np.ascontiguousarray(np.array(values, dtype=np.float64)[back]) for name, values in found.items()}
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        save_file(arrays, part)
        part.replace(kept)
    return Reading(**arrays)


def read_split(checkpoint: str, rows: Dataset, work: Path) -> tuple[Reading, Array]:
    """The reading of a split, and its labels `(rows, 3)`."""
    return read(checkpoint, rows["text"][:], work), np.asarray(rows["labels"][:], dtype=np.float64)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The argument CHECKPOINT."""
    parser.add_argument("checkpoint", nargs="?", default=DEFAULT, metavar="CHECKPOINT", help="(default: %(default)s)")


def named(checkpoint: str) -> str:
    """The checkpoint for a table: as it was typed, but nothing of the machine's folders."""
    if checkpoint == DEFAULT:
        return "default checkpoint"
    return Path(checkpoint).name if Path(checkpoint).is_absolute() else checkpoint


def command(script: str, checkpoint: str) -> str:
    """The command for a table."""
    return shlex.join(["python", f"scripts/{script}.py", *([] if checkpoint == DEFAULT else [named(checkpoint)])])
