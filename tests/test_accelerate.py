"""Two processes give what one gives, and accelerate reads the configs of hub_configs/accelerate/.

DDP and torch's `fully_shard` (FSDP2) run for real, on two gloo processes on the CPU. The config for FSDP2 is only read,
as it launches on GPUs; DeepSpeed ZeRO-3 is only read, too.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType
from conftest import FAMILIES, tiny_model
from safetensors.torch import load_file
from training_kit import phase, small_recipe

from liminal_hf.training.callbacks import MANIFEST, is_whole
from liminal_hf.training.fit import fit

CONFIGS = Path(__file__).parents[1] / "hub_configs" / "accelerate"
EVALUATED = 7


def rows(number: int, seed: int) -> list[dict[str, Any]]:
    """Texts of many lengths; some labels are missing, so that the processes hold different numbers of them."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for row in range(number):
        length = int(torch.randint(3, 12, (), generator=generator))
        labels = torch.rand(3, generator=generator) * 2 - 1
        if row % 4 < 2 and row < 6:
            labels[row % 3] = -100
        ids = torch.randint(3, 60, (length,), generator=generator).tolist()
        result.append({"input_ids": ids, "labels": labels.tolist()})
    return result


def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    length = max(len(row["input_ids"]) for row in batch)
    ids = [row["input_ids"] + [0] * (length - len(row["input_ids"])) for row in batch]
    mask = [[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in batch]
    labels = torch.tensor([row["labels"] for row in batch])
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": labels}


def work(output: Path) -> None:
    """What each process runs: trains with several outer steps and with one, evaluates; the first writes the results."""
    from transformers import Trainer, TrainingArguments

    from liminal_hf.metrics import compute_metrics

    results = {}
    world = int(os.environ.get("WORLD_SIZE", "1"))
    for steps in (3, 1):
        model = tiny_model("bert", num_outer_steps=steps, head_dropout=0.0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        arguments = TrainingArguments(
            output_dir=str(output.parent / f"run-{world}-{steps}"),
            per_device_train_batch_size=4 // world,
            # 7 rows: the last batch is uneven for one process and for two.
            per_device_eval_batch_size=4 // world,
            gradient_accumulation_steps=2,
            num_train_epochs=2,
            learning_rate=0.05,
            optim="sgd",
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            # The default head leaves nothing unused; with one step the Trainer's default has to find RINSE.
            ddp_find_unused_parameters=False if steps > 1 else None,
            ddp_backend="gloo" if world > 1 else None,
            use_cpu=True,
            dataloader_drop_last=False,
            label_names=["labels"],
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=0,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows(16, seed=1),
            eval_dataset=rows(EVALUATED, seed=2),
            data_collator=collate,
            compute_metrics=compute_metrics,
        )
        trainer.train()
        prediction = trainer.predict(trainer.eval_dataset)
        results[f"K={steps}"] = {
            "world_size": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
            "backend": torch.distributed.get_backend() if torch.distributed.is_initialized() else None,
            "updates": trainer.state.global_step,
            "logits": prediction.predictions.tolist(),
            "metrics": {name: value for name, value in prediction.metrics.items() if "_per_second" not in name},
            "weights": {name: value.detach().double().tolist() for name, value in model.named_parameters()},
        }
    if int(os.environ.get("RANK", "0")) == 0:
        output.write_text(json.dumps(results))


def run_two(arguments: list[str]) -> None:
    """Runs Python with these arguments in two processes, by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CONFIGS.parents[1])}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes have left behind: one launch does the work of all the tests that ask for it."""
    folder = tmp_path_factory.mktemp("two")
    recipe = small_recipe(
        folder,
        phases=[phase("head", epochs=2, trainable="head", cache=True, training=shared_by(2))],
        model__head_dropout=0.0,
    )
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    run_two([__file__, str(folder)])
    return folder


@pytest.fixture(scope="module")
def trained(two_processes: Path) -> list[dict[str, Any]]:
    """The results of `work` in this process and in two."""
    work(two_processes / "work-1.json")
    return [json.loads((two_processes / f"work-{processes}.json").read_text()) for processes in (1, 2)]


@pytest.mark.parametrize("steps", [3, 1])
def test_two_processes_train_and_evaluate_as_one(trained: list[dict[str, Any]], steps: int) -> None:
    one, two = (results[f"K={steps}"] for results in trained)
    assert (one["world_size"], one["backend"]) == (1, None)
    assert (two["world_size"], two["backend"]) == (2, "gloo")
    assert one["updates"] == two["updates"] == 4
    for name, value in one["weights"].items():
        np.testing.assert_allclose(two["weights"][name], value, atol=1e-5, rtol=0, err_msg=name)
    # Rows in their order, none twice, although two processes share 7 rows.
    assert np.shape(two["logits"]) == (EVALUATED, 3)
    np.testing.assert_allclose(two["logits"], one["logits"], atol=1e-5, rtol=0)
    # The loss is a mean over each process's batches; everything else is computed on the gathered rows.
    compared = set(one["metrics"]) - {"test_loss", "test_runtime", "test_model_preparation_time"}
    assert {"test_love", "test_ccc_mean", "test_mae_pleasure"} <= compared
    for name in compared:
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], abs=1e-5), name


@pytest.mark.nightly
def test_a_recipe_with_adapters_trains_on_two_processes_as_on_one(tmp_path: Path) -> None:
    """`liminal train` as the README launches it for a large decoder, on CPU: one folder, one checkpoint, one result."""
    metrics, weights = {}, {}
    for processes in (1, 2):
        recipe = small_recipe(
            tmp_path,
            "qwen3",
            phases=[phase("adapt", epochs=2, trainable="lora", training=shared_by(processes))],
            model__head_dropout=0.0,  # each process draws its own
            peft__dropout=0.0,
        )
        path, folder = tmp_path / f"{processes}.yaml", tmp_path / f"run-{processes}"
        path.write_text(recipe.to_yaml(), encoding="utf-8")
        if processes == 1:
            fit(path, folder)
        else:
            run_two(["-m", "liminal_hf.cli", "train", str(path), "-o", str(folder)])
        metrics[processes] = json.loads((folder / "metrics.json").read_text())
        weights[processes] = load_file(folder / "model" / "model.safetensors")
    assert metrics[2]["hardware"] == f"{metrics[1]['hardware']}, 2 processes"
    assert metrics[1]["phases"][0]["steps"] == metrics[2]["phases"][0]["steps"] == 6
    assert weights[1].keys() == weights[2].keys()
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[2][name], value, atol=1e-4, rtol=0, msg=name)
    for name in ("pearson_mean", "ccc_mean", "mae_mean"):
        assert metrics[2]["test"][name] == pytest.approx(metrics[1]["test"][name], abs=1e-4)


def shared_by(processes: int) -> dict[str, Any]:
    """Training settings without a word on processes: the launcher's wish is enough."""
    return {"per_device_train_batch_size": 16 // processes, "use_cpu": False}


@pytest.mark.nightly
def test_every_launch_on_two_processes_ends_with_the_same_whole_weights(two_processes: Path, tmp_path: Path) -> None:
    run_two(["-m", "liminal_hf.cli", "train", str(two_processes / "recipe.yaml"), "-o", str(tmp_path / "run")])
    found = []
    for folder in (two_processes / "run", tmp_path / "run"):
        about = json.loads((folder / "metrics.json").read_text())
        assert about["hardware"].endswith("2 processes") and about["phases"][0]["steps"] == 6
        found.append(load_file(folder / "model" / "model.safetensors"))
    assert all(torch.equal(found[1][name], value) for name, value in found[0].items())


def save_slowly(folder: Path) -> None:
    """What each process runs: saves checkpoints, the second process its own part half a second late."""
    from liminal_hf import LiminalTrainer, LiminalTrainingArguments

    class SlowTrainer(LiminalTrainer):
        def _save_rng_state(self, folder: str) -> None:
            time.sleep(0.5 * self.args.process_index)
            super()._save_rng_state(folder)

    arguments = LiminalTrainingArguments(
        str(folder),
        max_steps=2,
        save_steps=1,
        save_strategy="steps",
        per_device_train_batch_size=4,
        report_to="none",
        disable_tqdm=True,
    )
    assert arguments.world_size == 2
    SlowTrainer(tiny_model("bert"), arguments, collate, rows(16, seed=1)).train()


def test_a_checkpoint_of_two_processes_is_whole(two_processes: Path) -> None:
    checkpoints = sorted((two_processes / "slow").glob("checkpoint-*"))
    assert len(checkpoints) == 2
    for checkpoint in checkpoints:
        listed = json.loads((checkpoint / MANIFEST).read_text())
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(listed)
        assert set(listed) == {path.name for path in checkpoint.iterdir()} - {MANIFEST} and is_whole(checkpoint)


@pytest.mark.parametrize(("steps", "modules"), [(3, set()), (2, set()), (1, {"liminal.head.rinse"})])
def test_what_a_step_leaves_unused(steps: int, modules: set[str]) -> None:
    """Plain DDP stops at a parameter without a gradient; the comment in ddp.yaml tells of the one such case."""
    model = tiny_model("bert", num_outer_steps=steps)
    model(**collate(rows(4, seed=1))).loss.backward()
    unused = [name for name, value in model.named_parameters() if value.grad is None]
    assert {name.rsplit(".", 2)[0] for name in unused} == modules


def take_a_step(output: Path) -> None:
    """What each process runs: a step of SGD on its share of the batch, sharded where there are several processes."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    world, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0")))
    model = tiny_model("bert")
    result: dict[str, Any] = {"refused": None, "sharded": 0}
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        try:
            fully_shard(tiny_model("bert"), mesh=mesh)
        except ValueError as error:
            result["refused"] = str(error)
        for layer in model.get_submodule("liminal.encoder.encoder.layer").children():
            fully_shard(layer, mesh=mesh)
        scalars = {value for value in model.parameters() if value.ndim == 0}
        fully_shard(model, mesh=mesh, ignored_params=scalars)
        for scalar in scalars:  # FSDP leaves their gradients to us

            def average(value: torch.Tensor) -> None:
                assert value.grad is not None
                distributed.all_reduce(value.grad)
                value.grad /= world

            scalar.register_post_accumulate_grad_hook(average)
        result["scalars"] = sorted(name for name, value in model.named_parameters() if value in scalars)
        result["sharded"] = sum(hasattr(value, "full_tensor") for value in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    batch = {name: value[rank::world] for name, value in collate(rows(16, seed=1)[8:]).items()}
    losses = []
    for _ in range(2):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shared = loss.detach().clone()
        if world > 1:
            distributed.all_reduce(shared)
        losses.append(shared.item() / world)
    weights = {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().tolist()
        for name, value in model.named_parameters()
    }
    if rank == 0:
        output.write_text(json.dumps({**result, "losses": losses, "weights": weights}))


def test_two_fsdp2_processes_step_as_one(two_processes: Path) -> None:
    take_a_step(two_processes / "step-1.json")
    one, two = (json.loads((two_processes / f"step-{processes}.json").read_text()) for processes in (1, 2))
    # torch shards no parameter without dimensions. The v7 head has two, and checkpoints hold them as they are.
    assert two["refused"].startswith("fully_shard doesn't support scalar parameters. Change memory_gate to a 1D tensor")
    assert two["scalars"] == ["liminal.head.faith_weight", "liminal.head.soul_kernel.memory_gate"]
    assert one["sharded"] == 0 and two["sharded"] == len(two["weights"]) - 2
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert one["losses"][1] < one["losses"][0]
    for name, value in one["weights"].items():
        np.testing.assert_allclose(two["weights"][name], value, atol=1e-5, rtol=0, err_msg=name)


def read(name: str) -> ClusterConfig:
    config = load_config_from_file(str(CONFIGS / name))
    assert isinstance(config, ClusterConfig)
    return config


def test_ddp_config_is_read() -> None:
    config = read("ddp.yaml")
    assert config.distributed_type == DistributedType.MULTI_GPU
    assert config.num_processes == 2 and not config.use_cpu


def test_fsdp2_config_is_read_and_its_options_exist() -> None:
    """Read, not run: there is no GPU here."""
    from accelerate.commands.launch import launch_command_parser

    config = read("fsdp2.yaml")
    assert config.distributed_type == DistributedType.FSDP
    assert config.fsdp_config["fsdp_version"] == 2
    # accelerate passes over an option that it does not know without a word.
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= known


@pytest.mark.parametrize("family", FAMILIES)
def test_fsdp_wraps_the_layers_of_the_encoder(family: str) -> None:
    """The classes that accelerate wraps when a config names none are the encoder's layers, never the head's parts."""
    model = tiny_model(family)
    names = model._no_split_modules
    wrapped = [name for name, module in model.named_modules() if type(module).__name__ in names]
    assert all(name.startswith("liminal.encoder.") for name in wrapped)
    if family != "distilbert":  # names no layers of its own
        assert len([name for name in wrapped if name.rpartition(".")[2].isdigit()]) == 2


def test_deepspeed_config_is_read_and_its_options_exist() -> None:
    """Read, not run: there is neither a GPU nor deepspeed here."""
    from accelerate.commands.launch import launch_command_parser

    config = read("deepspeed_zero3.yaml")
    assert config.distributed_type == DistributedType.DEEPSPEED
    assert config.deepspeed_config["zero_stage"] == 3
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.deepspeed_config) <= known


if __name__ == "__main__":
    outputs = Path(sys.argv[1])
    work(outputs / "work-2.json")  # its Trainer starts the process group
    save_slowly(outputs / "slow")
    take_a_step(outputs / "step-2.json")
    fit(outputs / "recipe.yaml", outputs / "run")
    torch.distributed.destroy_process_group()
