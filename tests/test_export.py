"""Everything that is known of the shipped checkpoint is in each copy of it; a checkpoint is found in one way."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import tiny_model
from hub_server import HubServer
from test_hub import OURS, run, tokenizer

from liminal_hf import DEFAULT_CHECKPOINT, LiminalForPADRegression
from liminal_hf.export.checkpoint import Checkpoint, find_checkpoint, open_checkpoint
from liminal_hf.export.repository import write_repository
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.provenance import PROVENANCE_FILE, read_facts, remember_facts


def parts(card: str) -> tuple[dict[str, Any], list[str]]:
    """The front matter of a card, and its lines."""
    _, front, text = card.split("---\n", 2)
    return yaml.safe_load(front), text.splitlines()


SHIPPED, LINES = parts((Path(DEFAULT_CHECKPOINT) / "README.md").read_text(encoding="utf-8"))


def check_same(card: str) -> None:
    """Front matter and lines are those of the shipped card, but for the name and the weights' sha256."""
    front, lines = parts(card)
    name = front["model-index"][0]["name"]
    assert {key: value for key, value in front.items() if key != "weights_sha256"} == {
        **{key: value for key, value in SHIPPED.items() if key != "weights_sha256"},
        "model-index": [{**SHIPPED["model-index"][0], "name": name}],
    }
    own = [re.sub(r"OWNER/minilm-emobank|tester/default", "REPO", line) for line in lines]
    assert own == [line.replace("OWNER/minilm-emobank", "REPO") for line in LINES]


def test_a_pushed_default_says_all_that_the_shipped_card_says(minilm: Path, tmp_path: Path) -> None:
    with HubServer() as hub:
        run(hub, tmp_path, OURS + "push(DEFAULT_CHECKPOINT, 'tester/default', verify=False)")
        files = hub.files("tester/default")
    check_same(files["README.md"].decode())
    facts = json.loads(files[PROVENANCE_FILE])
    assert facts == {**read_facts(DEFAULT_CHECKPOINT), "repo_id": "tester/default"}
    assert facts["license"] == "cc-by-sa-4.0" and len(facts["recipe"]["distill"]["teachers"]) == 5


def test_every_copy_of_the_default_says_it(minilm: Path, tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_pretrained(DEFAULT_CHECKPOINT)
    model.save_pretrained(tmp_path / "saved")
    assert read_facts(tmp_path / "saved") == read_facts(DEFAULT_CHECKPOINT)
    source = open_checkpoint(tmp_path / "saved", tokenizer())
    write_repository(source, tmp_path / "exported")
    write_repository(open_checkpoint(DEFAULT_CHECKPOINT), tmp_path / "head", head_only=True)
    for name in ("exported", "head"):
        check_same((tmp_path / name / "README.md").read_text(encoding="utf-8"))
    # Trained further, it has another card, which names the base and what binds.
    with torch.no_grad():
        next(model.liminal.head.parameters()).mul_(1.01)
    write_repository(Checkpoint(model), tmp_path / "further", facts={"repo_id": "tester/further"})
    front, lines = parts((tmp_path / "further" / "README.md").read_text(encoding="utf-8"))
    assert front["base_model"] == "minilm-emobank" and front["license"] == SHIPPED["license"]
    assert front["datasets"] == SHIPPED["datasets"] and front["language"] == "en" and "model-index" not in front
    assert "| pleasure | 0.735 [0.697, 0.769]" in "\n".join(lines) and "## Base" in lines


def test_an_adapter_says_what_its_base_is(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs adapters: pip install 'liminal_hf[peft]'")
    model = tiny_model("bert")
    remember_facts(model, {"name": "tiny", "license": "cc-by-sa-4.0", "language": "en"})
    model.save_pretrained(tmp_path / "tiny")
    base = LiminalForPADRegression.from_pretrained(tmp_path / "tiny")
    # Any config of PEFT, not only that of `lora_config`.
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            value.add_("lora_B" in name)
    adapted.save_pretrained(tmp_path / "adapter")
    front, lines = parts((tmp_path / "adapter" / "README.md").read_text(encoding="utf-8"))
    assert front["base_model"] == "tiny" and front["base_model_relation"] == "adapter"
    assert (front["library_name"], front["license"], front["language"]) == ("peft", "cc-by-sa-4.0", "en")
    assert "PeftModel.from_pretrained" in "\n".join(lines) and str(tmp_path) not in "\n".join(lines)
    assert read_facts(tmp_path / "adapter")["base"]["license"] == "cc-by-sa-4.0"
    # Merged, it is a checkpoint that was trained further.
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert read_facts(tmp_path / "merged")["base_model"] == "tiny"


def test_find_checkpoint(tmp_path: Path) -> None:
    model = tiny_model("bert")
    model.save_pretrained(tmp_path / "run" / "model")
    assert find_checkpoint(tmp_path / "run") == find_checkpoint(tmp_path / "run" / "model")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "file").touch()
    for name, message in {"adapter": "holds only an adapter", "bert": "type 'bert'", "file": "is a file"}.items():
        with pytest.raises(LiminalError, match=message):
            find_checkpoint(tmp_path / name)
    for name in (tmp_path, "owner/none"):
        with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
            find_checkpoint(name)
    with pytest.raises(LiminalError, match="needs its tokenizer"):
        open_checkpoint(model)
