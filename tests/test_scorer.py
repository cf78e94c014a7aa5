"""The scorer: the pipeline's numbers on every back end, in any container; a reason for what it can't read."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import tiny_model
from datasets import Dataset
from scoring_kit import some_texts, tiny_checkpoint, word_tokenizer
from transformers import pipeline

from liminal_hf import DEFAULT_CHECKPOINT, DIMENSIONS, timeline
from liminal_hf.modeling.configuration_liminal import LiminalConfig
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import Scorer
from liminal_hf.scoring.scorer import checkpoint_identity, columns_of, load

COLUMNS = columns_of(LiminalConfig(pooled_size=8))

SENTENCES = ["What a lovely surprise!", "The funeral is on Thursday.", "No.", "He shouted at us" + " all" * 300]
BACKENDS = ["torch", "onnx", "int8"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMINAL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def scorers(checkpoint: str) -> dict[str, Scorer]:
    """One per back end; the exports are the slow part. That of "onnx" has a memory, for two tests in one."""
    pytest.importorskip("onnxruntime", reason="needs ONNX: pip install 'liminal_hf[onnx]'")
    return {backend: Scorer(checkpoint, backend, threads=2, conversations=backend == "onnx") for backend in BACKENDS}


def read(scorer: Scorer, texts: list[str]) -> np.ndarray:
    """Numbers of texts that have nothing to do with each other."""
    return numbers(scorer.score(texts, range(len(texts)) if scorer.conversations else None))


def numbers(table) -> np.ndarray:
    return np.array([table[name].to_pylist() for name in COLUMNS.names[:7]], dtype=np.float64).T


def test_it_gives_what_the_pipeline_gives(minilm: Path) -> None:
    table = Scorer(DEFAULT_CHECKPOINT, threads=1).score(SENTENCES)
    assert table.schema == COLUMNS and table["error"].null_count == len(SENTENCES)
    reader = pipeline("pad-regression", model=DEFAULT_CHECKPOINT, device="cpu")
    for row, expected in zip(table.to_pylist(), reader(SENTENCES), strict=True):
        assert row["octant"] == expected["octant"]
        assert row["confidence"] == pytest.approx(expected["confidence"], abs=1e-5)
        for name in DIMENSIONS:
            assert row[name] == pytest.approx(expected[name], abs=1e-5)
            assert row[f"uncertainty_{name}"] == pytest.approx(expected["uncertainty"][name], abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_row_depends_on_its_mates(backend: str, scorers: dict[str, Scorer]) -> None:
    scorer = scorers[backend]
    texts = some_texts(60)
    together = read(scorer, texts)
    assert np.ptp(together, axis=0).min() > 1e-3
    alone = np.concatenate([read(scorer, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=0)
    backwards = read(scorer, [*texts[::-1], "w5"])[:-1][::-1]
    np.testing.assert_allclose(together, backwards, atol=1e-5, rtol=0)
    expected = read(scorers["torch"], texts)
    assert np.abs(together - expected).max() < (0.3 if backend == "int8" else 1e-4)


def test_batches_hold_as_many_tokens_as_they_may(checkpoint: str) -> None:
    texts = some_texts(200)
    scorer = Scorer(checkpoint, tokens=100, threads=1)
    sizes = []
    run = scorer._run

    def seen(inputs):
        sizes.append(inputs["input_ids"].shape)
        return run(inputs)

    scorer._run = seen
    scorer.score(texts)
    real = sum(min(len(text.split()), 48) for text in texts)
    assert all(rows * length <= 100 for rows, length in sizes) and sum(rows for rows, _ in sizes) == 200
    assert sum(rows * length for rows, length in sizes) < 1.1 * real, "padding is less than a tenth"


def test_what_cannot_be_read_gets_a_reason_and_no_numbers(checkpoint: str) -> None:
    bad = {
        None: "no text (missing value)",
        float("nan"): "no text (missing value)",
        pd.NA: "no text (missing value)",
        "": "empty",
        " \n\t": "empty",
        "\u200b": "empty",
        17: "not a text: int",
        b"w3": "not a text: bytes",
        "w3 \ud83d": "half of a character at position 3",
        "other words": "no token of this text is known to the model",
    }
    texts = ["w3 w4", *bad, "w5"]
    counted: list[int] = []
    table = Scorer(checkpoint, threads=1).score(texts, on_rows=counted.append)
    assert table["error"].to_pylist() == [None, *bad.values(), None] and sum(counted) == len(texts)
    for name in COLUMNS.names[:-4]:
        found = table[name].to_pylist()
        assert found[1:-1] == [None] * len(bad) and None not in (found[0], found[-1])
    assert Scorer(checkpoint, threads=1).score([]).num_rows == 0
    known = Scorer(checkpoint, threads=1).score(["w3", "w4"], problems=[None, "Broken."])
    assert known["error"].to_pylist() == [None, "Broken."]


def test_long_texts_are_read_in_windows_cut_or_refused(checkpoint: str) -> None:
    texts = ["w3 " * 48, "w3 " * 49, "w4"]
    whole = Scorer(checkpoint, threads=1).score([*texts, "w3 w4, " * 70])
    assert whole["windows"].to_pylist()[:3] == [1, 2, 1] and not any(whole["truncated"].to_pylist())
    pad = pipeline("pad-regression", model=checkpoint)
    for row in (1, 3):
        expected = timeline(["", texts[1], "", "w3 w4, " * 70][row], pad)
        assert whole["windows"][row].as_py() == len(expected.rows)
        assert numbers(whole)[row][:3] == pytest.approx([expected.whole[name] for name in DIMENSIONS], abs=1e-5)
    cut = Scorer(checkpoint, threads=1, truncate=True).score(texts)
    assert cut["error"].null_count == 3 and cut["truncated"].to_pylist() == [False, True, False]
    # Not to the bit: where a row stands in its batch decides, on some processors, in which order sums are formed.
    np.testing.assert_allclose(numbers(cut)[0], numbers(cut)[1], atol=1e-6)
    refused = Scorer(checkpoint, threads=1, refuse_long=True).score(texts)
    assert refused["error"].to_pylist() == [None, "longer than 48 tokens", None]
    np.testing.assert_allclose(numbers(refused)[[0, 2]], numbers(cut)[[0, 2]], atol=1e-6)
    with pytest.raises(LiminalError, match="takes at most 64 tokens"):
        Scorer(checkpoint, max_length=1000)
    shorter = Scorer(checkpoint, threads=1, max_length=2, truncate=True).score(["w3 w4 w5", "w3 w4"])
    np.testing.assert_allclose(numbers(shorter)[0], numbers(shorter)[1], atol=1e-6)


@pytest.mark.parametrize(
    "container",
    [
        tuple, iter, np.array, lambda texts: np.array(texts, dtype=object), pa.array,
        lambda texts: pa.chunked_array([texts]), lambda texts: pd.Series(texts, index=[3, 1, 2]),
        lambda texts: pd.Series(texts, index=list("abc"), dtype="string"),
        lambda texts: pd.DataFrame({"n": [2, 0, 1], "text": texts}).sort_values("n")["text"].iloc[[2, 0, 1]],
        pd.Index, lambda texts: Dataset.from_dict({"text": texts})["text"],
    ],
)  # fmt: skip
def test_every_container_is_read_by_position(container, checkpoint: str) -> None:
    scorer = Scorer(checkpoint, threads=1)
    texts = ["w3 w4", "w5", "w6 w7 w8"]
    found = scorer.score(container(texts))
    assert found.equals(scorer.score(texts)) and len(set(found["pleasure"].to_pylist())) == 3


def test_one_text_or_a_table_is_no_container(checkpoint: str) -> None:
    scorer = Scorer(checkpoint, threads=1)
    for value, message in (
        ("hello", r"Put it in a list: \[text\]"),
        (pd.DataFrame({"text": ["a"]}), r"data\['text'\]"),
        ({"text": ["a"]}, r"data\['text'\]"),
        (3, "in a list"),
    ):
        with pytest.raises(LiminalError, match=message):
            scorer.score(value)
    with pytest.raises(LiminalError, match="2 texts and 1 problems"):
        scorer.score(["w3", "w4"], problems=[None])
    scorer = Scorer(checkpoint, threads=1, conversations=True)
    with pytest.raises(LiminalError, match="2 texts and 1 conversations"):
        scorer.score(["w3", "w4"], ["a"])
    with pytest.raises(LiminalError, match="conversations=True"):
        scorer.score(["w3"])
    table = scorer.score(["w3", "w4"], pd.Series([pd.NA, "a"]), speakers=iter(["ann", "bob"]))
    assert table["error"].to_pylist() == ["no conversation: the row names none", None]


def test_each_speaker_has_a_memory(checkpoint: str) -> None:
    scorer = Scorer(checkpoint, threads=1, conversations=True)
    texts = some_texts(4)
    apart = scorer.score(texts, ["a"] * 4, speakers=["ann", "bob", "ann", "bob"])
    assert apart.equals(scorer.score(texts, ["1", "2", "1", "2"]))
    assert not apart.equals(scorer.score(texts, ["a"] * 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_of_another_precision(dtype: torch.dtype, checkpoint: str) -> None:
    model, tokenizer = load(checkpoint)
    texts, keys = some_texts(6), list("ababab")
    expected = Scorer(checkpoint, threads=1, conversations=True).score(texts, keys)
    found = Scorer(model.to(dtype), tokenizer=tokenizer, threads=1, conversations=True).score(texts, keys)
    assert found["error"].null_count == 6
    np.testing.assert_allclose(numbers(found), numbers(expected), atol=0.1)


def test_targets_of_any_name(tmp_path: Path) -> None:
    model = tiny_model("bert", targets=["warmth", "urgency"], trained_targets=[True, False])
    table = Scorer(model, tokenizer=word_tokenizer(), threads=1).score(["w3 w4", ""])
    assert table.column_names == [
        "warmth", "urgency", "uncertainty_warmth", "uncertainty_urgency", "low_warmth", "high_warmth", "low_urgency",
        "high_urgency", "verdict_warmth", "verdict_urgency", "confidence", "octant",
        "octant_probability", "emotion", "emotion_probability", "in_domain", "windows", "truncated", "error",
    ]  # fmt: skip
    assert [row["warmth"] is None for row in table.to_pylist()] == [False, True]
    assert table["urgency"].null_count == table["octant"].null_count == 2


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_conversations_are_remembered(backend: str, checkpoint: str, request: pytest.FixtureRequest) -> None:
    scorer = Scorer(checkpoint, conversations=True)
    if backend == "onnx":
        scorer = request.getfixturevalue("scorers")["onnx"]
    texts, keys = some_texts(30, seed=1), [("a", "b", "b", "c", "b")[i % 5] for i in range(30)]
    texts[7] = ""  # a turn that can't be read changes no memory
    table = scorer.score(pd.Series(texts, index=range(30, 0, -1)), pd.Series(keys, index=range(30)))
    reader = pipeline("pad-regression", model=checkpoint, device="cpu")
    for key in "abc":
        rows = [row for row in range(30) if keys[row] == key and texts[row]]
        expected = reader([{"role": key, "content": texts[row]} for row in rows])
        for row, wanted in zip(rows, expected, strict=True):
            for name in DIMENSIONS:
                assert table[name][row].as_py() == pytest.approx(wanted[name], abs=1e-4)
    assert table["error"][7].as_py() == "empty"
    stateless = Scorer(checkpoint, threads=1).score(texts)
    assert np.nanmax(np.abs(numbers(table) - numbers(stateless))) > 1e-3, "the memory has its say"


def test_a_head_without_uncertainty_leaves_it_out(tmp_path: Path) -> None:
    model = tiny_model("bert", head="linear")
    row = Scorer(model, tokenizer=word_tokenizer(), threads=1).score(["w3"]).to_pylist()[0]
    assert row["pleasure"] is not None and row["confidence"] is row["uncertainty_arousal"] is row["error"] is None
    with pytest.raises(ValueError, match="has no memory"):
        Scorer(model, tokenizer=word_tokenizer(), conversations=True)
    with pytest.raises(ValueError, match="needs its tokenizer"):
        Scorer(model)
    with pytest.raises(ValueError, match="torch, onnx, int8"):
        Scorer(model, "tensorrt", tokenizer=word_tokenizer())


def test_a_model_that_gives_no_number_says_so(checkpoint: str) -> None:
    model, tokenizer = load(checkpoint)
    model.liminal.encoder.embeddings.word_embeddings.weight.data[7] = float("nan")
    table = Scorer(model, tokenizer=tokenizer, threads=1).score(["w6", "w7", "w8"])
    assert table["error"].to_pylist() == [None, "the model gave a number that is not finite", None]
    assert table["pleasure"].to_pylist()[1] is None and table["octant"].null_count == 1


def test_the_identity_is_that_of_weights_config_and_tokenizer(checkpoint: str, tmp_path: Path) -> None:
    before = checkpoint_identity(*load(checkpoint))
    model, tokenizer = load(checkpoint)
    tokenizer(["w3", "w4 w5"], padding=True, truncation=True, max_length=1)
    assert checkpoint_identity(model, tokenizer) == before
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert checkpoint_identity(*load(tmp_path)) == before, "the folder is none of it"
    model.config.num_outer_steps = 3
    assert checkpoint_identity(model, tokenizer) != before
    assert checkpoint_identity(*load(tiny_checkpoint(tmp_path / "other", seed=1))) != before


def test_an_export_is_kept(checkpoint: str, scorers: dict[str, Scorer], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args, **kwargs):
        raise AssertionError("exported again")

    monkeypatch.setattr("liminal_hf.export.onnx.export_onnx", never)
    assert Scorer(checkpoint, "int8", threads=1).score(["w3"])["error"].null_count == 1
