"""The peers that `benchmark.py` trains by other means than our recipe, and the original's leak.

Requires liminal_hf with its benchmark extra. Each function takes the splits `train`, `validation` and `test`, and
returns what is predicted for the latter two, `(rows, 3)` in label units.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from liminal_hf import LiminalConfig, LiminalForPADRegression
from liminal_hf.data.pooled_cache import COLUMN
from liminal_hf.io import atomic_folder
from liminal_hf.metrics import compute_metrics, pearson
from liminal_hf.modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL
from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.training.callbacks import ManifestCallback, last_checkpoint
from liminal_hf.training.distillation import add_unlabelled, soft_labels
from liminal_hf.training.fit import training_arguments
from liminal_hf.training.recipe import Recipe
from liminal_hf.training.trainer import LiminalTrainer

Array = NDArray[np.float64]
# Predictions by split; how many parameters were fitted, where that can be counted; what was chosen on dev.
Simple = tuple[dict[str, Array], int | None, dict[str, float]]
HELD_OUT = ("validation", "test")
ALPHAS = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
PENALTIES = (0.1, 0.3, 1.0, 3.0)
# The usual fine-tune: three epochs with a warm-up, evaluated each, the best by the development split kept.
PLAIN: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "train_sampling_strategy": "group_by_length",
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "pearson_mean",
    "greater_is_better": True,
    "logging_strategy": "epoch",
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


def constant(labels: Mapping[str, Array]) -> Simple:
    """The mean of the training labels."""
    mean = np.ma.masked_equal(labels["train"], MISSING_LABEL).mean(axis=0).filled(0.0)
    return {split: np.tile(mean, (len(labels[split]), 1)) for split in HELD_OUT}, 3, {}


def compound(texts: Sequence[str]) -> Array:
    """VADER's compound score of each text (Hutto & Gilbert 2014), -1..1."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts])


def vader(texts: Mapping[str, Sequence[str]], labels: Mapping[str, Array]) -> Simple:
    """VADER's compound score, brought to pleasure's scale on train; NaN for the other two."""
    found = {split: compound(rows) for split, rows in texts.items()}
    target = labels["train"][:, 0]
    known = target != MISSING_LABEL
    slope, intercept = np.polyfit(found["train"][known], target[known], 1)
    made = {split: np.full(labels[split].shape, np.nan) for split in HELD_OUT}
    for split, values in made.items():
        values[:, 0] = slope * found[split] + intercept
    return made, None, {}


def ridge(features: Mapping[str, Array], labels: Mapping[str, Array]) -> Simple:
    """scikit-learn's ridge on features `(rows, width)` with a root mean square of 1."""
    from sklearn.linear_model import Ridge

    def fitted(alpha: float, target: Array, rows: NDArray[np.bool_]) -> Callable[[str], Array]:
        model = Ridge(alpha=alpha, solver="cholesky").fit(features["train"][rows], target)
        return lambda split: model.predict(features[split])

    made, chosen = _chosen_on_dev(fitted, ALPHAS, labels)
    return made, 3 * features["train"].shape[1] + 3, chosen


def svr(features: Mapping[str, Array], labels: Mapping[str, Array]) -> Simple:
    """scikit-learn's support vector regression with a radial kernel, on features as for `ridge`."""
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.svm import SVR

    # scikit-learn's gamma="scale"; the kernel once, for three dimensions and every C.
    gamma = 1 / (features["train"].shape[1] * features["train"].var())
    kernels = {split: rbf_kernel(values, features["train"], gamma) for split, values in features.items()}

    def fitted(penalty: float, target: Array, rows: NDArray[np.bool_]) -> Callable[[str], Array]:
        mean, deviation = target.mean(), target.std()
        # epsilon is in units of the labels' standard deviation, too.
        model = SVR(kernel="precomputed", C=penalty, epsilon=0.3, cache_size=500)
        model.fit(kernels["train"][np.ix_(rows, rows)], (target - mean) / deviation)
        return lambda split: model.predict(kernels[split][:, rows]) * deviation + mean

    made, chosen = _chosen_on_dev(fitted, PENALTIES, labels)
    return made, None, chosen


def _chosen_on_dev(
    fitted: Callable[[float, Array, NDArray[np.bool_]], Callable[[str], Array]],
    settings: Sequence[float],
    labels: Mapping[str, Array],
) -> tuple[dict[str, Array], dict[str, float]]:
    """Fits one model for each dimension and setting, and takes the setting with the best r on dev."""
    made = {split: np.empty(labels[split].shape) for split in HELD_OUT}
    chosen = {}
    for place, dimension in enumerate(DIMENSIONS):
        target = labels["train"][:, place]
        rows = target != MISSING_LABEL
        gold = labels["validation"][:, [place]]
        models = {setting: fitted(setting, target[rows], rows) for setting in settings}
        scores = {s: pearson(model("validation")[:, None], gold)[0] for s, model in models.items()}
        chosen[dimension] = max(scores, key=lambda setting: scores[setting])
        for split in HELD_OUT:
            made[split][:, place] = models[chosen[dimension]](split)
    return made, chosen


def plain(
    recipe: Recipe, corpus: DatasetDict, training: Mapping[str, Any], seed: int, folder: Path
) -> tuple[dict[str, Array], int]:
    """`AutoModelForSequenceClassification` with three outputs, fine-tuned by transformers' own Trainer.

    Args:
        recipe: says the encoder and the length of texts, and whether the model learns from teachers, as `fit` does;
            nothing else of it is used.
        corpus: the splits; labels in -1..1, none missing.
        training: `TrainingArguments` over `PLAIN`, such as `learning_rate`.
        seed: seeds the classifier, the order of the data and dropout.
        folder: for the Trainer's checkpoints, from which a run that was cut off goes on, and for the model, with its
            tokenizer in `folder / "model"`.

    Returns:
        Predictions `(rows, 3)` by split, and how many parameters the classifier has.
    """
    set_seed(seed)
    source, revision = resolve_encoder(recipe.model["encoder"], recipe.model.get("revision"))
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, revision=revision, num_labels=3, problem_type="regression"
    )

    def tokens(rows: Dataset) -> Dataset:
        def encoded(batch: dict[str, list[Any]]) -> Any:
            return tokenizer(batch["text"], truncation=True, max_length=recipe.data.max_length)

        found = rows.select_columns(["text", "labels"]).map(encoded, batched=True, remove_columns=["text"])
        return found.add_column("length", [len(ids) for ids in found["input_ids"][:]])

    if recipe.distill:
        train = corpus["train"].select_columns(["text", "labels"])
        train = add_unlabelled(train, recipe.distill, text=recipe.data.text)
        labels = soft_labels(train, recipe.distill, recipe.data.max_length, folder / "taught.safetensors")
        train = train.remove_columns("labels").add_column("labels", labels)
        corpus = DatasetDict({**corpus, "train": train})
    splits = {name: tokens(rows) for name, rows in corpus.items()}
    trainer = Trainer(
        model,
        TrainingArguments(output_dir=str(folder), seed=seed, data_seed=seed, **{**PLAIN, **training}),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        callbacks=[ManifestCallback()],
    )
    last = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    with atomic_folder(folder / "model") as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    trainer.args.train_sampling_strategy = "random"  # else predictions would come in another order than the rows
    made = {name: np.asarray(trainer.predict(splits[name]).predictions, dtype=np.float64) for name in HELD_OUT}
    inner = {id(value) for value in model.base_model.parameters()}
    return made, sum(value.numel() for value in model.parameters() if id(value) not in inner)


def sentence_embeddings(recipe: Recipe, texts: Mapping[str, Sequence[str]]) -> dict[str, Array]:
    """What sentence-transformers' `encode` gives, by split: the usual features for a scikit-learn model."""
    from sentence_transformers import SentenceTransformer

    source, revision = resolve_encoder(recipe.model["encoder"], recipe.model.get("revision"))
    model = SentenceTransformer(source, revision=revision, device="cpu")
    return {name: np.asarray(model.encode(list(rows), batch_size=64), dtype=np.float64) for name, rows in texts.items()}


def leaking(
    recipe: Recipe, states: Mapping[str, Array], labels: Mapping[str, Array], told: bool, seed: int, folder: Path
) -> tuple[dict[str, Array], int]:
    """The original's fault, rebuilt: the labels are given to the model as affect while it learns.

    Args:
        recipe: its model's fields and its last phase, on the frozen encoder.
        states, labels: the encoder's pooled states `(rows, width)` and the labels `(rows, 3)`, by split.
        told: whether the labels are given when it predicts, too, as the original did to measure itself.
        seed: seeds the head, the order of the data and dropout.
        folder: for the Trainer's checkpoints.

    Returns:
        Predictions `(rows, 3)` by split, and how many parameters the head has.
    """
    set_seed(seed)
    of_encoder = ("encoder", "revision", "pooling", "pooled_layers")
    fields = {name: value for name, value in recipe.model.items() if name not in of_encoder}
    train = labels["train"]
    model = LiminalForPADRegression(
        LiminalConfig(
            text_config=None,
            pooled_size=states["train"].shape[1],
            pooled_scale=float(1 / np.sqrt(np.square(states["train"], dtype=np.float64).mean())),
            label_mean=train.mean(axis=0).tolist(),
            label_std=train.std(axis=0).tolist(),
            **fields,
        )
    )
    splits = {
        name: Dataset.from_dict(
            {COLUMN: rows.astype(np.float32), "labels": labels[name].astype(np.float32)}
            | {"affect": labels[name].astype(np.float32)}
        ).with_format("torch")
        for name, rows in states.items()
    }
    phase = recipe.phases[-1]
    phase.training["disable_tqdm"] = True
    trainer = LiminalTrainer(
        model,
        training_arguments(phase, folder, seed),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=default_data_collator,
    )
    trainer.train()
    model.eval()
    made = {}
    with torch.inference_mode():
        for name in HELD_OUT:
            given = {"pooled_embeds": torch.as_tensor(states[name], dtype=torch.float32)}
            if told:
                given["affect"] = torch.as_tensor(labels[name], dtype=torch.float32)
            made[name] = model(**given).logits.double().numpy()
    return made, sum(value.numel() for value in model.liminal.head.parameters())
