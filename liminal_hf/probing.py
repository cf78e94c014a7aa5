"""`liminal probe`: what a ridge reads from each layer of an encoder, and where encoders place the same phrases.

Requires torch, transformers and datasets; scikit-learn fits the ridges, matplotlib draws (`pip install
'liminal_hf[probe]'`).

Each text is the mean over its tokens' states, layer by layer, layer 0 being the embedding. A ridge per dimension is fit
on all documents but a fifth and predicts that fifth, five times (Alain & Bengio 2017, Understanding intermediate layers
using linear classifier probes; Hewitt & Liang 2019 say why a random encoder belongs beside each figure). r is that of
all held-out predictions together; its 95% interval is a percentile bootstrap over documents, not over sentences,
because the sentences of one document are alike.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray

from . import figures
from .data import load_emobank, pooled_dataset
from .metrics import pearson
from .modeling.configuration_liminal import DIMENSIONS
from .modeling.encoders import load_tokenizer
from .modeling.modeling_liminal import LiminalModel

Array = NDArray[np.float64]

# Short, everyday, two or three for each octant.
PHRASES = (
    "What a lovely surprise!",
    "We won, we really won!",
    "Thank you for staying with me.",
    "I am sitting in the sun.",
    "The meeting is on Tuesday.",
    "Nobody came to my birthday.",
    "I am so tired of all this.",
    "I am scared to go home.",
    "Get out of here, now!",
    "How dare you lie to me!",
    "You will do as I say.",
    "I could not care less.",
)
FOLDS, RESAMPLES = 5, 2000
_ALPHAS = tuple(np.geomspace(10, 1e5, 9))


@dataclass
class Probe:
    """What was found.

    Args:
        layers: a dict per encoder, layer and dimension: `encoder`, `layer`, `dimension`, `r`, `low`, `high`.
        phrases: a dict per encoder and phrase: `encoder`, `layer` (its best), `phrase`, and PAD.
        about: `texts`, `documents`, `folds`, `resamples`, and `command` where one is known.
    """

    layers: list[dict[str, Any]] = field(default_factory=list)
    phrases: list[dict[str, Any]] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def encoders(self) -> list[str]:
        """Their names, in the order given."""
        return list(dict.fromkeys(row["encoder"] for row in self.layers))

    def table(self, encoder: str) -> list[dict[str, Any]]:
        """A dict per layer: `layer`, the row of each dimension, and `mean`, the mean r."""
        found: dict[int, dict[str, Any]] = {}
        for row in self.layers:
            if row["encoder"] == encoder:
                found.setdefault(row["layer"], {"layer": row["layer"]})[row["dimension"]] = row
        for line in found.values():
            line["mean"] = float(np.mean([line[name]["r"] for name in DIMENSIONS]))
        return list(found.values())

    def best_layer(self, encoder: str) -> int:
        """The layer with the highest mean r."""
        return max(self.table(encoder), key=lambda line: line["mean"])["layer"]

    def markdown(self) -> str:
        """The table of all encoders; each one's best layer in bold."""
        heads = ["encoder", "layer", *(f"r {name} [95%]" for name in DIMENSIONS), "mean r"]
        lines = [_line(heads), _line(["---"] * len(heads))]
        for encoder in self.encoders:
            best = self.best_layer(encoder)
            for line in self.table(encoder):
                mark = "**" if line["layer"] == best else ""
                cells = [
                    f"{_r(line[name]['r'])} [{_r(line[name]['low'])}, {_r(line[name]['high'])}]" for name in DIMENSIONS
                ]
                lines.append(
                    _line([encoder, f"{mark}{line['layer']}{mark}", *cells, f"{mark}{_r(line['mean'])}{mark}"])
                )
        command = f"`{self.about['command']}`; " if self.about.get("command") else ""
        counts = {name: f"{self.about[name]:,}" for name in ("texts", "documents", "folds", "resamples")}
        lines.append(
            f"\n{command}{counts['texts']} texts of {counts['documents']} documents, {counts['folds']} folds by "
            f"document, 95% of {counts['resamples']} bootstrap resamples of documents. Layer 0: the embedding. Bold: "
            "the best layer."
        )
        return "\n".join(lines) + "\n"

    def curves(self, subject: str | None = None) -> Any:
        """r by layer, a matplotlib Figure."""
        tables = [self.table(encoder) for encoder in self.encoders]
        r, low, high = (np.full((len(tables), max(map(len, tables)), 3), np.nan) for _ in range(3))
        for row, table in enumerate(tables):
            for array, name in ((r, "r"), (low, "low"), (high, "high")):
                array[row, : len(table)] = [[line[dimension][name] for dimension in DIMENSIONS] for line in table]
        return figures.probe_curves(r, low, high, self._short_names(), subject=subject)

    def phrase_map(self, subject: str | None = None) -> Any:
        """The phrases in the plane of pleasure and arousal, a matplotlib Figure."""
        points = [
            [[row[name] for name in DIMENSIONS] for row in self.phrases if row["encoder"] == encoder]
            for encoder in self.encoders
        ]
        phrases = list(dict.fromkeys(row["phrase"] for row in self.phrases))
        return figures.phrase_map(points, phrases, self._short_names(), subject=subject)

    def _short_names(self) -> list[str]:
        """Without their owners, where that leaves them apart."""
        short = [name.rpartition("/")[2] for name in self.encoders]
        return short if len(set(short)) == len(short) else self.encoders

    def save(self, stem: str | Path) -> list[Path]:
        """Writes `<stem>.md`, `.json`, `.png` (the curves) and `_phrases.png`, and returns their paths."""
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths = [stem.with_name(stem.name + ending) for ending in (".md", ".json", ".png", "_phrases.png")]
        paths[0].write_text(self.markdown(), encoding="utf-8")
        content = {**self.about, "layers": self.layers, "phrases": self.phrases}
        # One row a line: small, and readable in a diff.
        text = json.dumps(content, ensure_ascii=False).replace('{"encoder"', '\n{"encoder"')
        paths[1].write_text(text + "\n", encoding="utf-8")
        self.curves(f"EmoBank's training split, {self.about['texts']:,} texts").savefig(paths[2], dpi=100)
        self.phrase_map("A ridge on each encoder's best layer").savefig(paths[3], dpi=100)
        return paths


def probe(
    encoders: Sequence[str],
    *,
    random_floor: bool = False,
    phrases: Sequence[str] = PHRASES,
    texts: Sequence[str] | None = None,
    labels: ArrayLike | None = None,
    documents: Sequence[str] | None = None,
    max_length: int = 128,
    say: Callable[[str], None] = lambda line: None,
) -> Probe:
    """Probes encoders layer by layer.

    Args:
        encoders: Hub ids or folders.
        random_floor: also probes each encoder with random weights of the same config (seed 0): what the words alone
            give away, without anything learned.
        phrases: what the encoders are to place, through a ridge on each one's best layer, trained on all texts.
        texts, labels, documents: what to train on, labels `(texts, 3)` in -1..1; None is EmoBank's training split.
        max_length: tokens per text.
        say: is told what happens.

    Returns:
        A `Probe`; numbers are rounded to 4 digits.

    Raises:
        OSError: an encoder was not found.
        ValueError: a name is given twice, or there are fewer documents than folds.
        ImportError: scikit-learn is missing.

    Example:
        >>> things = ("day", "soup", "song", "room", "cat")
        >>> texts = [f"A {word} {thing}." for word in ("good", "bad") for thing in things]
        >>> labels = [[.5, .1, .1]] * 5 + [[-.5, .2, -.1]] * 5
        >>> found = probe(
        ...     ["sentence-transformers/all-MiniLM-L6-v2"], phrases=["Good."], texts=texts, labels=labels,
        ...     documents=["a", "b", "c", "d", "e"] * 2,
        ... )
        >>> [line["layer"] for line in found.table(found.encoders[0])]
        [0, 1, 2, 3, 4, 5, 6]
    """
    if len(set(encoders)) < len(encoders) or not encoders:
        raise ValueError(f"Give each encoder once, and at least one; got {list(encoders)}.")
    if texts is None:
        corpus = load_emobank(extras=True)["train"]
        texts, labels, documents = corpus["text"][:], corpus["labels"][:], corpus["document"][:]
    gold = np.asarray(labels, dtype=np.float64)
    groups = np.unique(np.asarray(documents), return_inverse=True)[1]
    if groups.max() + 1 < FOLDS:
        raise ValueError(f"{FOLDS} folds need texts of at least {FOLDS} documents, got {groups.max() + 1}.")
    about = {"texts": len(texts), "documents": int(groups.max()) + 1, "folds": FOLDS, "resamples": RESAMPLES}
    found = Probe(about=about)
    for encoder in encoders:
        for name, states, of_phrases in _states(encoder, random_floor, texts, phrases, max_length):
            for layer, values in enumerate(states):
                held_out = _cross_validated(values, gold, groups)
                r = pearson(held_out, gold)
                low, high = document_interval(held_out, gold, groups)
                for place, dimension in enumerate(DIMENSIONS):
                    figures = {"r": r[place], "low": low[place], "high": high[place]}
                    rounded = {key: round(float(value), 4) for key, value in figures.items()}
                    found.layers.append({"encoder": name, "layer": layer, "dimension": dimension, **rounded})
                say(f"{name}, layer {layer} of {len(states) - 1}: r " + " / ".join(map(_r, r)))
            best = found.best_layer(name)
            placed = _ridge().fit(states[best], gold).predict(of_phrases[best])
            for phrase, point in zip(phrases, placed, strict=True):
                pad = {key: round(float(value), 4) for key, value in zip(DIMENSIONS, point, strict=True)}
                found.phrases.append({"encoder": name, "layer": best, "phrase": phrase, **pad})
    return found


def _states(
    encoder: str, random_floor: bool, texts: Sequence[str], phrases: Sequence[str], max_length: int
) -> "list[tuple[str, list[Array], list[Array]]]":
    """Names, and states of texts and phrases layer by layer."""
    tokenizer = load_tokenizer(encoder)
    model = LiminalModel.from_encoder_pretrained(encoder, head="linear", pooling="mean", pooled_layers="all").eval()
    models = [(encoder, model)]
    if random_floor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            models.append((f"{encoder}, random weights", LiminalModel(model.config).eval()))
    found = []
    for name, network in models:
        width = network.config.hidden_size
        limit = min(max_length, network.config.max_seq_length)
        split = []
        for some in (texts, phrases):
            rows = Dataset.from_dict({"text": list(some)})
            pooled = pooled_dataset(network, tokenizer, rows, max_length=limit).with_format("numpy")["pooled_embeds"][:]
            split.append(np.split(np.asarray(pooled), pooled.shape[1] // width, axis=1))
        found.append((name, split[0], split[1]))
    return found


def _ridge() -> Any:
    """A ridge on standardized states; its strength is chosen for each dimension by generalized cross-validation."""
    try:
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise ImportError("The probe needs scikit-learn: pip install 'liminal_hf[probe]'") from None
    return make_pipeline(StandardScaler(), RidgeCV(_ALPHAS, alpha_per_target=True))


def _cross_validated(states: Array, gold: Array, groups: NDArray[np.int64]) -> Array:
    """What is predicted for each text by a ridge that has seen no text of its document."""
    from sklearn.model_selection import GroupKFold

    predicted = np.empty_like(gold)
    for known, unknown in GroupKFold(FOLDS).split(states, groups=groups):
        predicted[unknown] = _ridge().fit(states[known], gold[known]).predict(states[unknown])
    return predicted


def document_interval(
    predicted: Array, gold: Array, groups: NDArray[np.int64], resamples: int = RESAMPLES
) -> tuple[Array, Array]:
    """95% interval of Pearson's r per dimension, of a bootstrap that draws documents with all their texts.

    (Field & Welsh 2007, Bootstrapping clustered data)

    Args:
        predicted, gold: `(texts, dimensions)`.
        groups: `(texts,)`, the document of each text as a number from 0 on.
        resamples: how many.

    Returns:
        The lower and the upper ends, `(dimensions,)` each.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> gold = rng.normal(size=(400, 1))
        >>> low, high = document_interval(gold + rng.normal(size=(400, 1)), gold, np.arange(400) // 4)
        >>> bool(low[0] < 0.71 < high[0])
        True
    """
    # r from sums, and the sums of a resample from those of its documents. Centred, for the sake of rounding.
    p, y = predicted - predicted.mean(0), gold - gold.mean(0)
    number = groups.max() + 1
    counts = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=resamples)
    parts = [np.ones_like(p), p, y, p * p, y * y, p * y]
    sums = []
    for part in parts:
        total = np.zeros((number, p.shape[1]))
        np.add.at(total, groups, part)
        sums.append(counts @ total)
    n, sum_p, sum_y, pp, yy, py = sums
    spread = np.sqrt((pp - sum_p**2 / n) * (yy - sum_y**2 / n))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.where(spread > 0, (py - sum_p * sum_y / n) / spread, 0.0)
    low, high = np.percentile(r, [2.5, 97.5], axis=0)
    return low, high


def _r(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
