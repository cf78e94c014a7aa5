"""`handler.py`, imported from the folder that it was written into."""

import importlib.util
from typing import Any

import pytest
from conftest import tiny_model
from test_hub import TEXTS, tokenizer

from liminal_hf.export.checkpoint import Checkpoint
from liminal_hf.export.repository import write_repository


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("repository")
    write_repository(Checkpoint(tiny_model("bert", max_seq_length=64), tokenizer()), folder, handler=True)
    spec = importlib.util.spec_from_file_location("endpoint_handler", folder / "handler.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def test_one_text_and_several(handler: Any) -> None:
    one, many = handler({"inputs": TEXTS[0]}), handler({"inputs": TEXTS})
    assert len(one) == 1 and len(many) == 2
    assert one[0]["pleasure"] == pytest.approx(many[0]["pleasure"], abs=1e-6)


def test_parameters_reach_the_model(handler: Any) -> None:
    deep = handler({"inputs": TEXTS[0], "parameters": {"num_outer_steps": 3}})
    assert deep[0]["pleasure"] != handler({"inputs": TEXTS[0]})[0]["pleasure"]


@pytest.mark.parametrize("inputs", [None, "", []])
def test_without_inputs(handler: Any, inputs: Any) -> None:
    with pytest.raises(ValueError, match="Send a text or a list of texts"):
        handler({"inputs": inputs})
    assert handler({"inputs": [3]})[0]["error"] == "not a text: int"
