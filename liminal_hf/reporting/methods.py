"""The sentences for a methods section: model, version, what the numbers are, what was left out, and whom to cite.

Requires transformers.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..export.model_card import CORPORA
from ..figures.style import count_of
from ..io import file_sha256
from ..modeling.provenance import known_facts, read_facts
from ..scoring import Scorer
from .findings import Findings

_REFERENCES = {
    "emobank": "Buechel, S., & Hahn, U. (2017). EmoBank: Studying the impact of annotation perspective and "
    "representation format on dimensional emotion analysis. In Proceedings of EACL 2017, vol. 2 (pp. 578-585).",
    "pad": "Mehrabian, A. (1996). Pleasure-arousal-dominance: A general framework for describing and measuring "
    "individual differences in temperament. Current Psychology, 14(4), 261-292.",
    "hedges": "Hedges, L. V., & Olkin, I. (1985). Statistical methods for meta-analysis. Academic Press.",
    "words": "Scott, G. G., Keitel, A., Becirspahic, M., Yao, B., & Sereno, S. C. (2019). The Glasgow Norms: Ratings "
    "of 5,500 words on nine scales. Behavior Research Methods, 51, 1258-1270.",
    "package": f"liminal_hf contributors. liminal_hf (version {__version__}) [Computer software].",
}


@dataclass(frozen=True)
class Reader:
    """Which model read the texts.

    Args:
        name: of the checkpoint; empty where a model in memory has none.
        mark: what tells its weights from others: a sha256, or a commit on the Hub.
        facts: what is known of it, see `read_facts` and `known_facts`.
        max_length: tokens that it reads of a text.
        backend: "torch", "onnx" or "int8".
    """

    name: str
    mark: str
    facts: Mapping[str, Any]
    max_length: int
    backend: str = "torch"


def describe_reader(scorer: Scorer) -> Reader:
    """What a methods section says of the model that read the texts.

    Args:
        scorer: of a checkpoint, or of a model in memory. The latter may have changed since it was loaded, so that its
            mark is a hash of all that its answers depend on, and no file's.

    Example:
        >>> import liminal_hf
        >>> reader = describe_reader(Scorer(liminal_hf.DEFAULT_CHECKPOINT, threads=1))
        >>> reader.name, reader.mark[:29]
        ('minilm-emobank', 'sha256 of model.safetensors: ')
    """
    source, mark = scorer.checkpoint, f"sha256 of weights, config and tokenizer: {scorer.identity}"
    if isinstance(source, str | os.PathLike):
        facts, where = read_facts(os.fspath(source)), os.fspath(source)
        weights = Path(where) / "model.safetensors"
        commit = getattr(scorer.config, "_commit_hash", None)
        if weights.is_file():
            mark = f"sha256 of model.safetensors: {file_sha256(weights)}"
        elif commit and not Path(where).exists():
            mark = f"commit {commit}"
    else:
        facts = known_facts(source)
        # What has changed no longer is what it was loaded from.
        where = "" if "base" in facts or "base_model" in facts else source.name_or_path or ""
    is_folder = Path(where).is_absolute() or Path(where).exists()
    name = facts.get("name") or (Path(where).name if is_folder else where)
    return Reader(str(name), mark, facts, scorer.max_length, scorer.backend)


def sentences(findings: Findings, reader: Reader) -> list[str]:
    """Paragraphs for a methods section."""
    config, counts, targets = findings.config, findings.counts, findings.targets
    low, high = config.label_range
    in_eight_bits = ", with the encoder's weights in 8 bits" if reader.backend == "int8" else ""
    corpus = _corpus(reader.facts)
    raters = f"; it was trained on the ratings of {corpus} (Buechel & Hahn, 2017)" if corpus == "EmoBank" else ""
    pad = " (Mehrabian, 1996)" if config.pad_indices is not None else ""
    which = f"the checkpoint {reader.name}" if reader.name else "a model in memory"
    model = (
        f"The texts were read with liminal_hf {__version__} and {which} ({reader.mark})"
        f"{in_eight_bits}. The model predicts the {_listed(targets)} that readers find in a text{pad}{raters}. "
        f"Its scale runs from {low:g} to {high:g}."
    )
    metrics = (reader.facts.get("metrics") or {}).get("test") or {}
    measured = [metrics.get(f"pearson_{name}") for name in targets]
    if corpus and measured and all(isinstance(value, float) for value in measured):
        shown = _listed([f"{value:.2f}" for value in measured]).replace("0.", ".")
        model += f" On the test texts of {corpus} it correlates with the mean ratings by r = {shown}, in this order."
    doubt = ""
    if findings.has_doubt:
        fitted = config.residual_quantiles is not None
        zones = [f"{name} {a:.2f} to {b:.2f}" for name, (a, b) in zip(targets, findings.zones(), strict=True)]
        doubt = (
            "Each prediction has an 80% interval"
            + (", calibrated on texts that the model was not trained on" if fitted else "")
            + ". A verdict names the class (below, in or above the neutral zone) that is more likely than not, and is "
            f"'unclear' where none is. The neutral zones are: {_listed(zones)}."
        )
    if "emotions" in findings.tables:
        doubt += (
            " Emotion words follow from the three predictions and the words' published positions (Scott et al., 2019)."
        )
    rows = (
        f"Of {count_of(counts['rows'], 'row')} the model read {counts['read']:,}; {counts['empty']:,} had no text, and "
        f"{counts['not readable']:,} could not be read."
    )
    if counts["truncated"]:
        long = count_of(counts["truncated"], "text")
        cut = f"Of {long} the model read the first {reader.max_length} tokens alone."
    else:
        cut = "Every text was read to its end."
    if counts["read in windows"]:
        long = count_of(counts["read in windows"], "text")
        cut = f"Longer than {reader.max_length} tokens: {long}, read by sentence and averaged by length. {cut}"
    rows += f" {cut}"
    if findings.answers["in_domain"].null_count < len(findings.answers):
        what = "In" if findings.include_unlike else "Left out of"
        unlike = count_of(counts["unlike the training texts"], "text")
        rows += (
            f" {what} figures and means: {unlike} that by the model's own measure are more likely unlike its training "
            "texts than like them (in_domain below .5: another language, code, no words)."
        )
    statistics = ""
    if {"groups", "over_time"} & set(findings.tables):
        statistics = (
            "Intervals of means are 95% intervals by Student's t over rows. They say how far another draw of such "
            "texts could lie, not how far the model could be off, and they count rows as independent of each other: "
            "several texts of one person are not."
        )
    if "Hedges' g" in findings.tables.get("effects", {}):
        statistics += (
            " Two groups are compared by the difference of their means (Welch's interval) and by Hedges' g, in pooled "
            "standard deviations of the predictions, with the interval of Hedges & Olkin (1985). Predictions vary less "
            "than ratings, so that a g of predictions is not a g of ratings."
        )
    elif "effects" in findings.tables:
        statistics += " Groups are compared by eta squared, the share of the predictions' variance between them."
    return [part for part in (model, doubt, rows, statistics.strip()) if part]


def references(findings: Findings, reader: Reader) -> list[str]:
    """What the sentences cite."""
    keys = ["emobank"] if _corpus(reader.facts) == "EmoBank" else []
    keys += ["hedges"] if "Hedges' g" in findings.tables.get("effects", {}) else []
    keys += ["pad"] if findings.config.pad_indices is not None else []
    keys += ["words"] if "emotions" in findings.tables else []
    return [_REFERENCES[key] for key in (*keys, "package")]


def _corpus(facts: Mapping[str, Any]) -> str | None:
    """The corpus whose labels a checkpoint was trained on."""
    name = ((facts.get("recipe") or {}).get("data") or {}).get("dataset")
    return CORPORA[name].name if name in CORPORA else None


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else "nothing"
