"""What a memory is worth in running text: EmoBank's documents, read sentence by sentence in their order.

Requires liminal_hf with its benchmark extra and EmoBank with `meta.tsv` (`LIMINAL_DATA_DIR`, else it is fetched). The
second test beside `conversations.py`, by the same trainings.

    python scripts/documents.py

SemEval's headlines are left out: they count as one document and are no running text. EmoBank's official split cuts
through its documents: the sentences of all three splits are read in their order, and a label counts in its own split
alone. Kept states and predictions in `--work`; delete that folder after a change of the code. Writes documents.json
and the table in documents.md into `--results`.
"""

from pathlib import Path

import conversations as measure
import numpy as np
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from research.report import line, number, save
from transformers import AutoTokenizer

from liminal_hf.data import load_emobank, pooled_dataset
from liminal_hf.metrics import Array, ccc, mae
from liminal_hf.modeling.configuration_liminal import MISSING_LABEL
from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.modeling.modeling_liminal import LiminalModel

SYSTEMS = [
    measure.NO_MEMORY,
    measure.System("previous sentence's states beside the sentence's", reads="both", config={"soul_kernel": False}),
    measure.System("SoulKernel as published (v6)", shared_by="dialogue", config=measure.PUBLISHED),
    measure.System("SoulKernel as ours (v7)", shared_by="dialogue"),
]
SHRINK = "shrink to the document's mean so far"


def in_order(corpus: DatasetDict) -> tuple[DatasetDict, dict[str, Array], Array]:
    """All sentences in the order of their documents, once per split; without SemEval's headlines, which are no text.

    Args:
        corpus: EmoBank with extras.

    Returns:
        The same rows under each split's name, with the document as `dialogue_id`; per split the labels, -100 on the
        sentences of other splits; and which rows are test rows.
    """
    parts = [rows.add_column("split", [name] * len(rows)) for name, rows in corpus.items()]
    rows = concatenate_datasets(parts)
    genre = np.array(rows["genre"][:])
    rows = rows.select(np.flatnonzero(genre != "SemEval")).sort("position")
    split, labels = np.array(rows["split"][:]), np.array(rows["labels"][:], dtype=np.float64)
    masked = {name: np.where((split == name)[:, None], labels, MISSING_LABEL) for name in measure.SPLITS}
    documents = rows.select_columns(["text", "document"]).rename_column("document", "dialogue_id")
    documents = documents.add_column("speaker", [""] * len(rows))
    return DatasetDict({name: documents for name in measure.SPLITS}), masked, split == "test"


def states_of(rows: Dataset, cache: Path) -> dict[str, torch.Tensor]:
    """States of MiniLM by what is read: the sentence's, or the previous one's beside them."""
    source, revision = resolve_encoder(measure.ENCODER)
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    encoder = LiminalModel.from_encoder_pretrained(measure.ENCODER, head="linear", pooled_layers="all")
    kept = pooled_dataset(encoder, tokenizer, rows.select_columns(["text"]), max_length=128, cache_dir=cache)
    states = torch.as_tensor(kept.with_format("numpy")["pooled_embeds"][:])
    document = rows["dialogue_id"][:]
    follows = torch.tensor([row > 0 and document[row] == document[row - 1] for row in range(len(rows))])
    return {"turn": states, "both": torch.cat([states, states.roll(1, 0) * follows[:, None]], dim=1)}


def markdown(report: dict) -> str:
    """The report for people."""
    heads = ["system", "r V / A / D", "mean r", "CCC", "MAE"]
    lines = measure.head(*heads, "ours minus this, 95% over sentences", "over documents")
    for name, entry in report["systems"].items():
        values = map(number, (entry["ccc_mean"], entry["mae_mean"]))
        lines.append(line([name, *measure.figures(entry), *values, *measure.compared(entry)]))
    lines += [
        "",
        f"`{report['command']}`; EmoBank's test sentences ({report['sentences']} in {report['documents']} "
        f"documents; SemEval's headlines left out), read in the order of their documents; frozen MiniLM, 7 layers, "
        f"{report['seeds']} seeds, {report['epochs']} epochs, the epoch chosen on the development split. Ours: "
        f"{report['ours']}.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Runs what is missing and writes the table."""
    given = measure.arguments_of("documents", arguments)
    data, labels, tested = in_order(load_emobank(given.data_dir, extras=True))
    states = {
        reads: dict.fromkeys(measure.SPLITS, rows) for reads, rows in states_of(data["train"], given.work).items()
    }
    results = measure.run_all(SYSTEMS, states, data, labels, given)
    predictions = {name: [part["logits.test"][tested] for part in parts] for name, parts in results.items()}
    plain = [{name: part["logits.test"] for name in measure.SPLITS} for part in results[measure.NO_MEMORY.name]]
    predictions[SHRINK] = [measure.shrink(part, labels, data, "dialogue")[tested] for part in plain]
    gold, documents = labels["test"][tested], np.array(data["test"]["dialogue_id"][:])[tested]
    ours = SYSTEMS[-1].name
    systems = {}
    for name in (measure.NO_MEMORY.name, SHRINK, *[system.name for system in SYSTEMS[1:]]):
        entry = measure.summary(predictions[name], gold)
        entry["ccc_mean"] = float(np.mean([ccc(seed, gold) for seed in predictions[name]]))
        entry["mae_mean"] = float(np.mean([mae(seed, gold) for seed in predictions[name]]))
        if name != ours:
            entry["difference"] = measure.difference(predictions[ours], predictions[name], gold, documents)
        systems[name] = entry
    report = {
        "command": "python scripts/documents.py",
        "sentences": len(gold),
        "documents": len(np.unique(documents)),
        "seeds": given.seeds,
        "epochs": given.epochs,
        "ours": ours,
        "systems": systems,
    }
    save(given.results, "documents", report, markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
