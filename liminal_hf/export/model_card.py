"""The model card of a checkpoint, from a template and from what its run recorded; nothing in it is typed by hand.

Requires huggingface_hub, PyYAML and Jinja2 (which torch brings).
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..modeling.configuration_liminal import DIMENSIONS, LiminalConfig
from ..modeling.heads import HEADS
from ..modeling.losses import LOSSES
from ..modeling.pooling import POOLERS

TEMPLATE = Path(__file__).parent / "model_card_template.md"
# What a stranger needs beside torch; the same range as in pyproject.toml.
REQUIREMENT = "transformers>=5.16,<6"
_METRICS = {
    "pearson": ("pearsonr", "Pearson r"),
    "ccc": ("ccc", "concordance correlation coefficient"),
    "mae": ("mae", "mean absolute error"),
    "rmse": ("rmse", "root mean square error"),
}


@dataclass(frozen=True)
class Corpus:
    """What a card says about a corpus.

    Args:
        name, url, license: as the corpus' authors give them.
        license_id: the Hub's name of the licence.
        citation: BibTeX.
        hub_id: the authors' own repository on the Hub, where there is one.
    """

    name: str
    url: str
    license: str
    license_id: str
    citation: str
    hub_id: str | None = None


CORPORA = {
    "emobank": Corpus(
        name="EmoBank",
        url="https://github.com/JULIELab/EmoBank",
        license="CC BY-SA 4.0",
        license_id="cc-by-sa-4.0",
        citation="""@inproceedings{buechel-hahn-2017-emobank,
  title = {EmoBank: Studying the Impact of Annotation Perspective and Representation Format on Dimensional Emotion Analysis},
  author = {Buechel, Sven and Hahn, Udo},
  booktitle = {Proceedings of the 15th Conference of the European Chapter of the Association for Computational Linguistics: Volume 2, Short Papers},
  year = {2017},
  pages = {578--585},
  url = {https://aclanthology.org/E17-2092}
}""",  # noqa: E501
    ),
    "goemotions": Corpus(
        name="GoEmotions",
        url="https://github.com/google-research/google-research/tree/master/goemotions",
        license="Apache 2.0",
        license_id="apache-2.0",
        hub_id="google-research-datasets/go_emotions",
        citation="""@inproceedings{demszky-etal-2020-goemotions,
  title = {GoEmotions: A Dataset of Fine-Grained Emotions},
  author = {Demszky, Dorottya and Movshovitz-Attias, Dana and Ko, Jeongwoo and Cowen, Alan and Nemade, Gaurav and Ravi, Sujith},
  booktitle = {Proceedings of the 58th Annual Meeting of the Association for Computational Linguistics},
  year = {2020},
  pages = {4040--4054},
  url = {https://aclanthology.org/2020.acl-main.372}
}""",  # noqa: E501
    ),
}
_ORIGINAL = """@software{liminal-heartbeat,
  title = {LIMINAL Heartbeat: a recursive head for pleasure, arousal and dominance},
  author = {{Neurolab}},
  note = {MIT licence; the recursive head goes back to it}
}"""
_TRM = """@article{jolicoeur-martineau-2025-less,
  title = {Less is More: Recursive Reasoning with Tiny Networks},
  author = {Jolicoeur-Martineau, Alexia},
  journal = {arXiv preprint arXiv:2510.04871},
  year = {2025}
}"""


def run_facts(folder: str | Path) -> dict[str, Any]:
    """What a run recorded about itself: `metrics` from metrics.json and `recipe` from recipe.yaml.

    Args:
        folder: a run's folder, or the checkpoint `model` inside it.

    Returns:
        A dict with the keys that were found; it may be empty.

    Example:
        >>> run_facts("no-such-folder")
        {}
    """
    facts: dict[str, Any] = {}
    for home in (Path(folder), Path(folder).resolve().parent):
        if (home / "metrics.json").is_file():
            facts["metrics"] = json.loads((home / "metrics.json").read_text(encoding="utf-8"))
            if (home / "recipe.yaml").is_file():
                facts["recipe"] = yaml.safe_load((home / "recipe.yaml").read_text(encoding="utf-8"))
            break
    return facts


def build_card(config: LiminalConfig, facts: Mapping[str, Any] | None = None) -> ModelCard:
    """The model card of a checkpoint. Equal inputs give an equal card, to the byte.

    Args:
        config: the checkpoint's config.
        facts: what is known beyond it, every key optional: `repo_id`; `license` (a Hub id) and `tags`; `metrics` and
            `recipe`, as `fit` writes them (`metrics["intervals"][split][name]` being `[low, high]`);
            `encoder_license`; `weights_sha256`, a dict by file name; `hardware`; `co2_eq_emissions`, a dict with
            `emissions` in grams and `source`, only where it was measured.

    Returns:
        A `huggingface_hub.ModelCard`, with the results in its `model-index`.

    Example:
        >>> card = build_card(LiminalConfig(pooled_size=8), {"repo_id": "me/pad"})
        >>> card.data.pipeline_tag, "trust_remote_code=True" in card.text
        ('text-classification', True)
    """
    facts = dict(facts or {})
    metrics = facts.get("metrics", {})
    recipe = facts.get("recipe") or {}
    hub = recipe.get("hub") or {}
    repo_id = facts.get("repo_id") or hub.get("repo_id") or "OWNER/NAME"
    name = repo_id.split("/")[-1]
    corpora = _corpora(recipe)
    evaluations = _evaluations(metrics, recipe)
    encoder = config.encoder_name_or_path
    license_id = facts.get("license") or hub.get("license")
    card_data = ModelCardData(
        language="en" if corpora else None,
        license=license_id,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=encoder if _is_hub_id(encoder) else None,
        datasets=[corpus.hub_id for corpus in corpora if corpus.hub_id] or None,
        metrics=[identifier for identifier, _ in _METRICS.values()],
        tags=[
            *(
                "emotion",
                "affect",
                "valence-arousal-dominance",
                "pad-regression",
                "regression",
                "custom_code",
                "liminal",
            ),
            *sorted({*hub.get("tags", []), *facts.get("tags", [])}),
        ],
        model_name=name,
        eval_results=_eval_results(evaluations) or None,  # type: ignore[arg-type]
        co2_eq_emissions=facts.get("co2_eq_emissions"),
        weights_sha256=facts.get("weights_sha256"),
    )
    low, high = config.label_range
    spread_split = next(
        (split for split in ("test", "validation") if "sd_ratio_pleasure" in metrics.get(split, {})), None
    )
    return ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        config=config,
        name=name,
        repo_id=repo_id,
        requirement=REQUIREMENT,
        low=f"{low:g}",
        high=f"{high:g}",
        summary=_summary(config),
        max_length=config.max_seq_length,
        plugins=plugins(config),
        scale=_scale(recipe),
        label_mean=_numbers(config.label_mean),
        label_std=_numbers(config.label_std),
        uncertainty_scale=None if config.uncertainty_scale == [1.0] * 3 else _numbers(config.uncertainty_scale),
        percentiles=config.prediction_quantiles is not None,
        spread_split=spread_split,
        spread=spread_split and _numbers([metrics[spread_split][f"sd_ratio_{dimension}"] for dimension in DIMENSIONS]),
        evaluations=evaluations,
        measured_intervals=any(evaluation["intervals"] for evaluation in evaluations),
        encoder=_encoder(config),
        encoder_revision=f"`{config.encoder_revision}`" if config.encoder_revision else "not recorded",
        encoder_license=facts.get("encoder_license") or "not recorded",
        head=_head(config),
        soft_targets=_soft_targets(recipe),
        parameters=_parameters(metrics),
        seeds=_seeds(metrics, recipe),
        hardware=facts.get("hardware") or metrics.get("hardware") or metrics.get("device") or "not recorded",
        duration=f"{metrics['seconds']:.0f} s" if "seconds" in metrics else "not recorded",
        co2=_co2(facts.get("co2_eq_emissions")),
        versions=_versions(metrics),
        corpora=_data_lines(corpora, recipe, metrics),
        corpora_licenses=[f"{corpus.name} is {corpus.license}." for corpus in corpora],
        license_text=f"The weights are {license_id}." if license_id else "The weights' licence was not named.",
        language_limit=f"Trained on {'English sentences' if corpora else 'the texts of its publisher'}.",
        recipe=_recipe_text(recipe),
        citations=[*(corpus.citation for corpus in corpora), _ORIGINAL, _TRM],
    )  # fmt: skip


def plugins(config: LiminalConfig) -> list[tuple[str, str, str]]:
    """Head, pooler and loss that come from another distribution: (kind, name, "distribution==version").

    Example:
        >>> plugins(LiminalConfig(pooled_size=8))
        []
    """
    named = ((HEADS, config.head), (POOLERS, config.pooling), (LOSSES, config.loss))
    found = [(registry.kind, name, registry.plugin_distribution(name)) for registry, name in named if name is not None]
    return [(kind, name, distribution) for kind, name, distribution in found if distribution is not None]


def _is_hub_id(name: str | None) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name is not None and not Path(name).exists()


def _numbers(values: list[float]) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


def _summary(config: LiminalConfig) -> str:
    if config.head in ("linear", "mlp"):
        return f"A {config.head} head on {_encoder(config)}."
    return f"A recursive head refines its answer {config.num_outer_steps} times on top of {_encoder(config)}."


def _encoder(config: LiminalConfig) -> str:
    if config.text_config is None:
        return f"vectors of width {config.pooled_size} that the caller brings"
    name = config.encoder_name_or_path
    if _is_hub_id(name):
        return f"[{name}](https://huggingface.co/{name})"
    return f"an encoder of the {config.text_config.model_type} family"


def _head(config: LiminalConfig) -> str:
    layers = {"last": "the last layer", "mix": "a learned mix of all layers", "all": "all layers"}[config.pooled_layers]
    steps = f", {config.num_outer_steps} x {config.num_inner_steps} steps, latent size {config.latent_size}"
    return f"`{config.head}` on {layers}{'' if config.head in ('linear', 'mlp') else steps}"


def _scale(recipe: Mapping[str, Any]) -> str:
    data = recipe.get("data") or {}
    if data.get("dataset") == "emobank":
        return "Labels were given on 1 to 5 and mapped by (x - 3) / 2, so that 0 is neutral."
    if data.get("files"):
        low, high = data["scale"]
        return f"Labels were given on {low:g} to {high:g} and mapped linearly to -1 to 1, so that 0 is the middle."
    return "0 is the middle of the scale."


def _distill(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    return recipe.get("distill") or {}


def _corpora(recipe: Mapping[str, Any]) -> list[Corpus]:
    names = [(recipe.get("data") or {}).get("dataset")]
    names += [phase.get("objective") for phase in recipe.get("phases") or []]
    names.append(_distill(recipe).get("texts"))
    return [corpus for name, corpus in CORPORA.items() if name in names]


def _data_lines(corpora: list[Corpus], recipe: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    counts = dict(metrics.get("rows", {}))
    distill = _distill(recipe)
    # `fit` counts the texts that only teachers have labelled, too.
    unlabelled = distill["num_texts"] if distill.get("texts") else 0
    if unlabelled and "train" in counts:
        counts["train"] -= unlabelled
    rows = ", ".join(f"{split} {count}" for split, count in counts.items())
    rows = f"; rows: {rows}" if rows else ""
    lines = [f"[{corpus.name}]({corpus.url}), {corpus.license}" for corpus in corpora]
    if unlabelled:
        place = corpora.index(CORPORA[distill["texts"]])
        lines[place] += f"; {unlabelled} of its training texts, read by the teachers"
    files = (recipe.get("data") or {}).get("files")
    if files:
        lines.append(f"tables of the publisher ({', '.join(_file_name(path) for path in files.values())}){rows}")
    elif lines:
        # The corpus of the labels comes first, and the rows are its.
        lines[0] += rows
    return lines


def _evaluations(metrics: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    dataset = CORPORA[name].name if (name := (recipe.get("data") or {}).get("dataset")) in CORPORA else "own data"
    evaluations = []
    for split in ("test", "validation"):
        values = metrics.get(split)
        if not values:
            continue
        intervals = metrics.get("intervals", {}).get(split, {})
        table = [
            [dimension, *(_cell(values, intervals, f"{metric}_{dimension}") for metric in _METRICS)]
            for dimension in (*DIMENSIONS, "mean")
        ]
        rows = metrics.get("rows", {}).get(split, "unknown number of")
        evaluations.append(
            {"dataset": dataset, "split": split, "rows": rows, "table": table, "values": values, "intervals": intervals}
        )
    return evaluations


def _cell(values: Mapping[str, float], intervals: Mapping[str, list[float]], key: str) -> str:
    if key not in values:
        return ""
    # CCC, MAE and RMSE of near-zero labels need the fourth digit.
    text = f"{values[key]:.3f}" if key.startswith("pearson") else f"{values[key]:.4f}"
    return text + (f" [{intervals[key][0]:.3f}, {intervals[key][1]:.3f}]" if key in intervals else "")


def _eval_results(evaluations: list[dict[str, Any]]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-classification",
            task_name="regression of pleasure, arousal and dominance",
            dataset_type=evaluation["dataset"].lower().replace(" ", "-"),
            dataset_name=evaluation["dataset"],
            dataset_split=evaluation["split"],
            metric_type=identifier,
            metric_name=f"{title}, {dimension}",
            metric_value=round(evaluation["values"][f"{metric}_{dimension}"], 4),
            metric_args=(
                {"confidence_interval_95": [round(value, 4) for value in interval]}
                if (interval := evaluation["intervals"].get(f"{metric}_{dimension}"))
                else None
            ),
        )
        for evaluation in evaluations
        for metric, (identifier, title) in _METRICS.items()
        for dimension in (*DIMENSIONS, "mean")
        if f"{metric}_{dimension}" in evaluation["values"]
    ]


def _parameters(metrics: Mapping[str, Any]) -> str:
    if "parameters" not in metrics:
        return "not recorded"
    return f"{metrics['parameters']:,}, of which {metrics['head_parameters']:,} in the head"


def _seeds(metrics: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    seeds = [metrics.get("seed", recipe.get("seed"))]
    for phase in metrics.get("phases", []):
        seeds += phase["seed"] if isinstance(phase["seed"], list) else [phase["seed"]]
    known = sorted({seed for seed in seeds if seed is not None})
    return ", ".join(str(seed) for seed in known) or "not recorded"


def _versions(metrics: Mapping[str, Any]) -> str:
    versions = sorted(metrics.get("versions", {}).items())
    return ", ".join(f"{package} {version}" for package, version in versions) or "not recorded"


def _co2(emissions: Mapping[str, Any] | None) -> str:
    return "not measured" if not emissions else f"{emissions['emissions']:g} g, measured with {emissions['source']}"


def _recipe_text(recipe: Mapping[str, Any]) -> str:
    # Where it is pushed to is not part of how it was trained.
    kept = {key: value for key, value in recipe.items() if key != "hub"}
    if _distill(recipe):
        kept["distill"] = {**kept["distill"], "teachers": _teachers(recipe)}
    return yaml.safe_dump(_without_folders(kept), sort_keys=False, allow_unicode=True).strip() if kept else ""


def _teachers(recipe: Mapping[str, Any]) -> list[str]:
    """The runs that the teachers come from: `fit` leaves a checkpoint in RUN/model, and `model` alone says nothing."""
    paths = [PureWindowsPath(path) for path in _distill(recipe).get("teachers", [])]
    return [path.parent.name if path.name == "model" else path.name for path in paths]


def _soft_targets(recipe: Mapping[str, Any]) -> str:
    names = _teachers(recipe)
    if not names:
        return ""
    counted = [name if number == 1 else f"{name} ({number} times)" for name, number in Counter(names).items()]
    spread = ", spread as the labels are" if _distill(recipe).get("stretch") else ""
    return f"{_distill(recipe)['weight']:.0%} of the target is the mean of {', '.join(counted)}{spread}"


def _without_folders(value: Any) -> Any:
    """Absolute paths are shortened to the file's name: a folder of one machine means nothing elsewhere."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return _file_name(value) if isinstance(value, str) else value


def _file_name(value: str) -> str:
    # A Windows path also reads POSIX ones.
    path = PureWindowsPath(value)
    return path.name if path.root else value
