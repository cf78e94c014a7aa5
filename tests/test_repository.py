"""What may not travel to the Hub: pickles, the state of a run, paths of this machine."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from liminal_hf.export.checkpoint import Checkpoint
from liminal_hf.export.hub import push
from liminal_hf.export.repository import STAYS_HOME, local_paths, write_repository
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="holds no safetensors"):
        push(tmp_path, "me/tiny")


def test_pickles_match_the_patterns() -> None:
    names = [
        *("training_args.bin", "optimizer.pt", "a/optimizer.bin", "rng_state_0.pth", "x.pkl", "scheduler.pt"),
        *("checkpoint-3/model.safetensors", "runs/a/events.out.tfevents.1", "pytorch_model.bin", "trainer_state.json"),
    ]
    assert list(filter_repo_objects(names, ignore_patterns=STAYS_HOME)) == []
    kept = ["heads.py", "model.safetensors", "config.json", "README.md", "tokenizer.json", "spiece.model", "handler.py"]
    assert list(filter_repo_objects(kept, ignore_patterns=STAYS_HOME)) == kept


def test_paths_of_this_machine(tmp_path: Path, tiny_encoder: Callable[[str], Path]) -> None:
    encoder = tiny_encoder("bert")
    model = LiminalForPADRegression.from_encoder_pretrained(encoder, latent_size=16)
    write_repository(Checkpoint(model), tmp_path / "full")
    assert json.loads((tmp_path / "full" / "config.json").read_text()).get("encoder_name_or_path") is None
    assert model.config.encoder_name_or_path == str(encoder)
    with pytest.raises(ValueError, match="is a folder of this machine"):
        write_repository(Checkpoint(model), tmp_path / "head", head_only=True)
    model.config.encoder_name_or_path = None
    model.config.trained_on = "/home/me/texts.csv"
    with pytest.raises(ValueError, match=r"Nothing was uploaded.*config.json: /home/me/texts.csv"):
        write_repository(Checkpoint(model), tmp_path / "leak")
    (tmp_path / "a.md").write_text("[a](https://example.org/home/page) ~/data/x ./tmp/y http://host/data/z")
    (tmp_path / "vocab.txt").write_text("/home/word\n")
    assert local_paths(tmp_path / "full") == [] and not [hit for hit in local_paths(tmp_path) if "leak" not in hit]
