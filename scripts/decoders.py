"""Which pooling suits a decoder: a small GPT-2, made here, read by the frozen recipe in several ways.

Requires liminal_hf with its benchmark extra, EmoBank and GoEmotions (`LIMINAL_DATA_DIR`).

    python scripts/decoders.py

No pretrained decoder comes with a package of files, so one is made without the network: GPT-2's architecture, small, on
MiniLM's word pieces, trained for one epoch to predict the next token of EmoBank's training sentences and of GoEmotions'
comments (their labels unread). It knows little, and the figures say nothing about GPT-2 itself; what may carry over is
the order of the poolings. The decoder and the cells of `benchmark.py` are kept in `--work`; an interrupted command goes
on when it is given again.
"""

import argparse
import logging
import shutil
from pathlib import Path

from benchmark import Benchmark, markdown
from datasets import Dataset
from research.grid import Grid, System
from research.report import add_folders, read_seeds, save
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

from liminal_hf.data import load_emobank, load_goemotions
from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.training.recipe import Recipe

RECIPE = Path(__file__).parents[1] / "hub_configs" / "minilm-emobank.yaml"
SIZE = {"n_embd": 128, "n_layer": 4, "n_head": 4}
READ = [("mean", "all"), ("last_token", "all"), ("max", "all"), ("mean", "last"), ("last_token", "last")]


def make_decoder(folder: Path, texts: list[str], size: dict[str, int], batch: int = 32) -> None:
    """Trains the decoder and writes it with its tokenizer; `folder` is there whole or not at all.

    Args:
        folder: of the decoder.
        texts: what to predict, token by token, once.
        size: fields of `GPT2Config`.
        batch: texts per step.
    """
    if folder.is_dir():
        return
    set_seed(0)
    recipe = Recipe.from_yaml(RECIPE)
    source, revision = resolve_encoder(recipe.model["encoder"], recipe.model.get("revision"))
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=recipe.data.max_length,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **size,
    )
    model = GPT2LMHeadModel(config)
    rows = Dataset.from_dict({"text": texts}).map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=64), batched=True, remove_columns=["text"]
    )
    rows = rows.add_column("length", [len(ids) for ids in rows["input_ids"][:]])
    arguments = TrainingArguments(
        output_dir=str(folder.with_name("decoder-training")),
        num_train_epochs=1,
        per_device_train_batch_size=batch,
        train_sampling_strategy="group_by_length",
        learning_rate=2e-3,
        warmup_steps=0.05,
        weight_decay=0.01,
        logging_steps=100,
        save_steps=200,
        save_total_limit=1,
        dataloader_pin_memory=False,
        report_to="none",
    )
    trainer = Trainer(
        model, arguments, train_dataset=rows, data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False)
    )
    trainer.train(resume_from_checkpoint=any(Path(str(arguments.output_dir)).glob("checkpoint-*")) or None)
    part = folder.with_suffix(".part")
    model.transformer.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)
    shutil.rmtree(arguments.output_dir, ignore_errors=True)


def grid_of(decoder: Path, recipe: Recipe) -> Grid:
    """The recipe on the decoder, pooled in each way of `READ`."""
    systems = [
        System(f"{pooling}, {layers} layer{'s' * (layers == 'all')}", "fit", overrides=_pooled(pooling, layers))
        for pooling, layers in READ
    ]
    return Grid("decoders", recipe.override({"model.encoder": str(decoder), "model.revision": None}), systems)


def _pooled(pooling: str, layers: str) -> dict[str, str]:
    return {"model.pooling": pooling, "model.pooled_layers": layers}


def main(arguments: list[str] | None = None) -> None:
    """Makes the decoder, reads it in each way, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0", help="whole numbers with commas (default: %(default)s)")
    parser.add_argument("--comments", type=int, default=20_000, help="of GoEmotions (default: %(default)s)")
    add_folders(parser, "runs/decoders")
    given = parser.parse_args(arguments)
    seeds = read_seeds(parser, given.seeds)
    texts = [*load_emobank()["train"]["text"][:], *load_goemotions()["train"]["text"][: given.comments]]
    given.work.mkdir(parents=True, exist_ok=True)
    decoder = given.work.resolve() / "decoder"
    make_decoder(decoder, texts, SIZE)
    bench = Benchmark(grid_of(decoder, Recipe.from_yaml(RECIPE)), given.work)
    command = "python scripts/decoders.py" + ("" if given.seeds == "0" else f" --seeds {given.seeds}")

    def save_table() -> None:
        table = bench.table(seeds, command)
        save(given.results, "decoders", table, markdown(table))

    bench.run(bench.grid.systems, seeds, save_table)
    print(markdown(bench.table(seeds, command)))


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    main()
