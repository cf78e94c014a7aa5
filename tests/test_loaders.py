"""Batches for a loop of one's own: the states of the texts, beside the labels of the same rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from liminal_hf import LiminalConfig, LiminalForPADRegression, create_dataloaders, encode
from liminal_hf.modeling.errors import LiminalError

TEXTS = [f"I have {count} lovely dogs." for count in range(10)] + ["Go away!", "What a dreadful day."]
LABELS = [[index / 20, -index / 20, 0.25 if index % 2 else -100.0] for index in range(len(TEXTS))]
ROWS = {"text": TEXTS, "labels": LABELS, "id": list(map(str, range(12)))}


@pytest.fixture
def loaders(minilm: Path, own_cache: None) -> Any:
    data = {"train": Dataset.from_dict(ROWS), "validation": Dataset.from_dict(ROWS)}
    return create_dataloaders(data, str(minilm), batch_size=5, seed=3)


def test_states_lie_beside_the_labels_of_their_text(loaders: Any, minilm: Path) -> None:
    states = encode(TEXTS, str(minilm))
    batches = list(loaders["validation"])
    assert [len(batch["labels"]) for batch in batches] == [5, 5, 2]
    torch.testing.assert_close(torch.cat([one["pooled_embeds"] for one in batches]), states, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([one["labels"] for one in batches]), torch.tensor(LABELS))
    for batch in loaders["train"]:
        assert batch["pooled_embeds"].dtype == batch["labels"].dtype == torch.float32
        for state, labels in zip(batch["pooled_embeds"], batch["labels"], strict=True):
            row = round(float(labels[0]) * 20)
            torch.testing.assert_close(state, states[row], atol=1e-5, rtol=0)


def test_training_is_shuffled_anew_in_each_epoch_and_the_same_by_seed(loaders: Any, minilm: Path) -> None:
    def epoch(loader: Any) -> list[float]:
        return torch.cat([batch["labels"][:, 0] for batch in loader]).tolist()

    first, second = epoch(loaders["train"]), epoch(loaders["train"])
    assert first != second and sorted(first) == sorted(second)
    again = create_dataloaders({"train": Dataset.from_dict(ROWS)}, str(minilm), batch_size=5, seed=3)
    assert epoch(again["train"]) == first


def test_a_loop_of_ones_own_learns(loaders: Any) -> None:
    torch.manual_seed(0)
    model = LiminalForPADRegression(LiminalConfig(pooled_size=384, latent_size=16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        losses.append(0.0)
        for batch in loaders["train"]:
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1] += float(loss)
    assert losses[-1] < 0.5 * losses[0]


def test_what_lacks_a_column_is_named(minilm: Path) -> None:
    rows = Dataset.from_dict({"text": ["Good."], "labels": [[0.1, 0, 0]]})
    for wrong, said in ((rows, "got a Dataset"), ({}, "got none"), ({"train": [1]}, "'train' is a list")):
        with pytest.raises(LiminalError, match=said):
            create_dataloaders(wrong)
    with pytest.raises(LiminalError, match="'train' needs the columns text and labels"):
        create_dataloaders({"train": Dataset.from_dict({"text": ["Hi."]})}, str(minilm))
