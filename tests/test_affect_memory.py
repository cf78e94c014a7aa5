"""The affect memory: the closed form behind every answer, threads and processes, and a deletion that leaves nothing."""

import copy
import datetime as dt
import math
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scoring_kit import tiny_checkpoint
from transformers import pipeline

from liminal_hf import AffectMemory, PersonMemory, PersonPrior
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import Scorer

DAY = 86_400
# Adds messages of its own person, and of one that it shares with other processes.
CHILD = """
import sys
from liminal_hf import AffectMemory
from liminal_hf.scoring import Scorer
checkpoint, path, name = sys.argv[1:]
with AffectMemory(path, Scorer(checkpoint, threads=1)) as memory:
    print("open", flush=True)
    sys.stdin.readline()
    for turn in range(30):
        memory.add(name, f"w{turn + 3}", time=turn)
        memory.add("shared", f"w{turn + 3}", time=0, rating={"pleasure": 0.5})
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def reader(checkpoint: str) -> Any:
    return pipeline("pad-regression", model=checkpoint)


@pytest.fixture
def memory(reader: Any, tmp_path: Path) -> Any:
    with AffectMemory(tmp_path / "affect.db", reader) as opened:
        yield opened


def test_an_answer_is_the_models_own_and_what_the_ratings_before_it_say(memory: AffectMemory, reader: Any) -> None:
    prior, person = PersonPrior.of_model(reader.model.config), PersonMemory.empty(1)
    for turn, rating in enumerate([None, {"pleasure": 0.9}, {"pleasure": -0.2, "arousal": 0.4}, None]):
        text = f"w{turn + 3} w{turn + 9}"
        row, own = memory.add("Ada", text, time=turn * DAY, rating=rating), reader(text)
        assert {name: row[name] for name in own} == own
        prediction = torch.tensor([[own[name] for name in memory.targets]], dtype=torch.float64)
        assert list(row["adjusted"].values()) == person.adjust(prediction, prior)[0].clamp(-1, 1)[0].tolist()
        values = torch.tensor([[(rating or {}).get(name, math.nan) for name in memory.targets]], dtype=torch.float64)
        person = person.observe(prediction, values, float(turn))
    kept = memory.memory("Ada")
    assert all(torch.equal(kept[name], person[name]) for name in person)
    state = memory.state("Ada", at=3 * DAY + DAY / 2)
    forecast = person.forecast(prior, 3.5)
    assert (state["turns"], state["time"], state["arousal"]["ratings"]) == (4, 3 * DAY, 1)
    for index, name in enumerate(memory.targets):
        assert state[name]["level"] == person.level(prior)[0, index].clamp(-1, 1)
        assert state[name]["now"] == pytest.approx(float(forecast.mean[0, index].clamp(-1, 1)), abs=1e-12)
        assert state[name]["low"] <= state[name]["now"] <= state[name]["high"]


def test_the_state_returns_to_the_level(memory: AffectMemory) -> None:
    memory.add("Ada", "w5", time=0, rating={"pleasure": -0.9})
    gaps = [memory.state("Ada", at=days * DAY)["pleasure"] for days in (0, 1, 2, 60)]
    apart = [abs(one["now"] - one["level"]) for one in gaps]
    assert (
        gaps[0]["now"] == -0.9 and apart[1] == pytest.approx(apart[0] / 2) and apart[2] == pytest.approx(apart[0] / 4)
    )
    assert apart[3] < 1e-9 and gaps[3]["high"] - gaps[3]["low"] > gaps[1]["high"] - gaps[1]["low"]


def test_many_at_once_are_as_one_by_one(memory: AffectMemory, reader: Any, tmp_path: Path) -> None:
    messages = [
        {
            "person": f"p{index % 5}",
            "text": f"w{index % 50 + 3}" if index % 7 else "",
            "time": dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=index),
            "rating": {"pleasure": (index % 9) / 9} if index % 3 == 0 else None,
        }
        for index in range(60)
    ]
    together = memory.add_many(messages)
    with AffectMemory(tmp_path / "other.db", reader) as other:
        alone = [other.add(**message) for message in messages]
        assert other.persons() == memory.persons() == [f"p{index}" for index in range(5)] and len(other) == 5
        for name in other.persons():
            one, another = other.memory(name), memory.memory(name)
            for field in one:
                torch.testing.assert_close(one[field], another[field], rtol=0, atol=1e-5)
    for one, another in zip(together, alone, strict=True):
        assert one["error"] == another["error"] and one["state"]["turns"] == another["state"]["turns"]
        assert list(one["adjusted"].values()) == pytest.approx(
            list(another["adjusted"].values()), abs=1e-6, nan_ok=True
        )
    assert together[0]["error"] == "empty" and together[0]["state"]["turns"] == 0
    assert together[0]["adjusted"] == dict.fromkeys(memory.targets)


def test_a_rating_may_come_later_and_be_put_right(memory: AffectMemory) -> None:
    with pytest.raises(LiminalError, match=r"'Ada' is not known\. A rating belongs to a message"):
        memory.rate("Ada", {"pleasure": 0.5})
    own = memory.add("Ada", "w5", time=0)
    state = memory.rate("Ada", {"pleasure": 0.5})
    assert state["pleasure"]["last"] == 0.5 and state["arousal"]["last"] == pytest.approx(own["arousal"])
    assert state["pleasure"]["offset"] == pytest.approx((0.5 - own["pleasure"]) / 5)
    state = memory.rate("Ada", {"pleasure": 0.4})
    assert state["pleasure"]["last"] == 0.4 and state["pleasure"]["ratings"] == 1
    assert state["pleasure"]["offset"] == pytest.approx((0.4 - own["pleasure"]) / 5)
    assert memory.rate("Ada", {"arousal": 0.1})["arousal"]["ratings"] == 1


def test_a_message_of_now_is_never_too_late(memory: AffectMemory) -> None:
    with ThreadPoolExecutor(4) as pool:
        added = [pool.submit(lambda n=n: [memory.add("Ada", f"w{n + 3}") for _ in range(6)]) for n in range(4)]
        rows = [row for one in added for row in one.result()]
    assert sorted(row["state"]["turns"] for row in rows) == list(range(1, 25))
    assert abs(rows[0]["time"] - time.time()) < 300
    later = time.time() + 10 * DAY
    memory.add("Ben", "w5", time=later)  # as if the clock had been put back since
    assert memory.add("Ben", "w5")["time"] == pytest.approx(later, abs=0.01)
    both = memory.add_many([{"person": "Cy", "text": "w5", "time": later}, {"person": "Cy", "text": "w6"}])
    assert [row["state"]["turns"] for row in both] == [1, 2]


def test_threads_mix_nothing_up(memory: AffectMemory) -> None:
    with ThreadPoolExecutor(8) as pool:
        own = [pool.submit(lambda n=n: [memory.add(f"p{n}", f"w{n + 3}", time=t) for t in range(12)]) for n in range(8)]
        shared = [pool.submit(memory.add, "shared", "w9", 0, {"pleasure": 0.5}) for _ in range(80)]
        rows = [future.result() for future in own]
        assert [future.result()["error"] for future in shared] == [None] * 80
    for number, mine in enumerate(rows):
        assert [row["state"]["turns"] for row in mine] == list(range(1, 13))
        assert memory.state(f"p{number}")["pleasure"]["last"] == pytest.approx(mine[-1]["pleasure"])
    assert memory.state("shared")["turns"] == memory.state("shared")["pleasure"]["ratings"] == 80


def test_processes_share_a_file(checkpoint: str, tmp_path: Path, reader: Any) -> None:
    path = tmp_path / "affect.db"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, checkpoint, str(path), "a"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with AffectMemory(path, reader) as memory:
        assert child.stdout.readline() == "open\n"
        child.stdin.write("go\n")
        child.stdin.flush()
        for turn in range(30):
            memory.add("b", "w5", time=turn)
            memory.add("shared", "w6", time=0, rating={"pleasure": 0.5})
        assert child.wait() == 0
        assert [memory.state(name)["turns"] for name in ("a", "b", "shared")] == [30, 30, 60]


def test_a_deleted_person_leaves_no_byte(memory: AffectMemory, tmp_path: Path) -> None:
    for number in range(300):
        memory.add_many(
            [{"person": f"person-{number}", "prediction": dict.fromkeys(memory.targets, number / 300), "time": number}]
        )
    memory.add("Ada Lovelace", "w5", time=0, rating={"pleasure": 0.123456789})
    state = memory.memory("Ada Lovelace")
    secrets = [b"Ada Lovelace", state.last.numpy().tobytes()[:8], state.residual_sum.numpy().tobytes()[:8]]

    def found() -> list[bool]:
        content = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))
        return [secret in content for secret in secrets]

    assert found() == [True, True, True] and "Ada Lovelace" in memory
    assert memory.delete("Ada Lovelace") and not memory.delete("Ada Lovelace")
    assert found() == [False, False, False]
    assert "Ada Lovelace" not in memory and memory.state("Ada Lovelace") is None and len(memory) == 300
    assert memory.state("person-7", at=7)["pleasure"]["last"] == pytest.approx(7 / 300)
    memory.close()
    assert found() == [False, False, False]


def test_a_deletion_that_was_held_up_is_done_again(
    reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("liminal_hf.scoring.affect_memory._PATIENCE_SECONDS", 0.2)
    path = tmp_path / "affect.db"
    with AffectMemory(path, reader) as memory:
        memory.add("Ada Lovelace", "w5", time=0)

        def is_left() -> bool:
            return any(b"Ada Lovelace" in one.read_bytes() for one in tmp_path.iterdir())

        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM persons").fetchone() == (1,)
        with pytest.raises(LiminalError, match=r"is deleted, but bytes .* Delete again when that ends"):
            memory.delete("Ada Lovelace")
        assert "Ada Lovelace" not in memory and is_left()
        other.execute("COMMIT")
        assert not memory.delete("Ada Lovelace") and not is_left()
        memory.add("Ben", "w5", time=0)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LiminalError, match=r"'Ben' is not deleted: another process uses"):
            memory.delete("Ben")
        other.close()
        assert memory.delete("Ben")


def test_the_file_of_another_models_targets_is_refused(reader: Any, tmp_path: Path) -> None:
    path = tmp_path / "affect.db"
    AffectMemory(path, reader).close()
    AffectMemory(path, reader).close()
    for change in ({"targets": ["pleasure", "dominance", "arousal"]}, {"label_range": (0.0, 1.0)}):
        config = copy.deepcopy(reader.model.config)
        for name, value in change.items():
            setattr(config, name, value)
        other = SimpleNamespace(config=config)
        with pytest.raises(
            LiminalError, match=r"was made with the targets pleasure, arousal, dominance in \[-1.0, 1.0"
        ):
            AffectMemory(path, other)
    with pytest.raises(LiminalError, match="The prior is of 1 targets"):
        AffectMemory(path, reader, prior=PersonPrior.guess([0.3], [0.2]))
    with pytest.raises(LiminalError, match=r"is a folder\. Give a file in it"):
        AffectMemory(tmp_path, reader)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        AffectMemory(tmp_path / "none" / "affect.db", reader)


def test_an_interrupted_batch_leaves_the_file_as_it_was(memory: AffectMemory) -> None:
    memory.add("Ada", "w5", time=DAY)
    with pytest.raises(LiminalError, match=r"A message of 'Ada' is older than their last one \(Row"):
        memory.add_many([{"person": "Ben", "text": "w4", "time": 0}, {"person": "Ada", "text": "w4", "time": 0}])
    assert memory.persons() == ["Ada"] and memory.state("Ada")["turns"] == 1


def test_a_scorer_reads_as_the_pipeline_does(memory: AffectMemory, checkpoint: str, tmp_path: Path) -> None:
    with AffectMemory(tmp_path / "other.db", Scorer(checkpoint, threads=1)) as other:
        row, expected = other.add("Ada", "w5 w6", time=0), memory.add("Ada", "w5 w6", time=0)
        assert row["pleasure"] == pytest.approx(expected["pleasure"], abs=1e-5)
        assert row["uncertainty"] == pytest.approx(expected["uncertainty"], abs=1e-5)
        assert other.add("Ada", "", time=1)["error"] == "empty"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda memory: memory.add("", "w5"), "A person is a name that is not empty, got ''"),
        (lambda memory: memory.add("Ada", "w5", time="noon"), "A time is a datetime or seconds since 1970, got 'noon'"),
        (lambda memory: memory.add("Ada", "w5", rating={"joy": 1}), "There is no target 'joy' to rate"),
        (lambda memory: memory.add("Ada", "w5", rating={"pleasure": 5}), "lies between -1 and 1, got 5"),
        *[
            (
                lambda memory, value=value: memory.add("Ada", "w5", rating={"pleasure": value}),
                "lies between -1 and 1, got",
            )
            for value in ("0.5", None, True, [0.5], math.nan)
        ],
        (lambda memory: memory.add("Ada", "w5", rating=0.5), "A rating is given by target, such as"),
        (lambda memory: memory.add("Ada", 5), r"The text of a message is a string, or None, got int"),
        *[
            (
                lambda memory, prediction=prediction: memory.add_many([{"person": "Ada", "prediction": prediction}]),
                "A prediction has a number between -1 and 1 for each of pleasure, arousal, dominance",
            )
            for prediction in (
                0.5,
                [0.1, 0.2, 0.3],
                {"pleasure": 0.1},
                {"pleasure": 0.1, "arousal": 0.1, "dominance": 0.1, "joy": 0.1},
                *(
                    {"pleasure": wrong, "arousal": 0.1, "dominance": 0.1}
                    for wrong in (2, "0.1", None, True, [0.1], math.nan)
                ),
            )
        ],
        (lambda memory: memory.add_many(["Ada"]), "A message is a mapping with 'person' and 'text', got str"),
        (lambda memory: memory.add_many([{"person": "Ada"}]), "A message of 'Ada' has no 'text'. It has: 'person'"),
    ],
)
def test_errors_say_what_to_do(memory: AffectMemory, call: Any, message: str) -> None:
    with pytest.raises(LiminalError, match=message):
        call(memory)
    assert len(memory) == 0


def test_another_file_is_refused(reader: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing of the kind" * 100, encoding="utf-8")
    with pytest.raises(LiminalError, match="is no affect memory"):
        AffectMemory(path, reader)
    assert path.read_text(encoding="utf-8").startswith("nothing")
    with AffectMemory(tmp_path / "affect.db", reader) as memory:
        memory.add("Ada", "w5", time=5)
        with pytest.raises(LiminalError, match=r"later than that\. What was before is not kept"):
            memory.state("Ada", at=4)


def test_the_benchmark_notices_what_is_mixed_up(reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import affect_memory as script

    monkeypatch.setattr(script, "ALONE", 40)
    traffic = script.Traffic(persons=12, messages=400)
    (tmp_path / "bench").mkdir()
    found = script.states(tmp_path / "bench" / "affect.db", reader, traffic)
    assert (found["persons"], found["mixed up"], found["left of the deleted"]) == (12, 0, 0)
    assert found["left of the others"] == 11 and found["bytes of a person"] < 2000
    with AffectMemory(tmp_path / "bench" / "affect.db", reader) as memory:
        assert traffic.mixed_up(memory) == 1, "the deleted one"
        memory.add_many([{**traffic.message(399), "person": memory.persons()[0]}])
        assert traffic.mixed_up(memory) == 2
