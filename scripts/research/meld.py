"""MELD: 13,708 turns of dialogue from the series Friends, each with one of seven emotions, here also as PAD.

Requires datasets and pandas, and a folder with the corpus.

Poria et al. 2019, "MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations" (ACL). GPL-3.0: for
evaluation; ship nothing that was trained on it.
"""

import os

import pandas as pd
from datasets import Dataset, DatasetDict, Features, List, Value

from liminal_hf.io import require_file

SOURCE = "https://github.com/declare-lab/MELD (data/MELD)"
_SPLITS = {"train": "train", "validation": "dev", "test": "test"}

# Mean pleasure, arousal and dominance of emotion words, each scale on -1..1: Russell & Mehrabian 1977, "Evidence for a
# three-factor theory of emotions", Journal of Research in Personality 11, table 4; the terms there are joyful,
# surprised, angry, sad, disgusted and fearful. The article was not at hand: the numbers were compared over several
# independent public transcriptions of the table, which agree, but for sadness: a family of published code has +.27
# for its arousal (and, for anger, -.43 .67 .34); the transcriptions that name the term "sad" have -.27. Neutral is not
# in the table; it is the middle of the scales.
EMOTION_PAD: dict[str, tuple[float, float, float]] = {
    "joy": (0.76, 0.48, 0.35),
    "surprise": (0.40, 0.67, -0.13),
    "neutral": (0.0, 0.0, 0.0),
    "anger": (-0.51, 0.59, 0.25),
    "sadness": (-0.63, -0.27, -0.33),
    "disgust": (-0.60, 0.35, 0.11),
    "fear": (-0.64, 0.60, -0.43),
}


def load_meld(data_dir: str | os.PathLike[str] | None = None) -> DatasetDict:
    """MELD on its own split, turns in the order in which they were spoken.

    The labels are where the turn's emotion lies in PAD space, not ratings of the turn: all turns with one emotion have
    the same labels.

    Args:
        data_dir: a folder with `meld/{train,dev,test}_sent_emo.csv` (or the files themselves); None looks in the folder
            that the environment variable `LIMINAL_DATA_DIR` names.

    Returns:
        `DatasetDict` with `train` (9,989 turns, 1,038 dialogues), `validation` (1,109, 114) and `test` (2,610, 280),
        each with `dialogue_id`, `utterance_id` (int, unique together within a split), `speaker`, `text` (as published),
        `emotion` (a key of `EMOTION_PAD`), `sentiment` ("negative", "neutral", "positive") and `labels` (three float32
        from `EMOTION_PAD`).

    Raises:
        FileNotFoundError: the corpus is not there; the message says where to get it.
        ValueError: the file is not MELD's.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())  # a corpus of one turn, to show its form
        >>> header = "Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID"
        >>> for split in ("train", "dev", "test"):
        ...     path = folder / f"{split}_sent_emo.csv"
        ...     _ = path.write_text(header + '\\n"Oh, no!",Ann,sadness,negative,0,0\\n', "utf-8")
        >>> turn = load_meld(folder)["test"][0]
        >>> turn["speaker"], turn["text"], turn["labels"][0] < 0
        ('Ann', 'Oh, no!', True)
    """
    names = {
        "Dialogue_ID": "dialogue_id",
        "Utterance_ID": "utterance_id",
        "Speaker": "speaker",
        "Utterance": "text",
        "Emotion": "emotion",
        "Sentiment": "sentiment",
    }
    types = {"dialogue_id": "int32", "utterance_id": "int32"}
    features = Features({column: Value(types.get(column, "string")) for column in names.values()})
    features["labels"] = List(Value("float32"))
    parts = {}
    for split, theirs in _SPLITS.items():
        path = require_file("meld", f"{theirs}_sent_emo.csv", data_dir, SOURCE)
        table = pd.read_csv(path, encoding="utf-8", keep_default_na=False)
        if not set(names) <= set(table.columns) or not table["Emotion"].isin(list(EMOTION_PAD)).all():
            raise ValueError(f"{path} is not MELD's own file: it needs the columns {list(names)} and MELD's emotions.")
        table = table[list(names)].rename(columns=names).sort_values(["dialogue_id", "utterance_id"], kind="stable")
        columns = table.to_dict("list")
        columns["labels"] = [list(EMOTION_PAD[emotion]) for emotion in table["emotion"]]
        parts[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(parts)
