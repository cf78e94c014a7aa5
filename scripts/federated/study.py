"""Federated training of the head on EmoBank: against central training, and against each client alone.

Requires liminal_hf[federated] and EmoBank with its meta data (`LIMINAL_DATA_DIR`).

    python scripts/federated/study.py

The encoder is frozen, and its states are computed once. Clients are divided at random, by document or by genre. Each
cell of the grid is kept in `--work`, so that a study that was stopped goes on; `--seeds` and `--only` choose cells.
Rounds, rates and bounds were chosen on dev. Messages are Flower's, sent in this process one after the other as bytes.
"""

import argparse
import itertools
import json
import logging
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(Path(__file__).parent)]  # noqa: RUF100

import client_app  # noqa: E402
import numpy as np  # noqa: E402
import server_app  # noqa: E402
import task  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from flwr.app import Context, Message, RecordDict  # noqa: E402
from flwr.common.serde import message_from_proto, message_to_proto  # noqa: E402
from flwr.proto.message_pb2 import Message as Proto  # noqa: E402
from flwr.serverapp import Grid  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402
from research.metrics import paired_bootstrap  # noqa: E402
from research.report import Array, add_folders, interval, line, number, read_seeds, rounded, save  # noqa: E402

from liminal_hf.io import write_text  # noqa: E402
from liminal_hf.metrics import ccc, pearson  # noqa: E402
from liminal_hf.training.phases import training_arguments  # noqa: E402
from liminal_hf.training.recipe import Recipe  # noqa: E402
from liminal_hf.training.run_folder import hardware  # noqa: E402
from liminal_hf.training.trainer import LiminalTrainer  # noqa: E402

RECIPE = ROOT / "hub_configs" / "minilm-emobank.yaml"
PARTITIONS = {"iid": "at random", "document": "by document", "genre": "by genre"}
# By the number of clients.
SIZES: dict[int, dict[str, Any]] = {
    2: {"clients": 2, "num-server-rounds": 12, "batch-size": 128, "share": 1.0},
    10: {"clients": 10, "num-server-rounds": 12, "batch-size": 64, "share": 1.0},
    50: {"clients": 50, "num-server-rounds": 30, "batch-size": 32, "share": 0.2},
}
ALONE = 5  # so many clients, or all, are trained alone
TEXT_NOISE = {**SIZES[10], "num-server-rounds": 10, "batch-size": 128}
CLIENT_NOISE = {**SIZES[50], "num-server-rounds": 10, "share": 1.0}
WIDTH = 32  # level with the recipe's 128 (ablations.md), and a sixth of its bytes
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "wide": ("10 clients, the recipe's width of 128", {**SIZES[10], "width": 128}),
    "half": ("10 clients, tensors in float16", {**SIZES[10], "half": True}),
    **{f"text-{z}": (f"10 clients, DP-SGD, noise {z}", {**TEXT_NOISE, "noise-text": z}) for z in (0.6, 1.0, 2.0)},
    **{
        f"client-{z}": (f"50 clients, central, noise {z}", {**CLIENT_NOISE, "noise-client": z}) for z in (0.1, 0.5, 1.0)
    },
}


class LocalGrid(Grid):
    """Clients in this process, one after the other; each message goes as the bytes that Flower would send.

    Args:
        config: what the clients know as their run's settings.
        clients: the numbers of their parts of the rows.
    """

    run = None  # type: ignore[assignment]

    def __init__(self, config: task.Config, clients: Sequence[int]) -> None:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
        self.contexts: dict[int, Context] = {}
        for part in clients:
            node: Any = {"partition-id": part, "num-partitions": config["clients"]}
            self.contexts[part + 2] = Context(1, part + 2, node, RecordDict(), dict(config))
        self.sent: list[tuple[str, int, int]] = []  # kind of message, bytes down, bytes up
        self.replies: dict[str, Message] = {}

    def exchange(self, message: bytes) -> bytes:
        """What a client answers."""
        asked = message_from_proto(Proto.FromString(message))
        answer = client_app.app(asked, self.contexts[asked.metadata.dst_node_id])
        return message_to_proto(answer).SerializeToString()

    def set_run(self, *args: Any) -> None:
        """There is one."""

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Deprecated in Flower."""
        return Message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        """All clients."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends, and has each client work at once."""
        for message in messages:
            name = str(len(self.sent))
            message.metadata.__dict__["_message_id"] = name  # as Flower's own grids do
            down = message_to_proto(message).SerializeToString()
            up = self.exchange(down)
            self.sent.append((message.metadata.message_type, len(down), len(up)))
            self.replies[name] = message_from_proto(Proto.FromString(up))
            yield name

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers."""
        return [self.replies.pop(name) for name in message_ids]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Both."""
        return self.pull_messages(list(self.push_messages(messages)))


def settings(data: Path, **changes: Any) -> dict[str, Any]:
    """The settings of the app with changes."""
    with (Path(__file__).parent / "pyproject.toml").open("rb") as file:
        config = tomllib.load(file)["tool"]["flwr"]["app"]["config"] | changes
    return config | {"data": str(data.resolve()), "nodes": config["clients"]}


def federated(config: dict[str, Any], clients: Sequence[int] | None = None) -> dict[str, Any]:
    """A federation, with the bytes that went."""
    parts = range(config["clients"]) if clients is None else clients
    grid = LocalGrid(config, parts)
    found = server_app.federate(grid, {**config, "nodes": len(parts)})
    found["parameters"] = sum(value.size for value in found["arrays"].values())
    trained = [(down, up) for kind, down, up in grid.sent if kind == "train"]
    found["bytes"] = {"down": trained[0][0], "up": trained[0][1], "all": sum(map(sum, trained))}
    return found


def alone(config: dict[str, Any]) -> dict[str, Any]:
    """Each of the first clients by itself, by the same rule; the mean over these clients."""
    found = [
        federated({**config, "share": 1.0, "num-server-rounds": 12}, [part])
        for part in range(config["clients"])[:ALONE]
    ]
    test = task.read_rows(config, "test")
    scores = [task.mean_r(one["test_answers"], test) for one in found]
    return {"dev": float(np.mean([one["dev"] for one in found])), "test": scores}


def central(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe's phase on one machine, by `LiminalTrainer`, its best epoch by dev."""
    (phase,) = Recipe.from_yaml(RECIPE).phases
    rows = {split: task.read_rows(config, split) for split in ("train", "validation", "test")}
    tables = {split: one.batch(slice(None)).items() for split, one in rows.items()}
    data = {
        split: Dataset.from_dict({name: value.numpy() for name, value in table}).with_format("torch")
        for split, table in tables.items()
    }
    model = task.build(config, {"label_mean": None, "label_std": None})
    own = {"num_train_epochs": "num-server-rounds", "per_device_train_batch_size": "batch-size"}
    phase.training |= {name: config[given] for name, given in own.items()}
    arguments = training_arguments(phase, folder, config["seed"])
    arguments.disable_tqdm = True
    trainer = LiminalTrainer(model, arguments, train_dataset=data["train"], eval_dataset=data["validation"])
    trainer.train()
    shutil.rmtree(folder)
    answers = {f"{short}_answers": task.predict(model, rows[split]) for short, split in SPLITS.items()}
    return {"dev": task.mean_r(answers["dev_answers"], rows["validation"]), **answers}


SPLITS = {"dev": "validation", "test": "test"}


def cells(work: Path, seeds: Sequence[int]) -> dict[str, Callable[[], dict[str, Any]]]:
    """What computes each cell, by its name; the first seed has all of them."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for place, seed in enumerate(seeds):
        base = settings(work / "data", width=WIDTH, seed=seed)
        found[f"central-{seed}"] = partial(central, base, work / f"central-{seed}")
        pairs = list(itertools.product(SIZES, PARTITIONS))
        for clients, kind in pairs:
            found[f"{kind}-{clients}-{seed}"] = partial(federated, {**base, **SIZES[clients], "partition": kind})
        if place == 0:
            for clients, kind in reversed(pairs):
                found[f"alone-{kind}-{clients}-{seed}"] = partial(alone, {**base, **SIZES[clients], "partition": kind})
            for name, (_, changes) in OTHERS.items():
                found[f"{name}-{seed}"] = partial(federated, base | changes)
    return found


def run(work: Path, name: str, compute: Callable[[], dict[str, Any]]) -> None:
    """Computes a cell, unless it is there: figures as JSON, answers beside it."""
    path = work / "cells" / f"{name}.json"
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    found = compute()
    answers = {name: found.pop(name) for name in list(found) if name.endswith("_answers")}
    found.pop("arrays", None)
    if answers:
        np.savez(path.with_suffix(".npz"), **answers)
    found["seconds"] = round(time.process_time() - started, 1)
    write_text(path, json.dumps(rounded(found)) + "\n")
    print(f"{name}: dev r {found['dev']:.4f}, {found['seconds']:.0f} s of processor time; {path}", flush=True)


class Report:
    """The cells that are there, as a table for machines and one for people."""

    def __init__(self, work: Path, seeds: Sequence[int]) -> None:
        self.folder, self.seeds = work / "cells", seeds
        config = settings(work / "data")
        self.labels = task.read_rows(config, "test").labels.double().numpy()

    def answers(self, name: str) -> dict[int, Array]:
        """The answers on test by seed."""
        paths = {seed: self.folder / f"{name}-{seed}.npz" for seed in self.seeds}
        return {seed: np.load(path)["test_answers"] for seed, path in paths.items() if path.is_file()}

    def row(self, name: str) -> dict[str, Any] | None:
        """Figures over the seeds that are there; the difference from central training is that of the same seeds."""
        answers = self.answers(name)
        if not answers:
            return None
        cells = [json.loads((self.folder / f"{name}-{seed}.json").read_text(encoding="utf-8")) for seed in answers]
        kept = {key: cells[0][key] for key in ("bytes", "parameters", "privacy", "round") if key in cells[0]}
        told: dict[str, Any] = {"seeds": list(answers), "dev": float(np.mean([one["dev"] for one in cells])), **kept}
        for figure, of in (("r", pearson), ("ccc", ccc)):
            told[figure] = np.mean([of(one, self.labels) for one in answers.values()], axis=0).tolist()
        base = self.answers("central")
        shared = [seed for seed in answers if seed in base]
        if name != "central" and shared:
            # The mean over seeds of differences, resampled over texts: each seed's answers are columns of one table.
            ours, theirs = (np.concatenate([one[seed] for seed in shared], axis=1) for one in (answers, base))
            gap = paired_bootstrap(ours, theirs, np.tile(self.labels, len(shared)))
            told["against central"] = {"mean": gap.estimate, "low": gap.low, "high": gap.high}
        path = self.folder / f"alone-{name}-{self.seeds[0]}.json"
        if path.is_file():
            told["alone"] = json.loads(path.read_text(encoding="utf-8"))["test"]
        return told

    def table(self) -> dict[str, Any]:
        """All rows, by title."""
        names = {"central training": "central"}
        names |= {f"{n} clients, {text}": f"{kind}-{n}" for n in SIZES for kind, text in PARTITIONS.items()}
        names |= {title: name for name, (title, _) in OTHERS.items()}
        return {title: row for title, name in names.items() if (row := self.row(name)) is not None}


def markdown(table: dict[str, Any]) -> str:
    """The table for people."""
    heads = [
        "training",
        "dev r",
        "test r V / A / D",
        "mean r",
        "CCC",
        "against central, 95%",
        "each client alone, mean r",
    ]
    heads += ["epsilon (delta), of a", "kB down + up, client and round", "MB in all"]
    lines = [line(heads), line(["---"] * len(heads))]
    for title, row in table["rows"].items():
        gap, alone_r, spent, sent = (row.get(name) for name in ("against central", "alone", "privacy", "bytes"))
        cells = [title, number(row["dev"]), " / ".join(map(number, row["r"])), number(float(np.mean(row["r"])))]
        cells += [number(float(np.mean(row["ccc"]))), interval(gap) if gap else "-"]
        cells += [f"{number(np.mean(alone_r))} ({number(min(alone_r))} to {number(max(alone_r))})" if alone_r else "-"]
        cells += [f"{spent['epsilon']:.3g} ({spent['delta']:g}), {spent['unit']}" if spent else "-"]
        cells += (
            [f"{sent['down'] / 1e3:,.0f} + {sent['up'] / 1e3:,.0f}", f"{sent['all'] / 1e6:,.0f}"] if sent else ["-"] * 2
        )
        lines.append(line(cells))
    return "\n".join([*lines, "", f"`{table['command']}`; {table['machine']}; seeds by row in the JSON."])


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="the first one has all cells (default: %(default)s)")
    parser.add_argument("--prepare", action="store_true", help="only write the states, for `flwr run`")
    add_folders(parser, "runs/federated")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    task.prepare(RECIPE, given.work / "data")
    if given.prepare:
        return 0
    seeds = read_seeds(parser, given.seeds)
    for name, compute in cells(given.work, seeds).items():
        run(given.work, name, compute)
        rows = Report(given.work, seeds).table()
        report = rounded({"command": "python scripts/federated/study.py", "machine": hardware(), "rows": rows})
        save(given.results, "federated", report, markdown(report))
    return 0


if __name__ == "__main__":
    for logged in ("liminal_hf", "flwr"):
        logging.getLogger(logged).setLevel(logging.ERROR)
    sys.exit(main())
