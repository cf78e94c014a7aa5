"""What the tests of training share: a tiny encoder with a tokenizer, tables to train on, a recipe for both."""

import importlib
import itertools
import os
import random
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import VOCABULARY, tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from liminal_hf.inference import read
from liminal_hf.modeling.encoders import build_encoder
from liminal_hf.training.fit import fit
from liminal_hf.training.recipe import Recipe

WORDS = [f"w{number}" for number in range(VOCABULARY - 4)]


def encoder_with_tokenizer(folder: Path, family: str = "bert") -> Path:
    """A saved encoder of two layers with random weights, and a tokenizer of one token per word."""
    torch.manual_seed(0)
    encoder = build_encoder(tiny_config(family))
    # Each word's number, on which its label depends, can be read from its embedding.
    with torch.no_grad():
        weight = encoder.get_input_embeddings().weight.normal_()
        weight[:, :8] = torch.linspace(-3, 3, len(weight))[:, None]
    encoder.save_pretrained(folder)
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **{word: 4 + place for place, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if family not in ("gpt2", "llama", "qwen3"):  # as their own tokenizers come: without a padding token
        special["pad_token"] = "<pad>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special).save_pretrained(folder)
    return folder


def texts_and_labels(number: int, seed: int) -> list[tuple[str, list[float]]]:
    """Texts whose words say what their labels are, on a scale of 1 to 5."""
    chance = random.Random(seed)
    rows = []
    for _ in range(number):
        words = [chance.randrange(len(WORDS)) for _ in range(chance.randint(2, 12))]
        mean = sum(words) / len(words) / len(WORDS)
        first = words[0] / len(WORDS)
        labels = [1 + 4 * value for value in (mean, (mean + first) / 2, 1 - mean)]
        rows.append((" ".join(WORDS[word] for word in words), labels))
    return rows


def tables(folder: Path, train: int = 48, missing: bool = False) -> dict[str, str]:
    """Three CSV files, by split."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for seed, (split, number) in enumerate((("train", train), ("validation", 24), ("test", 24))):
        path = folder / f"{split}.csv"
        lines = ["text,V,A,D"]
        for row, (text, labels) in enumerate(texts_and_labels(number, seed)):
            cells = [f"{label:.4f}" for label in labels]
            if missing:
                cells[row % 3] = ""
            lines.append(",".join([text, *cells]))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files[split] = str(path)
    return files


def small_recipe(folder: Path, family: str = "bert", **changes: Any) -> Recipe:
    """A recipe of one frozen phase on a tiny encoder; `changes` by dotted key, with __ for the dot."""
    content: dict[str, Any] = {
        "name": "small",
        "model": {
            "encoder": str(encoder_with_tokenizer(folder / f"encoder-{family}", family)),
            "head": "v7",
            "latent_size": 16,
            "num_outer_steps": 2,
            "head_dropout": 0.2,
            "pooling": "mean",
            "pooled_layers": "all",
        },
        "data": {"files": tables(folder / "tables"), "max_length": 32},
        "phases": [phase("head", trainable="head", cache=True)],
    }
    return Recipe.from_dict(content).override({key.replace("__", "."): value for key, value in changes.items()})


def phase(name: str, epochs: int = 3, training: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A phase that takes a second or two."""
    settings = {
        "num_train_epochs": epochs,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return {"name": name, "ema_decay": 0.9, **fields, "training": {**settings, **(training or {})}}


def predict_texts(model: Any, tokenizer: Any, texts: list[str]) -> np.ndarray:
    """The predictions in label units, `(texts, targets)` float64."""
    return read(model, tokenizer, texts)["logits"].astype(np.float64)


def same_weights(one: Any, other: Any) -> bool:
    """Whether two models are equal bit by bit."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def fit_and_die(recipe: str, folder: str, moment: tuple[str, str, int, str], max_bytes: int | None) -> None:
    """Runs `fit` and kills its process, with no chance to clean up, at the n-th call of a function.

    Args:
        moment: module, function in it, n, and whether it is "before" or "after" that call.
        max_bytes: no file may grow beyond this; None leaves the disk as it is.
    """
    if max_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, resource.RLIM_INFINITY))
    module, names, number, side = moment
    owner: Any = importlib.import_module(module)
    *path, name = names.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), itertools.count(1)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        last = next(calls) == number
        if last and side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)
    fit(recipe, folder)
