"""What the tests of scoring share: a tiny checkpoint with a tokenizer of its own, and texts for it."""

import random
from pathlib import Path

from conftest import VOCABULARY, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A number per word: w3, w4, ..."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{f"w{i}": i for i in range(3, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")


def tiny_checkpoint(folder: Path, seed: int = 0, steps: int = 2) -> str:
    """A saved model on an encoder of two layers of width 32, with a memory that has its say."""
    model = tiny_model("bert", seed, num_outer_steps=steps, label_std=[0.3, 0.2, 0.2], max_seq_length=48)
    kernel = model.liminal.head.soul_kernel
    kernel.memory_gate.data.fill_(3.0)
    kernel.bond.weight.data.mul_(5)
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


def some_texts(number: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 40 words."""
    generator = random.Random(seed)
    return [
        " ".join(f"w{generator.randrange(3, VOCABULARY)}" for _ in range(generator.randrange(1, 41)))
        for _ in range(number)
    ]
