"""What a training takes (its settings) and how many processes it becomes.

The callback that measures is in `test_trainer_route.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import HfArgumentParser, TrainingArguments

from liminal_hf import LiminalTrainingArguments
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.training.callbacks import Rows
from liminal_hf.training.processes import check_launch, cpu_settings


def test_the_settings_are_read_from_the_command_line_and_from_a_dict(tmp_path: Path) -> None:
    parser = HfArgumentParser(LiminalTrainingArguments)
    line = ["--output_dir", str(tmp_path), "--ema_decay", "0.99", "--head_learning_rate", "1e-3", "--layer_decay", ".9"]
    (args,) = parser.parse_args_into_dataclasses([*line, "--learning_rate", "5e-5", "--report_to", "none"])
    assert (args.ema_decay, args.head_learning_rate, args.layer_decay, args.learning_rate) == (0.99, 1e-3, 0.9, 5e-5)
    (args,) = parser.parse_dict({"output_dir": str(tmp_path), "ema_decay": 0.5})
    assert (args.ema_decay, args.head_learning_rate, args.layer_decay) == (0.5, None, 1.0)
    (tmp_path / "args.json").write_text(json.dumps({"output_dir": str(tmp_path), "layer_decay": 0.8}))
    assert parser.parse_json_file(str(tmp_path / "args.json"))[0].layer_decay == 0.8
    with pytest.raises(ValueError, match="ema_decy"):
        parser.parse_dict({"output_dir": str(tmp_path), "ema_decy": 0.5})
    assert {"ema_decay", "head_learning_rate", "layer_decay"} <= set(args.to_dict())
    assert isinstance(args, TrainingArguments)


@pytest.mark.parametrize(
    ("field", "value"),
    [("ema_decay", 1.0), ("ema_decay", -0.1), ("layer_decay", 0.0), ("layer_decay", 1.1), ("head_learning_rate", -1.0)],
)
def test_a_setting_out_of_range_is_named(tmp_path: Path, field: str, value: float) -> None:
    with pytest.raises(LiminalError, match=field):
        LiminalTrainingArguments(str(tmp_path), **{field: value})


def test_reading_the_rows_leaves_the_order_of_the_training_alone() -> None:
    data = [{"labels": torch.tensor([float(index)])} for index in range(10)]
    rows = Rows(torch.utils.data.DataLoader(data, batch_size=4, shuffle=True))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert rows.labels(1)[:, 0].tolist() == list(range(10))
    spread = [value for batch in rows.batches(4, spread=True) for value in batch["labels"][:, 0].tolist()]
    assert spread == [0, 3, 6, 9]
    assert torch.equal(torch.rand(3), expected)


def test_a_launch_that_does_not_train_together_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    check_launch(world_size=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_launch(world_size=2)
    with pytest.raises(LiminalError, match=r"2 processes, and each would train alone.*LiminalTrainingArguments"):
        check_launch(world_size=1)
    if not torch.accelerator.is_available():
        assert cpu_settings() == {"use_cpu": True, "ddp_backend": "gloo"}


def test_accelerate_that_starts_one_process_instead_of_two_is_named(tmp_path: Path) -> None:
    """`accelerate launch --cpu` itself, on a machine with or without a GPU."""
    script = tmp_path / "script.py"
    script.write_text("from liminal_hf.training.processes import start_processes\nstart_processes()\n")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    said = {}
    for count in ("1", "2"):
        done = subprocess.run(
            [*command, count, str(script)], env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        said[count] = (done.returncode, done.stderr)
    assert said["1"][0] == 0, said["1"][1]
    assert said["2"][0] != 0 and "torchrun --standalone --nproc_per_node 2" in said["2"][1]
