"""`liminal probe`: what a ridge reads from each layer of an encoder, and where encoders place the same phrases.

Requires torch, transformers and datasets; scikit-learn fits the ridges, matplotlib draws (`pip install
'liminal_hf[probe]'`).

A text is its tokens' states, pooled (their mean, unless said otherwise) layer by layer; layer 0 is the embedding. A
ridge per dimension is fit on four fifths of the documents and predicts the rest, five times (Alain & Bengio 2017,
Understanding intermediate layers using linear classifier probes; Hewitt & Liang 2019 say why a random encoder belongs
beside each figure). r is that of all held-out predictions together. Its 95% interval is a percentile bootstrap over
documents, because the sentences of one document are alike (Field & Welsh 2007, Bootstrapping clustered data).
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
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
from .modeling.errors import LiminalError
from .modeling.modeling_liminal import LiminalModel
from .modeling.pooling import POOLERS

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
    """The result of a probe.

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
        lines: dict[int, dict[str, Any]] = {}
        for row in self.layers:
            if row["encoder"] == encoder:
                lines.setdefault(row["layer"], {"layer": row["layer"]})[row["dimension"]] = row
        for line in lines.values():
            line["mean"] = float(np.mean([line[name]["r"] for name in DIMENSIONS]))
        return list(lines.values())

    def best_layer(self, encoder: str) -> int:
        """The layer with the highest mean r."""
        return max(self.table(encoder), key=lambda line: line["mean"])["layer"]

    def markdown(self) -> str:
        """The table of all encoders; each one's best layer in bold."""
        heads = ["encoder", "layer", *(f"r {name} [95%]" for name in DIMENSIONS), "mean r"]
        lines = [heads, ["---"] * len(heads)]
        for encoder in self.encoders:
            best = self.best_layer(encoder)
            for line in self.table(encoder):
                mark = "**" if line["layer"] == best else ""
                rows = [line[name] for name in DIMENSIONS]
                cells = [f"{_r(row['r'])} [{_r(row['low'])}, {_r(row['high'])}]" for row in rows]
                lines.append([encoder, f"{mark}{line['layer']}{mark}", *cells, f"{mark}{_r(line['mean'])}{mark}"])
        command = f"`{self.about['command']}`; " if self.about.get("command") else ""
        counts = {name: f"{self.about[name]:,}" for name in ("texts", "documents", "folds", "resamples")}
        note = (
            f"{command}{counts['texts']} texts of {counts['documents']} documents, {counts['folds']} folds by "
            f"document, 95% of {counts['resamples']} bootstrap resamples of documents. Layer 0: the embedding. Bold: "
            "the best layer."
        )
        return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + f"\n{note}\n"

    def phrase_map(self, subject: str | None = None) -> Any:
        """The phrases in the plane of pleasure and arousal, a matplotlib Figure."""
        points = [
            [[row[name] for name in DIMENSIONS] for row in self.phrases if row["encoder"] == encoder]
            for encoder in self.encoders
        ]
        phrases = list(dict.fromkeys(row["phrase"] for row in self.phrases))
        return figures.phrase_map(points, phrases, _short(self.encoders), subject=subject)

    def save(self, stem: str | Path) -> list[Path]:
        """Writes `<stem>.md`, `.json`, `.png` (r by layer) and `_phrases.png`, and returns their paths."""
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths = [stem.with_name(stem.name + ending) for ending in (".md", ".json", ".png", "_phrases.png")]
        paths[0].write_text(self.markdown(), encoding="utf-8")
        content = {**self.about, "layers": self.layers, "phrases": self.phrases}
        # One row a line: small, and readable in a diff.
        text = json.dumps(content, ensure_ascii=False).replace('{"encoder"', '\n{"encoder"')
        paths[1].write_text(text + "\n", encoding="utf-8")
        r, low, high, encoders = figures.read_probe(paths[1])
        subject = f"EmoBank's training split, {self.about['texts']:,} texts"
        figures.probe_curves(r, low, high, _short(encoders), subject=subject).savefig(paths[2], dpi=150)
        self.phrase_map("A ridge on each encoder's best layer").savefig(paths[3], dpi=150)
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
    pooling: Sequence[str] = ("mean",),
    report: Callable[[str], None] = lambda line: None,
) -> Probe:
    """Probes encoders layer by layer.

    Args:
        encoders: Hub ids or folders.
        random_floor: also probes each encoder with random weights of the same config (seed 0): what the words alone
            give away, without anything learned.
        phrases: what the encoders are to place, through a ridge on each one's best layer, trained on all texts.
        texts, labels, documents: what to train on, labels `(texts, 3)` in -1..1; None is EmoBank's training split.
        max_length: tokens per text.
        pooling: names of poolers; with several, each encoder is probed with each of them, under its name and theirs.
        report: is called with a line for each layer.

    Returns:
        A `Probe`; numbers are rounded to 4 digits.

    Raises:
        OSError: there is no such encoder.
        LiminalError: a name is given twice, there are fewer documents than folds, or a pooler is unknown or learned.
        ImportError: scikit-learn is missing.

    Example:
        >>> things = ("day", "soup", "song", "room", "cat")
        >>> texts = [f"A {word} {thing}." for word in ("good", "bad") for thing in things]
        >>> labels = [[.5, .1, .1]] * 5 + [[-.5, .2, -.1]] * 5
        >>> result = probe(
        ...     ["sentence-transformers/all-MiniLM-L6-v2"], phrases=["Good."], texts=texts, labels=labels,
        ...     documents=["a", "b", "c", "d", "e"] * 2,
        ... )
        >>> [line["layer"] for line in result.table(result.encoders[0])]
        [0, 1, 2, 3, 4, 5, 6]
    """
    if len(set(encoders)) < len(encoders) or not encoders:
        raise LiminalError(f"Give each encoder once, and at least one; got {list(encoders)}.")
    if len(set(pooling)) < len(pooling) or not pooling:
        raise LiminalError(f"Give each pooling once, and at least one; got {list(pooling)}.")
    if learned := [name for name in pooling if any(True for _ in POOLERS[name](1).parameters())]:
        raise LiminalError(f"pooling: {learned[0]} is learned, and a probe trains none. Take mean, max or last_token.")
    if texts is None:
        corpus = load_emobank(extras=True)["train"]
        texts, labels, documents = corpus["text"][:], corpus["labels"][:], corpus["document"][:]
    gold = np.asarray(labels, dtype=np.float64)
    groups = np.unique(np.asarray(documents), return_inverse=True)[1]
    count = int(groups.max()) + 1
    if count < FOLDS:
        raise LiminalError(f"{FOLDS} folds need texts of at least {FOLDS} documents, got {count}.")
    result = Probe(about={"texts": len(texts), "documents": count, "folds": FOLDS, "resamples": RESAMPLES})
    for encoder, pooler in itertools.product(encoders, pooling):
        for name, states, of_phrases in _states(encoder, pooler, random_floor, texts, phrases, max_length):
            name = f"{name}, {pooler}" if len(pooling) > 1 else name
            for layer, values in enumerate(states):
                held_out = _cross_validated(values, gold, groups)
                columns = (pearson(held_out, gold), *document_interval(held_out, gold, groups))
                for dimension, figures_of in zip(DIMENSIONS, zip(*columns, strict=True), strict=True):
                    row = {key: round(float(v), 4) for key, v in zip(("r", "low", "high"), figures_of, strict=True)}
                    result.layers.append({"encoder": name, "layer": layer, "dimension": dimension, **row})
                report(f"{name}, layer {layer} of {len(states) - 1}: r " + " / ".join(map(_r, columns[0])))
            best = result.best_layer(name)
            for phrase, point in zip(phrases, _ridge().fit(states[best], gold).predict(of_phrases[best]), strict=True):
                pad = {key: round(float(value), 4) for key, value in zip(DIMENSIONS, point, strict=True)}
                result.phrases.append({"encoder": name, "layer": best, "phrase": phrase, **pad})
    return result


def _states(
    encoder: str, pooling: str, random_floor: bool, texts: Sequence[str], phrases: Sequence[str], max_length: int
) -> Iterator[tuple[str, list[Array], list[Array]]]:
    """A name, and the states of texts and of phrases layer by layer; then those of random weights."""
    tokenizer = load_tokenizer(encoder)
    model = LiminalModel.from_encoder_pretrained(encoder, head="linear", pooling=pooling, pooled_layers="all").eval()
    models = {encoder: model}
    if random_floor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            models[f"{encoder}, random weights"] = LiminalModel(model.config).eval()
    limit, width = min(max_length, model.config.max_seq_length), model.config.hidden_size
    for name, network in models.items():
        layers = []
        for some in (texts, phrases):
            rows = Dataset.from_dict({"text": list(some)})
            pooled = pooled_dataset(network, tokenizer, rows, max_length=limit).with_format("numpy")["pooled_embeds"][:]
            layers.append(np.split(np.asarray(pooled), pooled.shape[1] // width, axis=1))
        yield name, layers[0], layers[1]


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
    for train, test in GroupKFold(FOLDS).split(states, groups=groups):
        predicted[test] = _ridge().fit(states[train], gold[train]).predict(states[test])
    return predicted


def document_interval(
    predicted: Array, gold: Array, groups: NDArray[np.int64], resamples: int = RESAMPLES
) -> tuple[Array, Array]:
    """95% interval of Pearson's r per dimension, of a bootstrap that draws documents with all their texts.

    Args:
        predicted, gold: `(texts, dimensions)`.
        groups: `(texts,)`, the document of each text as an index from 0 on.
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
    count = groups.max() + 1
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=resamples)
    sums = []
    for part in (np.ones_like(p), p, y, p * p, y * y, p * y):
        total = np.zeros((count, p.shape[1]))
        np.add.at(total, groups, part)
        sums.append(draws @ total)
    n, sum_p, sum_y, pp, yy, py = sums
    spread = np.sqrt((pp - sum_p**2 / n) * (yy - sum_y**2 / n))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.where(spread > 0, (py - sum_p * sum_y / n) / spread, 0.0)
    low, high = np.percentile(r, [2.5, 97.5], axis=0)
    return low, high


def _short(encoders: list[str]) -> list[str]:
    """Names without their owners, where that leaves them apart."""
    short = [name.rpartition("/")[2] for name in encoders]
    return short if len(set(short)) == len(short) else encoders


def _r(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)
