"""Head v8: its steps read the encoder's layers one by one, and no layer is run that no text of the batch needs."""

import copy
import itertools
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MINILM, padded, tiny_config, tokens
from safetensors.torch import save_file
from transformers import AlbertConfig, DebertaV2Config, pipeline

from liminal_hf import LiminalConfig, LiminalForPADRegression
from liminal_hf.modeling.depth import DROPS_ROWS, layers_of
from liminal_hf.modeling.encoders import load_tokenizer
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import Scorer

FAMILIES = ("bert", "roberta", "mpnet", "distilbert", "modernbert", "gpt2", "bloom", "t5", "llama", "qwen3")
LAYERS = 4
WHOLE = (
    *("logits", "pad_trajectory", "confidences", "uncertainty", "gains"),
    *("step_attentions", "reflection", "in_domain"),
)


def deep_model(family: str = "bert", **fields: Any) -> LiminalForPADRegression:
    """A model of four layers whose RINSE says something else of each text."""
    encoder = tiny_config(family)
    if getattr(encoder, "layer_types", None):
        encoder.layer_types = encoder.layer_types * (LAYERS // 2)
    encoder.num_hidden_layers = LAYERS
    torch.manual_seed(0)
    config = LiminalConfig(text_config=encoder, head="v8", latent_size=16, **{"domain_gauge": True, **fields})
    model = LiminalForPADRegression(config).eval()
    with torch.no_grad():
        for parameter in model.liminal.head.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
        model.liminal.head.exit_head.weight.normal_(std=3.0)
        first = model.liminal.head.layers[0] * config.hidden_size
        model.liminal.pooler.domain.weight[first : first + config.hidden_size].normal_()
    return model


@torch.no_grad()
def dividing(model: LiminalForPADRegression, batch: dict[str, torch.Tensor]) -> float:
    """The threshold at which the rows stop at the most different depths, not close to any gain."""
    model.config.exit_threshold = None
    gains = model(**batch).gains
    values = gains[:, :-1].flatten().sort().values
    best, found = (0, 0.0), 0.0
    for low, high in itertools.pairwise(values.tolist()):
        threshold = (low + high) / 2
        enough = gains < threshold
        enough[:, -1] = True
        score = (len(enough.long().argmax(1).unique()), high - low)
        if high - low > 2e-5 and score > best:
            best, found = score, threshold
    return found


class Runs:
    """Counts the rows that each layer of an encoder is given."""

    def __init__(self, model: LiminalForPADRegression) -> None:
        self.rows: list[int] = []
        for layer in layers_of(model.liminal.encoder):
            layer.register_forward_hook(self._count)

    def _count(self, module: Any, args: Any, output: Any) -> None:
        self.rows.append(len(output if isinstance(output, torch.Tensor) else output[0]))

    def taken(self) -> list[int]:
        rows, self.rows = self.rows, []
        return rows


@torch.no_grad()
def test_rows_leave_the_batch_in_families_that_are_read_here_alone() -> None:
    assert {*FAMILIES, "deberta-v2"} == DROPS_ROWS


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_in_part_says_what_reading_all_layers_says(family: str) -> None:
    model = deep_model(family)
    batch = padded(tokens(), "right", 9, 0)
    model.config.exit_threshold = dividing(model, batch)
    runs = Runs(model)
    output = model(**batch)
    used = runs.taken()
    # The same from the pooled states of all layers, and with all layers asked for.
    states = model.liminal.pool(**batch)
    whole = model(**batch, output_hidden_states=True)
    cached = model(pooled_embeds=states)
    assert len(set(output.depth.tolist())) > 1
    assert torch.equal(output.depth, whole.depth) and torch.equal(output.depth, cached.depth)
    for name in WHOLE:
        torch.testing.assert_close(output[name], whole[name], atol=2e-6, rtol=0)
        torch.testing.assert_close(output[name], cached[name], atol=2e-6, rtol=0)
    # Rows that are done have left the batch.
    assert used == [int((output.depth > layer).sum()) for layer in range(LAYERS) if (output.depth > layer).any()]
    # What belongs to later steps repeats the last one, and the answer is that of the exit.
    model.config.exit_threshold = None
    full = model(**batch)
    for row, depth in enumerate(output.depth.tolist()):
        torch.testing.assert_close(output.logits[row], full.pad_trajectory[row, depth - 1], atol=2e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_row_does_not_depend_on_its_neighbours(family: str, side: str) -> None:
    model = deep_model(family)
    rows = tokens()
    model.config.exit_threshold = dividing(model, padded(rows, "right", 9, 0))
    runs = Runs(model)
    together = model(**padded(rows, side, 12, 0))
    runs.taken()
    for index, row in enumerate(rows):
        alone = model(input_ids=row[None], attention_mask=torch.ones(1, len(row), dtype=torch.long))
        assert int(alone.depth) == int(together.depth[index])
        assert runs.taken() == [1] * int(alone.depth)  # no layer after the exit is run
        for name in WHOLE:
            torch.testing.assert_close(alone[name][0], together[name][index], atol=2e-6, rtol=0)


@torch.no_grad()
def test_as_many_texts_as_tokens() -> None:
    """Then no row leaves the batch: what is dropped is told by its first dimension."""
    model = deep_model("mpnet")
    batch = padded(tokens(), "right", 9, 0)
    model.config.exit_threshold = dividing(model, batch)
    expected = model(**batch)
    square = {name: torch.cat([value] * 3)[:9] for name, value in batch.items()}
    output = model(**square)
    assert output.depth.tolist() == (expected.depth.tolist() * 3)[:9]
    torch.testing.assert_close(output.logits[:4], expected.logits, atol=2e-6, rtol=0)


def test_threads_do_not_stop_each_other() -> None:
    model = deep_model()
    batch = padded(tokens(), "right", 9, 0)
    model.config.exit_threshold = dividing(model, batch)

    @torch.no_grad()
    def read(rows: int) -> torch.Tensor:
        return model(**{name: value[:rows] for name, value in batch.items()}).logits

    counts = [4, 3, 2] * 20
    expected = {rows: read(rows) for rows in (2, 3, 4)}
    with ThreadPoolExecutor(3) as threads:
        for rows, found in zip(counts, threads.map(read, counts), strict=True):
            torch.testing.assert_close(found, expected[rows], atol=2e-6, rtol=0)


def deberta(**fields: Any) -> LiminalForPADRegression:
    size = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    distances = {"relative_attention": True, "position_buckets": 2, "pos_att_type": ["p2c", "c2p"]}
    encoder = DebertaV2Config(**size, **distances, intermediate_size=37, max_position_embeddings=64, **fields)
    torch.manual_seed(0)
    model = LiminalForPADRegression(LiminalConfig(text_config=encoder, head="v8", latent_size=16)).eval()
    with torch.no_grad():
        model.liminal.head.exit_head.weight.normal_(std=3.0)
    return model


@torch.no_grad()
def test_a_table_of_distances_as_long_as_the_batch_stays_whole() -> None:
    model, batch = deberta(), padded(tokens(), "right", 9, 0)
    model.config.exit_threshold = dividing(model, batch)
    assert len(model.liminal.encoder.encoder.rel_embeddings.weight) == len(batch["input_ids"])
    output, whole = model(**batch), model(**batch, output_hidden_states=True)
    assert torch.equal(output.depth, whole.depth) and len(set(output.depth.tolist())) > 1
    torch.testing.assert_close(output.logits, whole.logits, atol=2e-6, rtol=0)


@torch.no_grad()
def test_a_convolution_between_layers_is_not_left_out() -> None:
    model, batch = deberta(conv_kernel_size=3), padded(tokens(), "right", 9, 0)
    with pytest.raises(LiminalError, match="convolution between its first two layers"):
        model(**batch, num_outer_steps=1)


@torch.no_grad()
@pytest.mark.parametrize(("every", "layers"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4]), (9, [4])])
def test_a_call_may_say_how_deep_it_reads(every: int, layers: list[int]) -> None:
    model = deep_model("t5", depth_every=every)
    assert model.config.depth_layers == layers and model.config.num_outer_steps == len(layers)
    batch, runs = padded(tokens(), "right", 9, 0), Runs(model)
    full = model(**batch)
    assert full.depth is None
    runs.taken()
    for steps, layer in enumerate(layers, start=1):
        output = model(**batch, num_outer_steps=steps)
        assert len(runs.taken()) == layer
        assert output.pad_trajectory.shape == (4, steps, 3) and output.step_attentions.shape == (4, steps, steps)
        torch.testing.assert_close(output.pad_trajectory, full.pad_trajectory[:, :steps], atol=2e-6, rtol=0)
    with pytest.raises(LiminalError, match=f"num_outer_steps must be in 1..{len(layers)}"):
        model(**batch, num_outer_steps=len(layers) + 1)


def test_training_reads_all_layers_and_teaches_every_step() -> None:
    model = deep_model(exit_threshold=1e9, linear_skip=True).train()
    batch = padded(tokens(), "right", 9, 0)
    runs = Runs(model)
    output = model(**batch, labels=torch.rand(4, 3))
    assert runs.taken() == [4] * LAYERS and output.depth is None
    output.loss.backward()
    missing = [name for name, value in model.liminal.head.named_parameters() if value.grad is None]
    assert missing == []
    assert all(float(projection.weight.grad.abs().sum()) > 0 for projection in model.liminal.head.projections)
    # What RINSE and the uncertainty learn moves nothing else.
    others = {"rinse", "exit_head", "spread_head"}
    before = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    model.config.exit_threshold = None
    model.config.exit_weight = model.config.uncertainty_weight = 5.0
    torch.manual_seed(0)
    model.eval()(**batch, labels=torch.full((4, 3), 0.5)).loss.backward()
    strong = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    model.config.exit_weight = model.config.uncertainty_weight = 0.0
    model(**batch, labels=torch.full((4, 3), 0.5)).loss.backward()
    for name, value in model.named_parameters():
        if name.split(".")[2] not in others and name in before:
            torch.testing.assert_close(strong[name], value.grad)


def test_rinse_learns_what_reading_on_gains() -> None:
    model = deep_model(uncertainty_weight=0.0, exit_weight=1.0, deep_supervision=0.0)
    batch, labels = padded(tokens(), "right", 9, 0), torch.rand(4, 3)
    with torch.no_grad():
        model.liminal.head.exit_head.weight.zero_()
        model.liminal.head.pad_head[-1].weight.mul_(10)
        answers = model(**batch).pad_trajectory
    gained = (answers - answers[:, -1:]).square().sum(-1)
    model.requires_grad_(False)
    head = model.liminal.head
    learned = [*head.rinse.requires_grad_(True).parameters(), *head.exit_head.requires_grad_(True).parameters()]
    optimizer = torch.optim.Adam(learned, lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    with torch.no_grad():
        gains = model(**batch).gains
    assert float(torch.corrcoef(torch.stack([gains.flatten(), gained.flatten()]))[0, 1]) > 0.95
    assert torch.equal(gains[:, -1], torch.zeros(4))


@torch.no_grad()
def test_checkpoints_keep_their_exits(tmp_path: Path) -> None:
    model = deep_model()
    batch = padded(tokens(), "right", 9, 0)
    model.config.exit_threshold = dividing(model, batch)
    model.save_pretrained(tmp_path)
    again = LiminalForPADRegression.from_pretrained(tmp_path)
    assert again.config.exit_threshold == model.config.exit_threshold
    expected, output = model(**batch), again(**batch)
    assert torch.equal(output.logits, expected.logits) and torch.equal(output.depth, expected.depth)
    # Hooks of a call are gone after it, also after one that fails.
    hooks = [len(layer._forward_hooks) for layer in layers_of(model.liminal.encoder)]
    with pytest.raises(LiminalError):
        model(**batch, num_outer_steps=99)
    assert hooks == [len(layer._forward_hooks) for layer in layers_of(model.liminal.encoder)]
    assert torch.equal(copy.deepcopy(model)(**batch).logits, expected.logits)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_outer_steps": 3}, "num_outer_steps must be 4 for the head v8, because the encoder has 4 layers"),
        ({"pooled_layers": "last"}, "pooled_layers must be 'all' for the head v8"),
        ({"depth_every": 0}, "depth_every must be a whole number"),
        ({"exit_threshold": float("nan")}, "exit_threshold must be a finite number, or None for never"),
    ],
)
def test_what_can_not_be_read_is_said(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(LiminalError, match=re.escape(message)):
        deep_model(**fields)


@torch.no_grad()
def test_a_family_without_a_list_of_layers_is_read_whole() -> None:
    """ALBERT runs one layer again and again."""
    size = {"embedding_size": 8, "hidden_size": 32, "intermediate_size": 37}
    encoder = AlbertConfig(vocab_size=60, num_hidden_layers=3, num_attention_heads=4, **size)
    model = LiminalForPADRegression(LiminalConfig(text_config=encoder, head="v8", latent_size=16)).eval()
    batch = padded(tokens(), "right", 9, 0)
    assert model(**batch).pad_trajectory.shape == (4, 3, 3)
    model.config.exit_threshold = 0.1
    with pytest.raises(LiminalError, match=r"'albert' encoder are not found .* set config\.exit_threshold = None"):
        model(**batch)


def test_pipelines_and_scorer_stop_early(tmp_path: Path) -> None:
    model = LiminalForPADRegression.from_encoder_pretrained(MINILM, head="v8", latent_size=16).eval()
    with torch.no_grad():
        model.liminal.head.exit_head.weight.normal_()
    model.save_pretrained(tmp_path)
    load_tokenizer(MINILM).save_pretrained(tmp_path)
    texts = ["What a lovely surprise!", "The train leaves at nine.", "I hate this, and I hate you, too.", "No."]
    pad = pipeline("pad-regression", model=str(tmp_path))
    runs = Runs(pad.model)
    whole = pad(texts)
    assert runs.taken() == [1] * 6 * len(texts)
    pad.model.config.exit_threshold = 1e9
    shallow = pad(texts)
    assert runs.taken() == [1] * len(texts)
    assert [row["pleasure"] for row in shallow] == pytest.approx(
        [row["pleasure"] for row in pad(texts, num_outer_steps=1)], abs=1e-6
    )
    assert [row["pleasure"] for row in shallow] != [row["pleasure"] for row in whole]
    runs.taken()
    table = Scorer(pad.model, tokenizer=pad.tokenizer).score(texts)
    assert sum(runs.taken()) == len(texts)
    assert table["pleasure"].to_pylist() == pytest.approx([row["pleasure"] for row in shallow], abs=1e-5)


@pytest.mark.nightly
@torch.no_grad()
def test_onnx_reads_all_layers_and_answers_as_torch_does(tmp_path: Path) -> None:
    from liminal_hf.export.onnx import export_onnx
    from liminal_hf.scoring.onnx_runtime import OnnxPAD

    model = deep_model(label_std=[0.3, 0.2, 0.2])
    batch = padded(tokens(), "right", 9, 0)
    model.config.exit_threshold = dividing(model, batch)
    export_onnx(model, tmp_path)  # it compares every output with torch
    expected = model(**batch)
    found = OnnxPAD(tmp_path).run({name: value.numpy() for name, value in batch.items()})
    assert found["depth"].tolist() == expected.depth.tolist() and len(set(expected.depth.tolist())) > 1
    torch.testing.assert_close(torch.from_numpy(found["logits"]), expected.logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_remote_copy_stops_early_too(tmp_path: Path) -> None:
    model = deep_model()
    batch = padded(tokens(), "right", 9, 0)
    model.config.exit_threshold = dividing(model, batch)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "heads_v8.py").is_file() and (tmp_path / "depth.py").is_file()
    code = (
        "import sys, torch; from safetensors.torch import load_file; from transformers import AutoModel\n"
        "sys.path = [place for place in sys.path if 'liminal' not in place]\n"
        "from transformers import AutoModelForSequenceClassification as Auto\n"
        "model = Auto.from_pretrained(sys.argv[1], trust_remote_code=True).eval()\n"
        "assert not type(model).__module__.startswith('liminal_hf.')\n"
        "with torch.no_grad(): print(model(**load_file(sys.argv[2])).depth.tolist())\n"
    )
    save_file(batch, tmp_path / "batch.safetensors")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "batch.safetensors")],
        capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == str(model(**batch).depth.tolist()), done.stderr[-500:]
