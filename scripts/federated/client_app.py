"""The client: it trains on its own rows and keeps them, with its persons' levels; head and adapters are what it sends.

Requires flwr and what `task` requires.
"""

import json
from functools import lru_cache
from typing import Any

import task
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def settings(context: Context) -> dict[str, Any]:
    """The settings of the run, and over them those of this node: where its data lie (`data`)."""
    return {**context.run_config, **context.node_config}


def own_rows(context: Context) -> task.Rows:
    """The rows of this client."""
    return _rows(json.dumps(settings(context), sort_keys=True), int(context.node_config["partition-id"]))


@lru_cache(maxsize=64)  # a process may stand for several clients in turn
def _rows(config: str, part: int) -> task.Rows:
    return task.read_rows(json.loads(config), of=part)


@lru_cache(maxsize=1)
def _model(config: str) -> Any:
    return task.build(*json.loads(config))


def numpy_arrays(record: ArrayRecord) -> dict[str, Any]:
    """The tensors of a message by their names."""
    return {name: array.numpy() for name, array in record.items()}


@app.query()
def measure(message: Message, context: Context) -> Message:
    """Before the first round: sums over the labels and the states."""
    found = MetricRecord(task.sums(own_rows(context)))
    return Message(RecordDict({"metrics": found}), reply_to=message)


def received(message: Message, context: Context) -> Any:
    """The model that the server has sent."""
    config = message.content["config"]
    facts = {name: config[name] for name in ("label_mean", "label_std", "pooled_scale")}
    model = _model(json.dumps([context.run_config, facts], sort_keys=True))
    task.receive(model, numpy_arrays(message.content["arrays"]))
    return model


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round on the client's own rows."""
    config, rows, model = settings(context), own_rows(context), received(message, context)
    number = int(message.content["config"]["server-round"])
    seed = int(config["seed"]) * 1_000_003 + number * 1_009 + int(context.node_config["partition-id"])
    loss = task.train(model, rows, config, number, seed)
    # Under noise no client may count for more than another, and a loss would be told without noise.
    private = bool(config["noise-client"] or config["noise-text"])
    metrics = MetricRecord({"num-examples": 1} if private else {"num-examples": len(rows), "loss": loss})
    arrays = ArrayRecord({name: Array(value) for name, value in task.travelling(model, config["half"]).items()})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """After the last round: the levels of this client's persons by the model. They stay in the node's own state."""
    rows, model = own_rows(context), received(message, context)
    memory = task.levels(rows, task.predict(model, rows))
    kept = {name: Array(value.numpy()) for name, value in memory.items()}
    context.state[task.PERSONS] = ArrayRecord(kept)
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
