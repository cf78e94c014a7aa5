"""Encoders put together from packages: 4-bit weights from a file made here, and the real ones where they are."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import encoders


def blocks(rows: int, columns: int, generator: np.random.Generator) -> tuple[bytes, np.ndarray]:
    """Random Q4_0 blocks and what they stand for, by the plain formula."""
    count = rows * columns // 32
    scales, nibbles = generator.random(count).astype(np.float16), generator.integers(0, 16, (count, 32))
    raw = b"".join(
        scale.tobytes() + bytes(int(low) | int(high) << 4 for low, high in zip(row[:16], row[16:], strict=True))
        for scale, row in zip(scales, nibbles, strict=True)
    )
    return raw, ((nibbles - 8) * scales.astype(np.float32)[:, None]).astype(np.float32).reshape(rows, columns)


def test_blocks_of_four_bits_are_what_the_formula_says() -> None:
    raw, expected = blocks(3, 64, np.random.default_rng(0))
    assert np.array_equal(encoders.dequantize(raw).reshape(3, 64), expected)


def test_a_packed_file_is_read_whole() -> None:
    raw, expected = blocks(2, 32, np.random.default_rng(1))
    bias = np.arange(5, dtype=np.float32)
    words = ["<s>", "<pad>", "</s>", "<unk>", "▁é"]
    text = [word.encode() for word in words]
    offsets = np.cumsum([0, *map(len, text)]).astype("<u4").tobytes()
    head = b"E5S1" + struct.pack("<I7ifi", 1, 32, 1, 2, 64, 5, 9, 1, 1e-12, 32)
    head += struct.pack("<5iQ", len(words), 0, 2, 1, 3, len(b"".join(text)))
    head += offsets + np.zeros(len(words), "<f4").tobytes() + b"".join(text) + struct.pack("<iI", 0, 0)
    entries = [("l0.q.w", 1, len(raw) // 18 * 32, raw), ("l0.q.b", 0, bias.size, bias.tobytes())]
    size = len(head) + 4 + sum(2 + len(name) + 21 for name, *_ in entries)
    directory, body = struct.pack("<i", len(entries)), b""
    for name, kind, count, content in entries:
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, count, size + len(body), len(content))
        body += content
    sizes, vocabulary, tensors = encoders.read_e5(head + directory + body)
    assert (sizes["H"], sizes["NL"], sizes["MAXP"]) == (32, 1, 9)
    assert vocabulary["pieces"] == words and vocabulary["unk"] == 3
    assert np.array_equal(tensors["l0.q.w"].reshape(2, 32), expected) and np.array_equal(tensors["l0.q.b"], bias)


def test_another_file_is_refused() -> None:
    with pytest.raises(ValueError, match="does not begin with E5S1"):
        encoders.read_e5(b"GGUF" + bytes(64))


def test_mpnet_is_the_published_one_and_cosines_are_as_expected() -> None:
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoModel, AutoTokenizer

    path = try_to_load_from_cache(encoders.MPNET, "model.safetensors", revision=encoders.MPNET_REVISION)
    if not isinstance(path, str):
        pytest.skip("all-mpnet-base-v2 is not in the cache: python scripts/encoders.py mpnet")
    assert encoders.file_sha256(Path(path)) == encoders.MPNET_FILES["model.safetensors"]
    tokenizer, model = AutoTokenizer.from_pretrained(encoders.MPNET), AutoModel.from_pretrained(encoders.MPNET).eval()
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "A cheetah is running behind its prey."]
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        states = torch.nn.functional.normalize((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))
    near, far = float(states[0] @ states[1]), float(states[0] @ states[2])
    assert near > 0.6 > 0.3 > far, (near, far)
