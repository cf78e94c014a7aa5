"""scripts/federated: what clients and server say to each other, by real Flower messages, and what stays."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

# Flower pins other versions of ray, rich and typer than the extra `test` brings, so that it lives in an environment of
# its own: pip install "liminal_hf[federated]" pytest
pytest.importorskip("flwr", reason="needs an environment with the extra federated")

ROOT = Path(__file__).parents[1]
APP = ROOT / "scripts" / "federated"
sys.path[:0] = [str(APP), str(ROOT / "scripts")]
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import study  # noqa: E402
import task  # noqa: E402
from flwr.common.serde import message_from_proto  # noqa: E402
from flwr.proto.message_pb2 import Message as Proto  # noqa: E402

MOST = 300
# What a client may tell beside its tensors.
TOLD = {
    "query": {"rows", "labels", "squares", "states"},
    "train": {"num-examples", "loss"},
    "evaluate": {"num-examples"},
}


@pytest.fixture(scope="module")
def data(data_dir: Path, minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The states of 300 sentences of each split."""
    folder = tmp_path_factory.mktemp("federated") / "data"
    task.prepare(study.RECIPE, folder, most=MOST)
    return folder


def settings(data: Path, **changes: Any) -> dict[str, Any]:
    given = {"num-server-rounds": 3, "batch-size": 32, "width": 16, "learning-rate": 5e-3}
    return study.settings(data, **given | {name.replace("_", "-"): value for name, value in changes.items()})


class Recording(study.LocalGrid):
    """Keeps every message in both directions."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[tuple[bytes, bytes]] = []

    def exchange(self, message: bytes) -> bytes:
        answer = super().exchange(message)
        self.seen.append((message, answer))
        return answer


def recorded(config: dict[str, Any]) -> tuple[Recording, dict[str, Any]]:
    grid = Recording(config, range(config["clients"]))
    return grid, study.server_app.federate(grid, config)


def test_two_clients_learn_and_send_the_head_alone(data: Path) -> None:
    config = settings(data, partition="document")
    grid, found = recorded(config)
    assert found["dev"] > 0.15 > found["history"][0], "it has learned"
    names = set(task.travelling(task.build(config, found["facts"])))
    assert names and all(name.startswith("liminal.head.") for name in names)
    for down, up in grid.seen:
        asked, answer = (message_from_proto(Proto.FromString(one)) for one in (down, up))
        kind = asked.metadata.message_type
        assert set(answer.content) == ({"arrays", "metrics"} if kind == "train" else {"metrics"})
        assert set(answer.content["metrics"]) == TOLD[kind]
        assert set(asked.content) == (set() if kind == "query" else {"arrays", "config"})
        for message in (asked, answer):
            if "arrays" in message.content:
                assert set(message.content["arrays"]) == names
    kinds = [kind for kind, _, _ in grid.sent]
    assert kinds == ["query"] * 2 + ["train"] * 6 + ["evaluate"] * 2


def test_texts_and_persons_stay(data: Path) -> None:
    config = settings(data, partition="document")
    grid, _ = recorded(config)
    everything = b"".join(down + up for down, up in grid.seen)
    texts = [text for text in task.load_emobank()["train"].select(task.spread(8062, MOST))["text"][:] if len(text) > 20]
    assert len(texts) > 200 and not any(text.encode()[:20] in everything for text in texts)
    states = np.load(data / "train-states.npy")
    assert not any(row[:16].tobytes() in everything for row in states)
    persons = 0
    for node, context in grid.contexts.items():
        kept = context.state[task.PERSONS]
        rows = task.read_rows(config, of=node - 2)
        assert set(kept) == set(task.PersonMemory.empty().keys()) and task.PERSONS.encode() not in everything
        assert kept["turn"].numpy().sum() == len(rows), "each row was seen once, by its own client"
        assert kept["residual_sum"].numpy().any() and kept["residual_sum"].data[-48:] not in everything
        persons += len(kept["turn"].numpy())
    groups = np.load(data / "train-groups.npy")
    assert persons == len(np.unique(groups[:, 0])), "no document is in two places"


def test_a_tensor_of_another_name_is_refused(data: Path) -> None:
    model = task.build(settings(data), {})
    arrays = task.travelling(model)
    with pytest.raises(ValueError, match="should not travel"):
        task.receive(model, arrays | {"persons.residual_sum": np.zeros(3)})


def test_one_client_with_all_rows_is_central_training(data: Path, tmp_path: Path) -> None:
    rounds = {"num_server_rounds": 6, "learning_rate": 1.5e-3, "width": 32}
    config = settings(data, clients=1, **rounds)
    found = study.federated(config)
    central = study.central(config, tmp_path / "central")
    labels = task.read_rows(config).labels.double()
    assert np.allclose(found["facts"]["label_mean"], labels.mean(0)) and np.allclose(
        found["facts"]["label_std"], labels.std(0, correction=0)
    )
    assert abs(found["dev"] - central["dev"]) < 0.03 and found["dev"] > 0.3
    # Close, not equal: in a round Adam starts anew, and the rate does not fall from round to round.
    assert np.corrcoef(found["dev_answers"][:, 0], central["dev_answers"][:, 0])[0, 1] > 0.8


@pytest.mark.parametrize("clients", [2, 9])
@pytest.mark.parametrize("kind", ["iid", "document", "genre"])
def test_each_row_has_one_client(data: Path, kind: str, clients: int) -> None:
    groups = np.load(data / "train-groups.npy")
    parts = task.partition(kind, groups, clients, seed=1)
    assert len(parts) == clients and sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    if kind == "document":
        documents = [set(groups[part, 0]) for part in parts]
        assert sum(map(len, documents)) == len(set(groups[:, 0]))
    if kind == "genre":
        genres = [len(set(groups[part, 1])) for part in parts]
        mixed = [len(set(groups[part, 1])) for part in task.partition("iid", groups, clients, seed=1)]
        assert sum(genres) < sum(mixed)


def test_half_precision_takes_half_of_the_bytes(data: Path) -> None:
    sent = {}
    for half in (False, True):
        grid, found = recorded(settings(data, half=half, num_server_rounds=1, width=64))
        assert found["dev"] > 0.05
        sent[half] = next((down, up) for kind, down, up in grid.sent if kind == "train")
    # 51 headers of tensors stay as long as they were
    assert all(0.5 < short / long < 0.55 for short, long in zip(sent[True], sent[False], strict=True))


def test_noise_per_text_bounds_what_one_text_does(data: Path) -> None:
    pytest.importorskip("opacus")
    config = settings(data, clients=1, noise_text=1e-6, clip=1e-3, batch_size=MOST, num_server_rounds=1)
    rows = task.read_rows(config, of=0)
    loud = task.Rows(rows.labels.clone(), rows.persons, rows.states)
    loud.labels[0] = 1e6  # one text that would rule the mean gradient
    steps = []
    for given in (rows, loud):
        model = task.build(config, {"label_std": [0.2] * 3})
        task.train(model, given, config, 1, seed=0)
        steps.append(torch.cat([value.detach().flatten() for value in model.parameters()]))
    assert torch.corrcoef(torch.stack(steps) - steps[0].mean())[0, 1] > 0.99
    private = [task.spent(config | {"noise-text": noise}, 400)["epsilon"] for noise in (0.5, 1.0, 2.0)]
    assert private[0] > private[1] > private[2] > 0


def test_central_privacy_clips_and_adds_noise(data: Path) -> None:
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

    config = settings(data, noise_client=0.5, clip=0.5, num_server_rounds=2)
    grid, found = recorded(config)
    orders = [1 + x / 10.0 for x in range(1, 100)] + list(range(12, 64))
    spent = get_privacy_spent(
        orders=orders, rdp=compute_rdp(q=1.0, noise_multiplier=0.5, steps=2, orders=orders), delta=1e-3
    )
    assert found["privacy"]["unit"] == "client" and found["privacy"]["epsilon"] == pytest.approx(spent[0], rel=0.01)
    trained = [
        message_from_proto(Proto.FromString(up))
        for (kind, _, _), (_, up) in zip(grid.sent, grid.seen, strict=True)
        if kind == "train"
    ]
    assert all(dict(answer.content["metrics"]) == {"num-examples": 1} for answer in trained), "no client counts more"
    before = task.travelling(task.build(config, found["facts"]))
    moved = np.concatenate([(found["arrays"][name] - before[name]).ravel() for name in before])
    # Of n rounds: at most n times the bound, and the noise, 0.5 * 0.5 / 2 on each number.
    expected = np.sqrt(found["round"] * 0.125**2 * moved.size)
    assert np.linalg.norm(moved) == pytest.approx(expected, rel=0.05)


@pytest.mark.nightly
def test_adapters_travel_with_the_head(data: Path) -> None:
    config = settings(data, rank=2, max_steps=2, num_server_rounds=1, batch_size=8)
    grid, found = recorded(config)
    names = set(found["arrays"])
    parts = {name for name in names if "lora_" in name}
    assert parts and all(name.startswith("liminal.head.") for name in names - parts)
    assert any(found["arrays"][name].any() for name in parts if "lora_B" in name), "the adapters have learned"
    encoder = 4 * 22_713_216
    assert all(max(down, up) < encoder / 20 for _, down, up in grid.sent)
