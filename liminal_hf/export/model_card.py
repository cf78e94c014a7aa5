"""The model card of a checkpoint, from a template and from what its run recorded; nothing in it is typed by hand.

Requires huggingface_hub, PyYAML and Jinja2 (which torch brings).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..modeling.configuration_liminal import LiminalConfig
from ..modeling.heads import HEADS
from ..modeling.losses import LOSSES
from ..modeling.pooling import POOLERS

TEMPLATE = Path(__file__).parent / "model_card_template.md"
# What a stranger needs beside torch; the same range as in pyproject.toml.
REQUIREMENT = "transformers>=5.16,<6"
TAGS = ("emotion", "affect", "valence-arousal-dominance", "pad-regression", "regression", "custom_code", "liminal")
_METRICS = {
    "pearson": ("pearsonr", "Pearson r"),
    "ccc": ("ccc", "concordance correlation coefficient"),
    "mae": ("mae", "mean absolute error"),
    "rmse": ("rmse", "root mean square error"),
}
# What a card says of the metrics of a run; the log of each phase stays in the run's folder.
_RECORDED = (
    *("test", "validation", "intervals", "rows", "seed", "seeds", "parameters", "head_parameters", "seconds"),
    *("hardware", "device", "versions"),
)


@dataclass(frozen=True)
class Corpus:
    """What a card says about a corpus, as its authors say it; the template has its citation."""

    name: str
    url: str
    license: str
    license_id: str  # the Hub's name of the licence
    hub_id: str | None = None  # the authors' own repository on the Hub
    # The highest Pearson r that the agreement of its raters allows, by target and for the mean.
    ceiling: Mapping[str, float] | None = None


CORPORA = {
    "emobank": Corpus(
        name="EmoBank",
        url="https://github.com/JULIELab/EmoBank",
        license="CC BY-SA 4.0",
        license_id="cc-by-sa-4.0",
        # Of `liminal_hf.data.emobank.HUMAN_CEILING`.
        ceiling={"pleasure": 0.895, "arousal": 0.680, "dominance": 0.640, "mean": 0.738},
    ),
    "goemotions": Corpus(
        name="GoEmotions",
        url="https://github.com/google-research/google-research/tree/master/goemotions",
        license="Apache 2.0",
        license_id="apache-2.0",
        hub_id="google-research-datasets/go_emotions",
    ),
}


def portable_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What may travel of what a run recorded: no folder of this machine, no log of a phase, no NaN.

    Args:
        facts: as for `build_card`.

    Returns:
        The same facts, shortened, as plain values for JSON.

    Example:
        >>> portable_facts({"metrics": {"seed": 1, "phases": [], "test": {"ccc_mean": float("nan")}}, "data": "/a/x"})
        {'metrics': {'test': {'ccc_mean': None}, 'seed': 1}, 'data': 'x'}
    """
    facts = dict(facts)
    if metrics := facts.get("metrics"):
        seeds = [metrics.get("seed"), *(metrics.get("seeds") or [])]
        for phase in metrics.get("phases") or []:
            seeds += phase["seed"] if isinstance(phase["seed"], list) else [phase["seed"]]
        distinct = sorted({seed for seed in seeds if seed is not None})
        if distinct and distinct != [metrics.get("seed")]:
            metrics = {**metrics, "seeds": distinct}
        facts["metrics"] = {key: metrics[key] for key in _RECORDED if key in metrics}
    if (distill := _section(facts, "distill")).get("teachers"):
        # `fit` leaves a checkpoint in RUN/model, and `model` alone says nothing.
        paths = [PureWindowsPath(path) for path in distill["teachers"]]
        names = [path.parent.name if path.name == "model" else path.name for path in paths]
        facts["recipe"] = {**facts["recipe"], "distill": {**distill, "teachers": names}}
    return {key: value if key == "repo_id" else _portable(value) for key, value in facts.items()}


def run_facts(folder: str | Path) -> dict[str, Any]:
    """What a run recorded about itself: `metrics` from metrics.json and `recipe` from recipe.yaml.

    Args:
        folder: a run's folder, or the checkpoint `model` inside it.

    Returns:
        A dict with the keys that were found, as `portable_facts` makes it; it may be empty.

    Example:
        >>> run_facts("no-such-folder")
        {}
    """
    homes = (Path(folder), Path(folder).resolve().parent)
    home = next((home for home in homes if (home / "metrics.json").is_file()), None)
    if home is None:
        return {}
    facts = {"metrics": json.loads((home / "metrics.json").read_text(encoding="utf-8"))}
    if (home / "recipe.yaml").is_file():
        facts["recipe"] = yaml.safe_load((home / "recipe.yaml").read_text(encoding="utf-8"))
    return portable_facts(facts)


def build_card(config: LiminalConfig, facts: Mapping[str, Any] | None = None) -> ModelCard:
    """The model card of a checkpoint. Equal inputs give an equal card, to the byte.

    Args:
        config: the checkpoint's config.
        facts: what is known beyond it, every key optional: `repo_id`, `name`; `license` (a Hub id), `language`,
            `datasets` (Hub ids) and `tags`; `metrics` and `recipe`, as `fit` writes them
            (`metrics["intervals"][split][name]` being `[low, high]`); `human_ceiling`, Pearson r by target;
            `encoder_license`; `weights_sha256`, a dict by file name; `hardware`; `co2_eq_emissions`, a dict with
            `emissions` in grams and `source`, only where it was measured. For a checkpoint that was trained further:
            `base_model`, its name; `base`, its facts; `trained_on`, a dict with `name` and `rows`. `form`: "hub"
            (default), "adapter" (of PEFT, on `base_model`) or "onnx", and for that `onnx`, a dict with `memory`,
            `int8`, `token_type_ids` and `stages`, each True or False.

    Returns:
        A `huggingface_hub.ModelCard`, with the results in its `model-index`.

    Example:
        >>> card = build_card(LiminalConfig(pooled_size=8), {"repo_id": "me/pad"})
        >>> card.data.pipeline_tag, "trust_remote_code=True" in card.text
        ('text-classification', True)
    """
    facts = portable_facts(facts or {})
    base = facts.get("base") or {}
    metrics, recipe = facts.get("metrics") or {}, facts.get("recipe") or {}
    given_id = facts.get("repo_id") or _section(facts, "hub").get("repo_id")
    name = facts.get("name") or (given_id or "NAME").split("/")[-1]
    repo_id = given_id or f"OWNER/{name}"
    form = facts.get("form", "hub")
    corpora = _corpora(facts)
    evaluations = _evaluations(facts)
    license_id = inherited_fact(facts, "license")
    encoder = config.encoder_name_or_path
    base_model = facts.get("base_model") or (encoder if _is_hub_id(encoder) else None)
    relation = {"adapter": "adapter"}.get(form, "finetune") if facts.get("base_model") else None
    if form == "onnx":
        base_model, relation = facts.get("repo_id") or facts.get("name") or base_model, "quantized"
    # Figures of the weights before they were rounded are no figures of this file.
    rounded = form == "onnx" and facts["onnx"]["int8"]
    card_data = ModelCardData(
        language=inherited_fact(facts, "language") or ("en" if corpora else None),
        license=license_id,
        library_name={"adapter": "peft", "onnx": "onnx"}.get(form, "transformers"),
        pipeline_tag="text-classification",
        base_model=base_model,
        base_model_relation=relation,
        datasets=_datasets(facts) or None,
        metrics=[identifier for identifier, _ in _METRICS.values()],
        tags=[*(tag for tag in TAGS if tag != "custom_code" or form != "onnx"), *sorted(_tags(facts))],
        model_name=name,
        eval_results=None if rounded else _eval_results(evaluations, config.targets) or None,  # type: ignore[arg-type]
        co2_eq_emissions=facts.get("co2_eq_emissions"),
        weights_sha256=facts.get("weights_sha256"),
    )
    # Where it is pushed to is not part of how it was trained.
    trained = {key: value for key, value in recipe.items() if key != "hub"}
    measured: dict[str, Any] = next((metrics[split] for split in ("test", "validation") if metrics.get(split)), {})
    return ModelCard.from_template(
        card_data,
        template_path=str(TEMPLATE),
        config=config,
        facts=facts,
        base=base,
        name=name,
        repo_id=repo_id,
        form=form,
        requirement=REQUIREMENT,
        license_id=license_id,
        metrics=metrics,
        spread={name: measured[key] for name in config.targets if (key := f"sd_ratio_{name}") in measured},
        untrained=[name for name, trained in zip(config.targets, config.trained_targets, strict=True) if not trained],
        plugins=plugins(config),
        encoder_link=_is_hub_id(encoder),
        encoder_license=facts.get("encoder_license") or base.get("encoder_license"),
        rounded=rounded,
        evaluations=evaluations,
        base_evaluations=_evaluations(base),
        ceiling=inherited_fact(facts, "human_ceiling")
        or next((c.ceiling for c in corpora.values() if c.ceiling), None),
        data_recipe=_section(facts, "data") or _section(base, "data"),
        distill=_section(facts, "distill") or _section(base, "distill"),
        data_lines=_data_lines(facts),
        base_lines=_data_lines(base) if base else [],
        corpora=corpora,
        recipe=yaml.safe_dump(trained, sort_keys=False, allow_unicode=True).strip() if trained else "",
    )


def _section(facts: Mapping[str, Any], name: str) -> Any:
    """A section of the recipe; empty where there is none."""
    return (facts.get("recipe") or {}).get(name) or {}


def plugins(config: LiminalConfig) -> list[tuple[str, str, str]]:
    """Head, pooler and loss that come from another distribution: (kind, name, "distribution==version").

    Example:
        >>> plugins(LiminalConfig(pooled_size=8))
        []
    """
    named = ((HEADS, config.head), (POOLERS, config.pooling), (LOSSES, config.loss))
    parts = [(registry.kind, name, registry.plugin_distribution(name)) for registry, name in named if name is not None]
    return [(kind, name, distribution) for kind, name, distribution in parts if distribution is not None]


def inherited_fact(facts: Mapping[str, Any], key: str) -> Any:
    """A fact of a checkpoint, of its recipe's `hub`, or else of its base."""
    own = facts.get(key) or _section(facts, "hub").get(key)
    return own or (inherited_fact(facts["base"], key) if facts.get("base") else None)


def _tags(facts: Mapping[str, Any]) -> set[str]:
    inherited = _tags(facts["base"]) if facts.get("base") else ()
    return {*_section(facts, "hub").get("tags", []), *facts.get("tags", []), *inherited}


def _corpora(facts: Mapping[str, Any]) -> dict[str, Corpus]:
    """The corpora that a checkpoint or its base was trained on, by their names in a recipe."""
    names = [_section(facts, "data").get("dataset"), _section(facts, "distill").get("texts")]
    names += [phase.get("objective") for phase in _section(facts, "phases")]
    names += _corpora(facts["base"]) if facts.get("base") else []
    return {name: corpus for name, corpus in CORPORA.items() if name in names}


def _datasets(facts: Mapping[str, Any]) -> list[str]:
    own = [corpus.hub_id for corpus in _corpora(facts).values() if corpus.hub_id]
    return list(dict.fromkeys([*own, *(inherited_fact(facts, "datasets") or [])]))


def _is_hub_id(name: str | None) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name is not None and not Path(name).exists()


def _data_lines(facts: Mapping[str, Any]) -> list[str]:
    """A line for each corpus or table that a checkpoint itself was trained on."""
    trained_on, distill = facts.get("trained_on") or {}, _section(facts, "distill")
    counts = dict((facts.get("metrics") or {}).get("rows") or trained_on.get("rows") or {})
    # `fit` counts the texts that only teachers have labelled, too; earlier runs do not say how many these are.
    unlabelled = counts.pop("unlabelled", distill["num_texts"] if distill.get("texts") else 0)
    if unlabelled and "train" in counts:
        counts["train"] -= unlabelled
    rows = "; rows: " + ", ".join(f"{split} {count}" for split, count in counts.items()) if counts else ""
    corpora = _corpora({"recipe": facts.get("recipe")})
    lines = {name: f"[{corpus.name}]({corpus.url}), {corpus.license}" for name, corpus in corpora.items()}
    if unlabelled and distill.get("files"):
        sources = [*(CORPORA[name].name for name in [distill.get("texts")] if name), *distill["files"]]
        lines["unlabelled"] = f"{unlabelled} texts without labels of {', '.join(sources)}, read by the teachers"
    elif unlabelled:
        lines[distill["texts"]] += f"; {unlabelled} of its training texts, read by the teachers"
    if files := _section(facts, "data").get("files"):
        return [*lines.values(), f"tables of the publisher ({', '.join(files.values())}){rows}"]
    if lines:
        # The corpus of the labels comes first, and the rows are its.
        lines[next(iter(lines))] += rows
    elif counts:
        return [f"{trained_on.get('name') or 'data of the publisher'}{rows}"]
    return list(lines.values())


def _evaluations(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    metrics, corpus = facts.get("metrics") or {}, CORPORA.get(_section(facts, "data").get("dataset") or "")
    dataset = corpus.name if corpus else "own data"
    evaluations = []
    for split in ("test", "validation"):
        # A target without labels has no figures; NaN and None stay out.
        values = {key: value for key, value in (metrics.get(split) or {}).items() if _is_finite(value)}
        if not values:
            continue
        intervals = (metrics.get("intervals") or {}).get(split) or {}
        intervals = {key: interval for key, interval in intervals.items() if all(map(_is_finite, interval))}
        about = {
            "dataset": dataset,
            "split": split,
            "rows": (metrics.get("rows") or {}).get(split, "unknown number of"),
        }
        evaluations.append({**about, "values": values, "intervals": intervals})
    return evaluations


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _eval_results(evaluations: list[dict[str, Any]], targets: list[str]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-classification",
            task_name=f"regression of {', '.join(targets)}",
            dataset_type=evaluation["dataset"].lower().replace(" ", "-"),
            dataset_name=evaluation["dataset"],
            dataset_split=evaluation["split"],
            metric_type=identifier,
            metric_name=f"{title}, {target}",
            metric_value=round(evaluation["values"][key], 4),
            metric_args=(
                {"confidence_interval_95": [round(value, 4) for value in interval]}
                if (interval := evaluation["intervals"].get(key))
                else None
            ),
        )
        for evaluation in evaluations
        for metric, (identifier, title) in _METRICS.items()
        for target in (*targets, "mean")
        if (key := f"{metric}_{target}") in evaluation["values"]
    ]


def _portable(value: Any) -> Any:
    """Absolute paths are shortened to the file's name, and numbers that JSON does not have are None."""
    if isinstance(value, Mapping):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        # A Windows path also reads POSIX ones.
        path = PureWindowsPath(value)
        return path.name if path.root else value
    return value
