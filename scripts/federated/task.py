"""What the clients and the server of the federation share: rows, partitions, the model, what travels, local training.

Requires liminal_hf; peft for adapters, opacus for `noise-text` (`pip install 'liminal_hf[federated]'`).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import DatasetDict
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from liminal_hf import LiminalConfig, LiminalForPADRegression, PersonMemory
from liminal_hf.adapters import lora_config
from liminal_hf.data import load_emobank, pooled_dataset
from liminal_hf.metrics import pearson
from liminal_hf.training.inputs import load_tokenizer
from liminal_hf.training.recipe import Recipe

Config = Mapping[str, Any]
Indices = NDArray[np.int64]
PERSONS = "persons"  # under this name a client keeps its persons' levels; no message has it
WARMUP = 0.05


# ---- data ----


def prepare(recipe: str | Path, folder: Path, most: int | None = None) -> None:
    """Writes what a simulation reads: states of EmoBank's texts (of `most` of them), labels, documents, genres."""
    if (folder / "model.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    settings = Recipe.from_yaml(recipe)
    fields = dict(settings.model)
    encoder, revision = fields.pop("encoder"), fields.pop("revision", None)
    model = LiminalForPADRegression.from_encoder_pretrained(encoder, revision, **fields)
    splits = load_emobank(extras=True)
    if most is not None:
        splits = DatasetDict({name: rows.select(spread(len(rows), most)) for name, rows in splits.items()})
    pooled = pooled_dataset(model, load_tokenizer(encoder, revision), splits, max_length=settings.data.max_length)
    for split, rows in pooled.items():
        np.save(folder / f"{split}-states.npy", np.asarray(rows.with_format("numpy")["pooled_embeds"][:], np.float32))
        np.save(folder / f"{split}-labels.npy", np.asarray(rows["labels"][:], np.float32))
        groups = [np.unique([str(v) for v in rows[name][:]], return_inverse=True)[1] for name in ("document", "genre")]
        np.save(folder / f"{split}-groups.npy", np.stack(groups, axis=1))
    about = {"encoder": encoder, "revision": revision, "fields": fields, "pooled_size": model.liminal.pooled_size}
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")


def spread(rows: int, most: int) -> Indices:
    """`most` rows, evenly from all of them."""
    return np.unique(np.linspace(0, rows - 1, most).astype(np.int64))


def partition(kind: str, groups: Indices, clients: int, seed: int) -> list[Indices]:
    """The rows of each client.

    Args:
        kind: "iid"; "document", whole documents, the next one to the smallest client; or "genre", rows sorted by genre
            and cut into equal parts, so that a client has one or two genres (McMahan et al. 2017, section 3).
        groups: `(rows, 2)`, document and genre.
        clients: how many.
        seed: of the order of rows, documents and genres.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(groups))
    if kind == "iid":
        return np.array_split(order, clients)
    if kind == "genre":
        place = draw.permutation(groups[:, 1].max() + 1)
        return np.array_split(order[np.argsort(place[groups[order, 1]], kind="stable")], clients)
    if kind != "document":
        raise ValueError(f"partition must be iid, document or genre, got {kind!r}.")
    names, sizes = np.unique(groups[:, 0], return_counts=True)
    shuffled = draw.permutation(len(names))
    parts: list[list[int]] = [[] for _ in range(clients)]
    for index in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        min(parts, key=len).extend(np.flatnonzero(groups[:, 0] == names[index]).tolist())
    return [np.array(part, np.int64) for part in parts]


@dataclass
class Rows:
    """The rows of one client, or of a split that the server holds: states, or texts where adapters are trained."""

    labels: Tensor  # (rows, 3)
    persons: Indices  # (rows,); in EmoBank the document stands for the person
    states: Tensor | None = None  # (rows, pooled size)
    texts: list[str] | None = None
    tokenizer: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, chosen: Any) -> dict[str, Tensor]:
        """What the model's `forward` takes."""
        if self.texts is None:
            assert self.states is not None
            return {"pooled_embeds": self.states[chosen], "labels": self.labels[chosen]}
        texts = [self.texts[int(index)] for index in torch.arange(len(self))[chosen]]
        tokens = self.tokenizer(texts, truncation=True, max_length=128, padding=True, return_tensors="pt")
        return {**tokens, "labels": self.labels[chosen]}


def read_rows(config: Config, split: str = "train", of: int | None = None) -> Rows:
    """The rows of client `of`, and no other's; without it, the whole split."""
    folder = Path(config["data"])
    groups = np.load(folder / f"{split}-groups.npy")
    chosen: Any = slice(None)
    if of is not None:
        chosen = np.sort(partition(config["partition"], groups, config["clients"], config["seed"])[of])
    arrays = [np.load(folder / f"{split}-{name}.npy", mmap_mode="r")[chosen] for name in ("labels", "states")]
    labels, states = (torch.from_numpy(np.array(one)) for one in arrays)
    rows = Rows(labels, groups[chosen, 0], states)
    if config["rank"]:
        about = _about(config)
        rows.texts = list(load_emobank()[split].select(np.arange(len(groups))[chosen])["text"][:])
        rows.tokenizer = load_tokenizer(about["encoder"], about["revision"])
    return rows


# ---- statistics ----


def sums(rows: Rows) -> dict[str, Any]:
    """What a client tells of its data before the first round: sums, no row. The server makes `statistics` of them."""
    y, x = rows.labels.double(), rows.states
    assert x is not None
    square = float(x.double().square().mean(dim=1).sum())
    return {"rows": len(y), "labels": y.sum(0).tolist(), "squares": y.square().sum(0).tolist(), "states": square}


def statistics(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and deviation of all labels and the factor on the states, as `fit` measures them on one machine."""
    total = sum(part["rows"] for part in parts)
    mean, square = (np.sum([part[name] for part in parts], axis=0) / total for name in ("labels", "squares"))
    scale = math.sqrt(total / sum(part["states"] for part in parts))
    return {"label_mean": mean.tolist(), "label_std": np.sqrt(square - mean**2).tolist(), "pooled_scale": scale}


# ---- model ----


def _about(config: Config) -> dict[str, Any]:
    return json.loads((Path(config["data"]) / "model.json").read_text(encoding="utf-8"))


def build(config: Config, facts: Mapping[str, Any]) -> LiminalForPADRegression:
    """The model before training, the same everywhere: the seed and the statistics say all of it."""
    about = _about(config)
    # The CCC is a figure of a batch; what one text adds to a gradient can only be bounded without it.
    loss = {"loss": "mse", "head_dropout": 0.0} if config["noise-text"] else {}
    fields = {**about["fields"], "latent_size": config["width"], "num_outer_steps": 1, **loss, **facts}
    torch.manual_seed(config["seed"])
    if not config["rank"]:
        head = {name: value for name, value in fields.items() if name not in ("pooling", "pooled_layers")}
        return LiminalForPADRegression(LiminalConfig(pooled_size=about["pooled_size"], **head))
    from peft.tuners.lora import LoraModel

    model = LiminalForPADRegression.from_encoder_pretrained(about["encoder"], about["revision"], **fields)
    adapters = lora_config(model, r=config["rank"])
    adapters.modules_to_save = None
    LoraModel(model, adapters, "default")  # type: ignore[arg-type]
    model.liminal.head.requires_grad_(True)
    return model


def travelling(model: LiminalForPADRegression, half: bool = False) -> dict[str, NDArray[Any]]:
    """All that is ever sent of a model: the head, and the matrices of the adapters."""
    kind = np.float16 if half else np.float32
    named = model.named_parameters()
    return {name: value.detach().numpy().astype(kind) for name, value in named if value.requires_grad}


@torch.no_grad()
def receive(model: LiminalForPADRegression, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Puts what came into the model; other names than those that travel are an error."""
    own = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if set(own) != set(arrays):
        raise ValueError(f"These tensors should not travel, or are missing: {sorted(set(own) ^ set(arrays))[:5]}")
    for name, value in own.items():
        value.copy_(torch.from_numpy(np.array(arrays[name])))


@torch.inference_mode()
def predict(model: LiminalForPADRegression, rows: Rows) -> NDArray[np.float64]:
    """`(rows, 3)` in label units."""
    parts = torch.arange(len(rows)).split(256)
    return np.concatenate([model.eval()(**rows.batch(part)).logits.double().numpy() for part in parts])


def mean_r(predictions: NDArray[np.float64], rows: Rows) -> float:
    """Mean Pearson r over the dimensions."""
    return float(np.mean(pearson(predictions, rows.labels.double().numpy())))


# ---- training ----


def rate(config: Config, progress: float) -> float:
    """The learning rate of the recipe over the whole federation: a short warm-up, then a cosine; `progress` 0..1."""
    return config["learning-rate"] * min(1.0, progress / WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))


def train(model: LiminalForPADRegression, rows: Rows, config: Config, number: int, seed: int) -> float:
    """Trains the model in place for one round, by the package's loss and the recipe's AdamW; returns the mean loss."""
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    named = [value for value in model.parameters() if value.requires_grad]
    groups = [{"params": [v for v in named if v.dim() > 1], "weight_decay": 0.05}]
    groups.append({"params": [v for v in named if v.dim() < 2], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
    if config["noise-text"]:
        return _train_privately(model, rows, config, optimizer, number, draw)
    batches = [
        part
        for _ in range(config["local-epochs"])
        for part in torch.randperm(len(rows), generator=draw).split(config["batch-size"])
        if len(part) > 1  # a CCC takes two
    ][: config["max-steps"] or None]
    model.train()
    losses = []
    for step, part in enumerate(batches, start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate(config, (number - 1 + step / len(batches)) / config["num-server-rounds"])
        optimizer.zero_grad()
        loss = model(**rows.batch(part)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(named, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def text_steps(config: Config, rows: int) -> tuple[float, int]:
    """By which chance a step of DP-SGD takes a text, and the number of steps of a round."""
    chance = min(1.0, config["batch-size"] / rows)
    return chance, max(1, round(config["local-epochs"] / chance))


def _train_privately(
    model: LiminalForPADRegression, rows: Rows, config: Config, inner: Any, number: int, draw: torch.Generator
) -> float:
    """DP-SGD (Abadi et al. 2016): each text's gradient is clipped, noise is added to their sum, by Opacus."""
    from opacus.optimizers import DPOptimizer

    chance, steps = text_steps(config, len(rows))
    size = max(1, round(chance * len(rows)))
    optimizer = DPOptimizer(
        inner, noise_multiplier=config["noise-text"], max_grad_norm=config["clip"], expected_batch_size=size,
        generator=draw,
    )  # fmt: skip
    model.train()
    deviation = torch.tensor(model.config.label_std)
    own = dict(model.named_parameters())

    def loss(weights: dict[str, Tensor], states: Tensor, labels: Tensor) -> Tensor:
        said = functional_call(model, weights, (), {"pooled_embeds": states[None]}).logits[0]
        return ((said - labels) / deviation).square().mean()

    gradients = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")
    assert rows.states is not None
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(config, (number - 1 + step / steps) / config["num-server-rounds"])
        chosen = torch.rand(len(rows), generator=draw) < chance  # Poisson sampling, as the accountant takes it
        weights = {name: value.detach() for name, value in own.items()}
        found = gradients(weights, rows.states[chosen], rows.labels[chosen])
        for name, value in own.items():
            value.grad_sample = found[name]  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()
    return math.nan  # a loss of so few texts would tell of them


def spent(config: Config, rows: int) -> dict[str, Any]:
    """Epsilon by Opacus' accountant (Renyi; Mironov 2017), its delta, and whom it protects."""
    from opacus.accountants import RDPAccountant

    accountant, rounds = RDPAccountant(), config["num-server-rounds"]
    if config["noise-text"]:
        chance, steps = text_steps(config, rows)
        history, delta, unit = (config["noise-text"], chance, steps * rounds), 1e-5, "text"
    elif config["noise-client"]:  # every client takes part in every round: nothing is gained by sampling
        history, delta, unit = (config["noise-client"], 1.0, rounds), 1e-3, "client"
    else:
        return {}
    accountant.history = [history]
    return {"epsilon": float(accountant.get_epsilon(delta=delta)), "delta": delta, "unit": unit}


# ---- persons ----


def levels(rows: Rows, predictions: NDArray[np.float64]) -> PersonMemory:
    """What the client keeps of its persons: how their ratings differ from what the model says, one row per person."""
    names, place = np.unique(rows.persons, return_inverse=True)
    memory = PersonMemory.empty(len(names))
    said = torch.from_numpy(predictions)
    turn = pd.Series(place).groupby(place).cumcount().to_numpy()
    for number in range(turn.max() + 1):
        now = turn == number
        reading, rating = (torch.full((len(names), 3), torch.nan, dtype=torch.float64) for _ in range(2))
        reading[place[now]], rating[place[now]] = said[now], rows.labels[now].double()
        memory = memory.observe(reading, rating)
    return memory
