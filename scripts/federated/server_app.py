"""The server: it averages heads and adapters (FedAvg, McMahan et al. 2017) and chooses the round on its dev split.

Requires flwr and what `task` requires.
"""

import json
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import task
from client_app import numpy_arrays
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from safetensors.numpy import save_file

app = ServerApp()


def cast(record: ArrayRecord, kind: Any) -> ArrayRecord:
    """The same tensors in another precision."""
    return ArrayRecord({name: Array(value.astype(kind)) for name, value in numpy_arrays(record).items()})


class HalfFedAvg(FedAvg):
    """FedAvg whose tensors travel in float16, and are averaged in float32."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As in FedAvg."""
        return super().configure_train(server_round, cast(arrays, np.float16), config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """As in FedAvg."""
        replies = list(replies)
        for reply in (one for one in replies if one.has_content()):
            reply.content["arrays"] = cast(reply.content["arrays"], np.float32)
        return super().aggregate_train(server_round, replies)


def measured(grid: Grid, config: task.Config) -> dict[str, Any]:
    """The labels' statistics: from the clients' sums; where clients add noise, from the server's development set."""
    while len(nodes := list(grid.get_node_ids())) < config["nodes"]:
        time.sleep(1)
    if config["noise-client"] or config["noise-text"]:
        return task.statistics([task.sums(task.read_rows(config, "validation"))])
    messages = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]
    replies = list(grid.send_and_receive(messages, timeout=600))
    if failed := [reply.error.reason for reply in replies if reply.has_error()]:
        raise RuntimeError(f"{len(failed)} of {len(nodes)} clients did not answer: {failed[0]}")
    return task.statistics([dict(reply.content["metrics"]) for reply in replies])


def strategy_of(config: task.Config) -> Any:
    """FedAvg over a share of the clients, with Flower's central differential privacy where noise is asked for."""
    sampled = max(1, round(config["share"] * config["nodes"]))
    options = {"fraction_train": config["share"], "min_train_nodes": sampled, "min_available_nodes": config["nodes"]}
    average = (HalfFedAvg if config["half"] else FedAvg)(**options, fraction_evaluate=1.0, min_evaluate_nodes=1)
    if not config["noise-client"]:
        return average
    return DifferentialPrivacyServerSideFixedClipping(average, config["noise-client"], config["clip"], sampled)


def federate(grid: Grid, config: task.Config) -> dict[str, Any]:
    """The whole federation; returns the history on dev, the best round, and its tensors and answers."""
    random.seed(config["seed"])  # Flower draws the clients of a round from it
    facts = measured(grid, config)
    model, dev = task.build(config, facts), task.read_rows(config, "validation")
    strategy, told = strategy_of(config), ConfigRecord(facts)
    best: dict[str, Any] = {"dev": -2.0}
    history = []

    def evaluated(number: int, record: ArrayRecord) -> MetricRecord:
        task.receive(model, arrays := numpy_arrays(record))
        found = task.predict(model, dev)
        score = task.mean_r(found, dev)
        history.append(score)
        if number and not score <= best["dev"]:
            best.update(dev=score, round=number, arrays=arrays, dev_answers=found)
        return MetricRecord({"dev": score})

    start = ArrayRecord({name: Array(value) for name, value in task.travelling(model).items()})
    average = getattr(strategy, "strategy", strategy)
    average.fraction_evaluate = 0.0  # the clients' levels are made once, at the end
    strategy.start(grid, start, config["num-server-rounds"], train_config=told, evaluate_fn=evaluated)
    average.fraction_evaluate = 1.0
    arrays = ArrayRecord({name: Array(value) for name, value in best["arrays"].items()})
    asked = list(strategy.configure_evaluate(config["num-server-rounds"], arrays, told, grid))
    grid.send_and_receive(asked, timeout=600)
    task.receive(model, best["arrays"])
    best["test_answers"] = task.predict(model, task.read_rows(config, "test"))
    rows = len(np.load(Path(config["data"]) / "train-labels.npy", mmap_mode="r"))
    return {**best, "history": history, "facts": facts, "privacy": task.spent(config, rows // config["clients"])}


@app.main()
def main(grid: Grid, context: Context) -> None:
    """For `flwr run`: leaves head.safetensors and metrics.json in the folder `out`."""
    found = federate(grid, context.run_config)
    folder = Path(str(context.run_config["out"]))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(found["arrays"], folder / "head.safetensors")
    told = {name: found[name] for name in ("dev", "round", "history", "facts", "privacy")}
    (folder / "metrics.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
