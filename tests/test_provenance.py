"""Licence, data and results travel with every save; a checkpoint that was trained further names its base."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.modeling.provenance import PROVENANCE_FILE, known_facts, read_facts, remember_facts

FACTS = {"name": "tiny", "license": "cc-by-sa-4.0", "metrics": {"test": {"pearson_mean": 0.5}}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint with facts."""
    model = tiny_model("bert")
    remember_facts(model, FACTS)
    model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_facts_travel_with_every_save(checkpoint: Path, tmp_path: Path) -> None:
    assert read_facts(checkpoint) == FACTS
    model = LiminalForPADRegression.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path / "again")
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    for name in ("again", "half"):
        assert read_facts(tmp_path / name) == FACTS, name
    # Another model that is saved into the same folder takes the facts away.
    tiny_model("bert", seed=1).save_pretrained(checkpoint)
    assert not (checkpoint / PROVENANCE_FILE).exists()


@pytest.mark.parametrize("part", ["encoder", "head"])
def test_a_model_that_was_trained_further_names_its_base(checkpoint: Path, tmp_path: Path, part: str) -> None:
    model = LiminalForPADRegression.from_pretrained(checkpoint)
    assert known_facts(model) == FACTS
    optimizer: Any = torch.optim.AdamW(getattr(model.liminal, part).parameters(), lr=1e-4)
    tokens = torch.randint(3, 60, (4, 8))
    model(tokens, attention_mask=torch.ones_like(tokens), labels=torch.zeros(4, 3)).loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path / "further")
    assert read_facts(tmp_path / "further") == {"base_model": "tiny", "base": FACTS}
    model.base_model.trained_on = {"rows": {"train": 4}}
    assert known_facts(model)["trained_on"] == {"rows": {"train": 4}}
    # It is a checkpoint of its own from then on.
    again = LiminalForPADRegression.from_pretrained(tmp_path / "further")
    assert known_facts(again) == {"base_model": "tiny", "base": FACTS}


def test_the_stock_trainer_says_what_it_trained_on(checkpoint: Path, tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_pretrained(checkpoint)
    tokens = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1]}
    rows = Dataset.from_list([{**tokens, "labels": [0.1 * index, 0.0, -0.5]} for index in range(4)])
    rows.info.dataset_name = "reviews"
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=1, use_cpu=True, report_to="none", learning_rate=0.01
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    facts = read_facts(tmp_path / "trained")
    assert facts == {"base_model": "tiny", "base": FACTS, "trained_on": {"name": "reviews", "rows": {"train": 4}}}
