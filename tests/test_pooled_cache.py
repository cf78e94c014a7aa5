"""The cache of pooled states: the numbers are the model's own, and no stale or damaged file is ever used."""

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MINILM, tiny_model
from datasets import Dataset, DatasetDict
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from liminal_hf.data import load_emobank, pooled_cache, pooled_dataset
from liminal_hf.modeling.configuration_liminal import LiminalConfig
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.modeling.pooling import POOLERS
from liminal_hf.modeling.texts import Tokens

TEXTS = ["Good morning to all of you.", "No!", "Go away and never come back here again.", "No!", "Well, fine."]


@pytest.fixture(scope="module")
def model(minilm: Path) -> LiminalForPADRegression:
    return LiminalForPADRegression.from_encoder_pretrained(MINILM, head="linear", pooled_layers="all").eval()


@pytest.fixture(scope="module")
def tokenizer(minilm: Path) -> Any:
    return AutoTokenizer.from_pretrained(minilm)


@pytest.fixture
def tiny() -> LiminalForPADRegression:
    return tiny_model("bert", head="linear")


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    """A tokenizer for the tiny encoders: a number per word, no special tokens, no padding token."""
    return word_tokenizer()


def word_tokenizer(**changes: int) -> PreTrainedTokenizerFast:
    vocabulary = {"[UNK]": 3} | {f"w{i}": i for i in range(4, 50)} | changes
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def rows(*texts: str) -> Dataset:
    return Dataset.from_dict({"text": list(texts), "place": list(range(len(texts)))})


def states(data: Dataset) -> np.ndarray:
    return np.array(data["pooled_embeds"][:], dtype=np.float32)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of texts whenever the encoder runs over a split."""
    counts: list[int] = []
    encode = pooled_cache.encode

    def counted(base: Any, tokenizer: Any, tokens: Tokens, batch_size: int) -> np.ndarray:
        counts.append(len(tokens.lengths))
        return encode(base, tokenizer, tokens, batch_size)

    monkeypatch.setattr(pooled_cache, "encode", counted)
    return counts


def test_the_states_are_those_of_the_model_row_by_row(
    model: LiminalForPADRegression, tokenizer: Any, data_dir: Path, tmp_path: Path, encoded: list[int]
) -> None:
    corpus = load_emobank(data_dir)
    some = DatasetDict(train=corpus["train"].shuffle(seed=0).select(range(60)), test=corpus["test"].select(range(30)))
    pooled = pooled_dataset(model, tokenizer, some, max_length=48, cache_dir=tmp_path, batch_size=16)
    assert list(pooled) == ["train", "test"] and encoded == [len(set(some[split]["text"])) for split in some]
    for split in some:
        assert pooled[split].column_names == ["id", "text", "labels", "pooled_embeds"]
        assert pooled[split].remove_columns("pooled_embeds")[:] == some[split][:]
        feature = pooled[split].features["pooled_embeds"]
        assert (feature.feature.dtype, feature.length) == ("float32", model.liminal.pooled_size)
        found = states(pooled[split])
        with torch.inference_mode():
            for text, state in zip(some[split]["text"], found, strict=True):
                inputs = tokenizer(text, truncation=True, max_length=48, return_tensors="pt")
                assert np.abs(model.liminal.pool(**inputs)[0].numpy() - state).max() < 1e-5
    # And they lead to the same answer as the tokens.
    with torch.inference_mode():
        from_tokens = model(**tokenizer(some["test"]["text"][:8], padding=True, return_tensors="pt")).logits
        from_states = model(pooled_embeds=torch.from_numpy(states(pooled["test"].select(range(8))))).logits
    assert torch.allclose(from_tokens, from_states, atol=1e-5)
    again = pooled_dataset(model, tokenizer, some, max_length=48, cache_dir=tmp_path)
    assert len(encoded) == 2 and (states(again["train"]) == states(pooled["train"])).all()
    assert len(files(tmp_path)) == 2 and not list(tmp_path.glob(".*"))


def test_the_same_encoder_by_another_way_finds_the_file(
    model: LiminalForPADRegression, tokenizer: Any, tmp_path: Path, encoded: list[int]
) -> None:
    cache = tmp_path / "cache"
    first = pooled_dataset(model, tokenizer, rows(*TEXTS), max_length=32, cache_dir=cache)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    reloaded = LiminalForPADRegression.from_pretrained(tmp_path / "saved")
    other_head = LiminalForPADRegression.from_encoder_pretrained(MINILM, head="v7", pooled_layers="all")
    for same in (reloaded, other_head, other_head.liminal):
        fresh = AutoTokenizer.from_pretrained(tmp_path / "saved")
        found = pooled_dataset(same, fresh, rows(*TEXTS), max_length=32, cache_dir=cache, batch_size=2)
        assert (states(found) == states(first)).all()
    assert encoded == [4] and len(files(cache)) == 1


def test_whatever_changes_the_states_finds_no_old_ones(
    tiny: LiminalForPADRegression, words: PreTrainedTokenizerFast, tmp_path: Path, encoded: list[int]
) -> None:
    data = rows("w4 w5 w6 w7", "w8")

    def run(model: Any = tiny, tokenizer: Any = words, dataset: Dataset = data, max_length: int = 8) -> np.ndarray:
        before = len(encoded)
        found = states(pooled_dataset(model, tokenizer, dataset, max_length=max_length, cache_dir=tmp_path))
        computed.append(len(encoded) - before)
        return found

    computed: list[int] = []
    first = run()
    run()
    assert computed == [1, 0]
    changed = {
        "pooling": lambda: run(tiny_model("bert", head="linear", pooling="max")),
        "layers": lambda: run(tiny_model("bert", head="linear", pooled_layers="all")),
        "weights": lambda: run(tiny_model("bert", head="linear", seed=1)),
        "max_length": lambda: run(max_length=2),
        "texts": lambda: run(dataset=rows("w4 w5 w6 w7", "w9")),
        "order of the texts": lambda: run(dataset=rows("w8", "w4 w5 w6 w7")),
        "tokenizer": lambda: run(tokenizer=word_tokenizer(w8=55)),
        "dtype": lambda: run(tiny_model("bert", head="linear").bfloat16()),
    }
    for what, with_change in changed.items():
        before = len(encoded)
        found = with_change()
        assert len(encoded) == before + 1, what
        assert found.shape != first.shape or not np.array_equal(found, first), what
    with torch.no_grad():  # in place, as training does
        tiny.liminal.encoder.get_input_embeddings().weight[4] += 1
    moved = run()
    assert computed[-1] == 1 and not np.array_equal(moved[0], first[0]) and np.array_equal(moved[1], first[1])
    assert run(max_length=9).tolist() == moved.tolist()  # the same tokens: nothing to compute
    assert computed[-1] == 0


class Scaled(torch.nn.Module):
    """A plugin's pooler whose source says nothing of what it does."""

    factor = 1.0

    def __init__(self, hidden_size: int) -> None:
        super().__init__()

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return states[:, 0] * self.factor


def test_a_pooler_is_known_by_what_it_does_and_where_it_comes_from(
    words: PreTrainedTokenizerFast, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> np.ndarray:
        model = tiny_model("bert", head="linear", pooling="scaled")
        return states(pooled_dataset(model, words, rows("w4 w5"), max_length=8, cache_dir=tmp_path))

    monkeypatch.setitem(POOLERS, "scaled", Scaled)
    first = run()
    assert (run() == first).all() and len(encoded) == 1
    monkeypatch.setattr(Scaled, "factor", 5.0)
    np.testing.assert_allclose(run(), 5 * first, rtol=1e-6)
    factor = 7.0

    class Closure(Scaled):
        def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return states[:, 0] * factor

    monkeypatch.setitem(POOLERS, "scaled", Closure)
    np.testing.assert_allclose(run(), 7 * first, rtol=1e-6)
    factor = 9.0
    np.testing.assert_allclose(run(), 9 * first, rtol=1e-6)
    assert len(encoded) == 4
    model = tiny_model("bert", head="linear", pooling="scaled")
    model.config.plugins = {"pooler": "scaled-pooler==1.0"}
    pooled_dataset(model, words, rows("w4 w5"), max_length=8, cache_dir=tmp_path)
    assert len(encoded) == 5, "another version of a plugin"


def contents(path: Path) -> tuple[dict[str, str], np.ndarray]:
    with safe_open(path, framework="numpy") as file:
        return file.metadata(), file.get_tensor("pooled_embeds")


def flipped(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 4
    return bytes(changed)


def swapped_for_others(path: Path) -> None:
    """A well-formed file with a right checksum, of other states."""
    about, array = contents(path)
    seal = pooled_cache._seal(path.with_stem("0" * 32), array + 1)
    save_file({"pooled_embeds": array + 1}, path, metadata=about | {"liminal_hf": seal})


DAMAGE = {
    "cut short": lambda content: content[:-10],
    "cut to the header": lambda content: content[:20],
    "emptied": lambda content: b"",
    "a bit of the numbers": lambda content: flipped(content, -7),
    "a bit of the header": lambda content: flipped(content, content.index(b"liminal_hf") + 20),
    "a bit of the length": lambda content: flipped(content, 1),
}
FILES = {
    name: lambda path, change=change: path.write_bytes(change(path.read_bytes())) for name, change in DAMAGE.items()
}
FILES |= {
    "of others": swapped_for_others,
    "without its header": lambda path: save_file({"pooled_embeds": contents(path)[1]}, path),
}


@pytest.mark.parametrize("damage", FILES.values(), ids=FILES)
def test_a_damaged_file_is_noticed_and_made_again(
    damage: Any, tiny: Any, words: Any, tmp_path: Path, encoded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    data = rows("w4 w5 w6 w7", "w8")
    first = states(pooled_dataset(tiny, words, data, max_length=8, cache_dir=tmp_path))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    again = states(pooled_dataset(tiny, words, data, max_length=8, cache_dir=tmp_path))
    assert (again == first).all() and encoded == [2, 2] and caplog.text.count("are damaged (") == 1
    assert path.read_bytes() == whole
    pooled_dataset(tiny, words, data, max_length=8, cache_dir=tmp_path)
    assert len(encoded) == 2


def test_any_flipped_bit_is_noticed(tiny: Any, words: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every byte of a small file, one bit each: the states that come back are always the right ones."""
    data = rows("w4 w5")
    first = states(pooled_dataset(tiny, words, data, max_length=8, cache_dir=tmp_path))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1 << (position % 8)
        path.write_bytes(content)
        found = pooled_cache._read(path, first.shape)
        assert found is None or (found == first).all()


def test_a_disk_that_takes_nothing(
    tiny: Any, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = states(pooled_dataset(tiny, words, rows("w4 w5"), max_length=8, cache_dir=tmp_path / "good"))
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    full = Path("/dev/full")
    for folder, target in ((in_the_way, None), (tmp_path / "full", full if full.exists() else None)):
        caplog.clear()
        if target is not None:
            write = save_file
            monkeypatch.setattr(pooled_cache, "save_file", lambda data, _, **kw: write(data, target, **kw))  # noqa: B023
        found = states(pooled_dataset(tiny, words, rows("w4 w5"), max_length=8, cache_dir=folder))
        assert (found == expected).all()
        if target is not None or folder == in_the_way:
            assert "can't be kept" in caplog.text
    assert not files(tmp_path / "full") and not list((tmp_path / "full").glob(".*.part"))


def fill(folder: Path, start: Any, results: Any) -> None:
    """What each of several processes does with one cache."""
    torch.set_num_threads(1)
    start.wait()
    model = tiny_model("bert", head="linear")
    data = rows(*(f"w{4 + i % 40} w5 w{4 + i % 17}" for i in range(200)))
    results.put(states(pooled_dataset(model, word_tokenizer(), data, max_length=8, cache_dir=folder)).tobytes())


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once for both
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=fill, args=(tmp_path, start, results)) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert len(set(found)) == 1 and len(files(tmp_path)) == 1 and not list(tmp_path.glob(".*.part"))
    data = rows(*(f"w{4 + i % 40} w5 w{4 + i % 17}" for i in range(200)))
    again = pooled_dataset(tiny_model("bert", head="linear"), word_tokenizer(), data, max_length=8, cache_dir=tmp_path)
    assert states(again).tobytes() == found[0]


@pytest.mark.parametrize("family", ["gpt2", "roberta", "t5", "llama"])
def test_other_families(family: str, words: Any, tmp_path: Path) -> None:
    model = tiny_model(family, head="linear")
    texts = ["w4 w5 w6 w7 w8", "w8", "w9 w10"]
    found = states(pooled_dataset(model, words, rows(*texts), max_length=8, cache_dir=tmp_path))
    with torch.inference_mode():
        for text, state in zip(texts, found, strict=True):
            ids = torch.tensor([words(text)["input_ids"]])
            alone = model.liminal.pool(input_ids=ids, attention_mask=torch.ones_like(ids))[0].numpy()
            assert np.abs(alone - state).max() < 1e-5


def test_the_model_is_left_as_it_was(tiny: Any, words: Any, tmp_path: Path) -> None:
    tiny.train()
    tiny.liminal.head.eval()
    before = [module.training for module in tiny.modules()]
    first = pooled_dataset(tiny, words, rows("w4 w5 w6"), max_length=8, cache_dir=tmp_path / "a")
    assert [module.training for module in tiny.modules()] == before
    # Dropout was off.
    second = pooled_dataset(tiny, words, rows("w4 w5 w6"), max_length=8, cache_dir=tmp_path / "b")
    assert (states(first) == states(second)).all()


def test_where_it_is_kept(tiny: Any, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path))
    pooled_dataset(tiny, words, rows("w4"), max_length=8)
    assert len(files(tmp_path / "pooled")) == 1
    shutil.rmtree(tmp_path / "pooled")
    pooled_dataset(tiny, words, rows("w4"), max_length=8)


def test_data_of_any_shape(tiny: Any, words: Any, tmp_path: Path) -> None:
    def run(data: Dataset, **kwargs: Any) -> Dataset:
        return pooled_dataset(tiny, words, data, max_length=8, cache_dir=tmp_path, **kwargs)

    plain = run(rows("w4", "w5 w6", "w7"))
    shuffled = rows("w4", "w5 w6", "w7").select([2, 0])
    # In a batch of another size some processors sum in another order.
    np.testing.assert_allclose(states(run(shuffled)), states(plain)[[2, 0]], atol=1e-6)
    renamed = rows("w4", "w5 w6", "w7").rename_column("text", "review")
    assert (states(run(renamed, text="review")) == states(plain)).all()
    as_tensors = run(rows("w4", "w5 w6", "w7").with_format("torch"))
    assert (np.asarray(as_tensors["pooled_embeds"][:]) == states(plain)).all()
    assert run(rows()).num_rows == 0
    torch_rows = plain.with_format("torch")
    assert torch_rows[1]["pooled_embeds"].dtype == torch.float32 and torch_rows[1]["pooled_embeds"].shape == (32,)


def test_errors(tiny: Any, words: Any, tmp_path: Path) -> None:
    def run(model: Any, data: Any) -> None:
        pooled_dataset(model, words, data, max_length=8, cache_dir=tmp_path)

    headless = LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16))
    with pytest.raises(ValueError, match=r"no encoder.*pooled_embeds"):
        run(headless, rows("w4"))
    with pytest.raises(ValueError, match="token_attention"):
        run(tiny_model("bert", head="v7", token_attention=True), rows("w4"))
    with pytest.raises(ValueError, match="split 'dev', row 1 is empty"):
        run(tiny, DatasetDict(dev=rows("w4", "  ")))
    with pytest.raises(ValueError, match="row 0 must be a string, got a missing value"):
        run(tiny, Dataset.from_dict({"text": [None, "w4"]}))
    with pytest.raises(ValueError, match=r"column 'text' is missing; the columns are \['place'\]"):
        run(tiny, rows("w4").remove_columns("text"))
    with pytest.raises(ValueError, match="already"):
        run(tiny, rows("w4").add_column("pooled_embeds", [[0.0]]))
    with pytest.raises(ValueError, match="row 1 is empty"):
        run(tiny, rows("w4", "\u200b"))
    with torch.no_grad():
        tiny.liminal.encoder.get_input_embeddings().weight[7] = float("nan")
    with pytest.raises(ValueError, match=r"token ids \[7\]"):
        run(tiny, rows("w4", "w7"))
    assert not files(tmp_path)
