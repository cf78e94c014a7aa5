"""What teachers say: a student follows them, also on texts without labels; what can't teach is refused at the door."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from huggingface_hub.utils import enable_progress_bars
from safetensors.torch import load_file
from training_kit import WORDS, encoder_with_tokenizer, predict_texts, same_weights, small_recipe, texts_and_labels
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from liminal_hf.export.model_card import build_card, run_facts
from liminal_hf.inference import read
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.training import distillation
from liminal_hf.training.fit import fit
from liminal_hf.training.run_folder import RunMismatchError
from liminal_hf.training.trainer import LiminalTrainer

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_student_of_teachers_alone_follows_them(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, phases__0__training__num_train_epochs=20)
    teacher = fit(recipe, tmp_path / "teacher")
    # The labels of the student's table are the opposite of what its teacher learned.
    opposite = ["text,V,A,D"]
    for text, labels in texts_and_labels(48, 0):
        opposite.append(",".join([text, *(f"{6 - label:.4f}" for label in labels)]))
    train = tmp_path / "opposite.csv"
    train.write_text("\n".join(opposite) + "\n")
    files = {**recipe.data.files, "train": str(train)}
    teachers = [str(teacher.output_dir / "model")]
    texts = [text for text, _ in texts_and_labels(24, 2)]
    expected = predict_texts(teacher.model, teacher.tokenizer, texts)
    for weight, sign in ((1.0, 1), (0.0, -1)):
        student = fit(
            recipe.override({"data.files": files, "distill": {"teachers": teachers, "weight": weight}}),
            tmp_path / f"student-{weight}",
        )
        found = predict_texts(student.model, student.tokenizer, texts)
        assert sign * np.corrcoef(found[:, 0], expected[:, 0])[0, 1] > 0.5, weight


def test_a_plain_model_can_teach_and_one_that_is_named_twice_counts_twice(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    ours = fit(recipe, tmp_path / "teacher")
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_pretrained(
        recipe.model["encoder"], num_labels=3, problem_type="regression"
    )
    folder = tmp_path / "plain"
    plain.save_pretrained(folder)
    ours.tokenizer.save_pretrained(folder)
    teachers = [str(folder), str(folder), str(ours.output_dir / "model")]
    student = recipe.override({"distill": {"teachers": teachers}})
    fit(student, tmp_path / "student")
    texts = [text for text, _ in texts_and_labels(48, 0)]
    with torch.no_grad():
        said = plain.eval()(**ours.tokenizer(texts, padding=True, return_tensors="pt")).logits.double().numpy()
    expected = (2 * said + predict_texts(ours.model, ours.tokenizer, texts)) / 3
    np.testing.assert_allclose(load_file(tmp_path / "student" / "taught.safetensors")["pad"], expected, atol=1e-6)

    for number, change in enumerate(({"problem_type": None}, {"num_labels": 2}, {"id2label": dict(enumerate("abc"))})):
        wrong = AutoConfig.from_pretrained(folder, **change)
        (tmp_path / f"wrong-{number}").mkdir()
        wrong.save_pretrained(tmp_path / f"wrong-{number}")
        with pytest.raises(ValueError, match=r'problem_type "regression" and 3 labels: pleasure, arousal'):
            fit(student.override({"distill.teachers": [str(tmp_path / f"wrong-{number}")]}), tmp_path / "refused")


def test_the_teachers_word_can_be_spread_as_the_labels_are(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    teacher = fit(recipe, tmp_path / "teacher").output_dir / "model"
    targets: list[np.ndarray] = []

    def watched(*args: Any, **kwargs: Any) -> LiminalTrainer:
        targets.append(np.asarray(kwargs["train_dataset"]["labels"]))
        return LiminalTrainer(*args, **kwargs)

    distill = {"teachers": [str(teacher)], "weight": 1.0, "stretch": True}
    fit(recipe.override({"distill": distill}), tmp_path / "student", trainer=watched)
    said = load_file(tmp_path / "student" / "taught.safetensors")["pad"].numpy()
    labels = (np.array([values for _, values in texts_and_labels(48, 0)]) - 3) / 2
    assert (said.std(axis=0) < 0.99 * labels.std(axis=0)).any(), "there is something to spread"
    np.testing.assert_allclose(targets[0].std(axis=0), labels.std(axis=0), rtol=1e-3)
    np.testing.assert_allclose(targets[0].mean(axis=0), said.mean(axis=0), atol=1e-5)
    for dimension in range(3):
        assert np.corrcoef(targets[0][:, dimension], said[:, dimension])[0, 1] == pytest.approx(1)


def test_a_student_learns_from_texts_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(tmp_path, phases__0__training__num_train_epochs=20)
    teacher = fit(recipe, tmp_path / "teacher")
    corpus = tmp_path / "goemotions"
    corpus.mkdir()
    comments = [text for text, _ in texts_and_labels(100, 7)]
    for split in ("train", "dev", "test"):
        lines = (f"{text}\t0\tid{n}\n" for n, text in enumerate(comments))
        (corpus / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    # Labels that say nothing: what the student knows, it has from the teacher's reading of the comments.
    train = tmp_path / "constant.csv"
    words = list(WORDS)[:4]
    train.write_text("text,V,A,D\n" + "".join(f"{word},4,3,{place % 2 + 2}\n" for place, word in enumerate(words)))
    # Texts of the user's own, as Excel writes them on Windows; one cell is empty.
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "own.csv").write_bytes("id;text\r\n1;schön\r\n2;\r\n3;na so was\r\n".encode("cp1252"))
    teachers = [str(teacher.output_dir / "model")]
    student = recipe.override(
        {
            "phases.0.training.num_train_epochs": 12,
            "data.files": {**recipe.data.files, "train": str(train)},
            "distill": {
                "teachers": teachers,
                "weight": 0.0,
                "texts": "goemotions",
                "files": [str(tmp_path / "elsewhere" / "diary" / "own.csv")],  # found in the folder of the corpora
                "num_texts": 200,
            },
        }
    )
    result = fit(student, tmp_path / "student", data_dir=tmp_path)
    assert result.metrics["rows"]["train"] == len(words) + 102 and result.metrics["rows"]["unlabelled"] == 102
    card = build_card(result.model.config, run_facts(result.output_dir)).content
    assert "102 texts without labels of GoEmotions, own.csv, read by the teachers" in card
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        fit(student.override({"distill.files": [str(tmp_path / "none.csv")]}), tmp_path / "refused", data_dir=tmp_path)
    texts = [text for text, _ in texts_and_labels(24, 2)]
    found, expected = (predict_texts(one.model, one.tokenizer, texts) for one in (result, teacher))
    assert np.corrcoef(found[:, 0], expected[:, 0])[0, 1] > 0.5
    # The scale is that of the labels, the percentiles those of the texts that have one.
    assert result.model.config.label_mean[0] == pytest.approx(0.5)
    labelled = predict_texts(result.model, result.tokenizer, words)
    assert result.model.config.prediction_quantiles[0][-1] == pytest.approx(labelled[:, 0].max(), abs=1e-4)

    # What the teachers said is kept: a run that was cut off does not ask again, one with other teachers does.
    run = tmp_path / "student"
    (run / "metrics.json").unlink()
    shutil.rmtree(run / "phases")
    asked: list[str] = []
    monkeypatch.setattr("liminal_hf.training.distillation.read", lambda *args, **kwargs: asked.append("again"))
    assert same_weights(fit(student, run, data_dir=tmp_path).model, result.model) and not asked
    monkeypatch.undo()
    short = {"phases.0.training.num_train_epochs": 1}
    other = fit(recipe, tmp_path / "other", seed=1, overrides=short).output_dir / "model"
    shutil.rmtree(teacher.output_dir / "model")
    shutil.copytree(other, teacher.output_dir / "model")
    with pytest.raises(RunMismatchError, match="another teacher"):
        fit(student, run, data_dir=tmp_path)
    assert not same_weights(fit(student, run, data_dir=tmp_path, resume="never").model, result.model)

    with pytest.raises(FileNotFoundError, match="Train it first"):
        nobody = {"distill.teachers": [str(tmp_path / "nobody")]}
        fit(student, tmp_path / "alone", data_dir=tmp_path, overrides=nobody)
    assert not (tmp_path / "alone" / "phases").exists(), "before anything was trained"


def plain_teacher(folder: Path) -> str:
    encoder = encoder_with_tokenizer(folder / "encoder")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3, problem_type="regression")
    model.save_pretrained(folder / "plain")
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder / "plain")
    return str(folder / "plain")


def test_reading_is_told_and_goes_on_where_it_was_interrupted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher, texts = plain_teacher(tmp_path), [text for text, _ in texts_and_labels(100, 0)]
    monkeypatch.setattr(distillation, "_SHARD", 30)
    monkeypatch.setattr(distillation, "_LOG_SECONDS", 0)
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    enable_progress_bars()  # a command that ran before in this process may have switched them off
    whole = distillation.teach([teacher], texts, 32, tmp_path / "whole.safetensors")
    counts: list[int] = []

    def counted(model: Any, tokenizer: Any, rows: list[str], **options: Any) -> Any:
        counts.append(len(rows))
        if len(counts) == 3:
            raise KeyboardInterrupt
        return read(model, tokenizer, rows, **options)

    monkeypatch.setattr(distillation, "read", counted)
    path = tmp_path / "taught.safetensors"
    with pytest.raises(KeyboardInterrupt):
        distillation.teach([teacher], texts, 32, path)
    assert counts == [30, 30, 30] and not path.exists()
    damaged = next((tmp_path / ".taught.shards").rglob("*0000*"))
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with caplog.at_level("INFO"):
        again = distillation.teach([teacher], texts, 32, path)
    assert counts[3:] == [30, 30, 10], "the damaged one, the interrupted one and the last"
    assert np.array_equal(again, whole) and not (tmp_path / ".taught.shards").exists()
    assert "Soft targets of" in capsys.readouterr().err and "of 70 texts" in caplog.text
    assert np.array_equal(distillation.teach([teacher], texts, 32, path), whole) and len(counts) == 6
    distillation.teach([teacher], texts[:-1], 32, path)
    assert len(counts) > 6, "other texts are read"


TWO_PROCESSES = """
import sys, time
from pathlib import Path
from accelerate import PartialState
processes = PartialState(cpu=True, backend="gloo")
from liminal_hf.training import distillation
distillation._SHARD = 8
read, counts = distillation.read, []
def counted(model, tokenizer, rows, **options):
    counts.append(len(rows))
    return read(model, tokenizer, rows, **options)
distillation.read = counted
texts, path = Path(sys.argv[2]).read_text().split("\\n"), Path(sys.argv[3])
for late in (1, 0):
    if processes.process_index == late:
        time.sleep(2)  # the other has gone ahead
    values = distillation.teach([sys.argv[1]], texts, 32, path)
print(f"RANK {processes.process_index} READ {sum(counts)} SUM {values.sum():.6f}\\n", end="", flush=True)
"""


@pytest.mark.nightly
def test_two_processes_share_the_reading_and_none_waits_for_ever(tmp_path: Path) -> None:
    teacher, texts = plain_teacher(tmp_path), [text for text, _ in texts_and_labels(40, 0)]
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["script.py", teacher, "texts.txt", "taught.safetensors"]
    done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=250)
    lines = sorted(line for line in done.stdout.splitlines() if line.startswith("RANK"))
    expected = distillation.teach([teacher], texts, 32, tmp_path / "alone.safetensors")
    assert [line.split()[3] for line in lines] == ["24", "16"], done.stderr[-2000:]
    assert all(float(line.split()[5]) == pytest.approx(expected.sum(), abs=1e-4) for line in lines)


@pytest.mark.parametrize("targets", [["warmth"], ["arousal", "valence", "dominance"]])
def test_a_teacher_has_the_students_targets(tmp_path: Path, targets: list[str]) -> None:
    tiny_model("bert").save_pretrained(tmp_path / "teacher")
    distillation.check_teacher(str(tmp_path / "teacher"))
    with pytest.raises(LiminalError, match="pleasure, arousal, dominance, and the student learns"):
        distillation.check_teacher(str(tmp_path / "teacher"), targets)
