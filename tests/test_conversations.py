"""Conversations: chat messages through the pipeline, the state that a caller keeps, and training with context."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, Pipeline, pipeline

import liminal_hf
from liminal_hf import LiminalConfig, LiminalForPADRegression, PersonMemory, PersonPrior
from liminal_hf.modeling.conversation import ConversationState, stack
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.memory import ConversationMemory

QUARREL = [
    {"role": "user", "content": "Good morning, my parcel has not arrived."},
    {"role": "assistant", "content": "I am sorry to hear that. May I have the number?"},
    {"role": "user", "content": "I gave it to you twice already!"},
    {"role": "assistant", "content": "It says that it was delivered."},
    {"role": "user", "content": "That is a lie. I want my money back now!"},
]
THANKS = [{"role": "user", "content": "Thank you so much, you saved my day."}]
TEAM = [
    {"role": "user", "speaker": "Ada", "content": "We won!"},
    {"role": "user", "speaker": "Ben", "content": "I lost my keys."},
    {"role": "user", "speaker": "Ada", "content": "Oh no, where?"},
]
NUMBERS = ("pleasure", "arousal", "dominance")


def build(minilm: Path, head: str = "v7", **config: Any) -> Pipeline:
    torch.manual_seed(0)
    model = LiminalForPADRegression.from_encoder_pretrained(minilm, head=head, latent_size=16, **config).eval()
    with torch.no_grad():
        for parameter in model.liminal.head.parameters():
            if not parameter.any():
                # Zero-initialised layers would hide what the memory does.
                parameter.normal_(std=0.3)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    return pipeline("pad-regression", model=model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def pad(minilm: Path) -> Pipeline:
    return build(minilm)


def numbers(row: dict[str, Any]) -> list[float]:
    uncertainty = row["uncertainty"] or {}
    return [row[name] for name in NUMBERS] + [uncertainty[name] for name in uncertainty]


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert [row["turn"] for row in one] == [row["turn"] for row in other]
    assert [row["speaker"] for row in one] == [row["speaker"] for row in other]
    for left, right in zip(one, other, strict=True):
        assert numbers(left) == pytest.approx(numbers(right), abs=1e-5)


# ---- the pipeline ----


def test_a_conversation_gives_a_row_per_turn(pad: Pipeline) -> None:
    rows = pad(QUARREL)
    assert [(row["turn"], row["role"]) for row in rows] == [
        (index, message["role"]) for index, message in enumerate(QUARREL)
    ]
    assert set(rows[0]) == set(pad("a text")) | {"turn", "role", "speaker"}
    json.dumps(rows)


def test_conversations_of_different_lengths_read_together_and_alone(pad: Pipeline) -> None:
    conversations = [THANKS, QUARREL, TEAM, [], QUARREL[:2]]
    together = pad(conversations)
    assert [len(rows) for rows in together] == [1, 5, 3, 0, 2]
    for conversation, rows in zip(conversations, together, strict=True):
        assert_same(rows, pad(conversation) if conversation else [])
    for batch_size in (1, 2):
        for one, other in zip(pad(conversations, batch_size=batch_size), together, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("head", ["v7", "v6"])
def test_the_past_matters_and_only_the_speakers_own(minilm: Path, head: str) -> None:
    pad = build(minilm, head)
    rows = pad(QUARREL)
    first, last = numbers(pad(QUARREL[0]["content"])), numbers(pad(QUARREL[4]["content"]))
    assert numbers(rows[0]) == pytest.approx(first, abs=1e-5)
    assert numbers(rows[4]) != pytest.approx(last, abs=1e-5)
    # Without the other side's turns the user's rows are the same.
    alone = pad([message for message in QUARREL if message["role"] == "user"])
    for left, right in zip(rows[::2], alone, strict=True):
        assert numbers(left) == pytest.approx(numbers(right), abs=1e-5)


def test_speakers_who_share_a_role_have_separate_memories(pad: Pipeline) -> None:
    rows = pad(TEAM, memory=True)
    assert [row["speaker"] for row in rows] == ["Ada", "Ben", "Ada"]
    assert {name: int(memory.turn) for name, memory in rows[2]["memory"].items()} == {"Ada": 2, "Ben": 1}
    assert numbers(rows[1]) == pytest.approx(numbers(pad(TEAM[1]["content"])), abs=1e-5)


def test_turns_can_be_fed_one_by_one_and_kept_on_disk(pad: Pipeline, tmp_path: Path) -> None:
    whole = pad(QUARREL, memory=True)
    memory: Any = True
    for message, expected in zip(QUARREL, whole, strict=True):
        row = pad(message, memory=memory)
        assert_same([row], [expected])
        before = row["memory"]
        before.save(tmp_path / "state.safetensors")
        memory = ConversationState.load(tmp_path / "state.safetensors")
        assert memory.turns == before.turns == expected["memory"].turns
        for speaker in before:
            for name, value in before[speaker].items():
                assert torch.equal(memory[speaker][name], value)
    # In the middle too: the state after a turn is that turn's, and going on does not change it.
    middle = whole[2]["memory"]
    assert_same(pad(QUARREL[3:], memory=middle), whole[3:])
    assert middle.turns == 3


def test_several_conversations_go_on_side_by_side(pad: Pipeline) -> None:
    start = pad([QUARREL[:3], THANKS], memory=True)
    states = [rows[-1]["memory"] for rows in start]
    went_on = pad([QUARREL[3:], TEAM], memory=states)
    assert_same(went_on[0], pad(QUARREL)[3:])
    assert [row["turn"] for row in went_on[1]] == [1, 2, 3]


def test_a_head_without_memory_reads_each_turn_by_itself(minilm: Path) -> None:
    pad = build(minilm, "linear")
    rows = pad(QUARREL, memory=True)
    assert [row["memory"].turns for row in rows] == [1, 2, 3, 4, 5]
    assert not rows[-1]["memory"]
    for message, row in zip(QUARREL, rows, strict=True):
        assert numbers(row) == pytest.approx(numbers(pad(message["content"])), abs=1e-5)


def test_a_head_that_reads_tokens_has_conversations_too(minilm: Path) -> None:
    pad = build(minilm, token_attention=True)
    for one, other in zip(pad([QUARREL, THANKS]), [pad(QUARREL), pad(THANKS)], strict=True):
        assert_same(one, other)


def test_plain_texts_are_read_as_before(pad: Pipeline) -> None:
    rows = pad(["Good morning.", "Go away!"])
    assert "turn" not in rows[0]
    assert numbers(rows[1]) == pytest.approx(numbers(pad("Go away!")), abs=1e-5)
    assert pad([]) == []


def test_options_reach_the_turns(pad: Pipeline) -> None:
    assert numbers(pad(THANKS, num_outer_steps=1)[0]) == pytest.approx(
        numbers(pad(THANKS[0]["content"], num_outer_steps=1)), abs=1e-5
    )
    long = [{"role": "user", "content": "so " * 500}]
    assert numbers(pad(long, max_length=8)[0]) == pytest.approx(numbers(pad("so " * 6, max_length=8)), abs=1e-5)


STRANGER = """
import json, sys
sys.modules["liminal_hf"] = None  # importing it would fail, as where it is not installed
from transformers import pipeline
folder, path, messages = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
pad = pipeline("pad-regression", model=folder, trust_remote_code=True)
row = pad(messages[:1], memory=True)[0]
row["memory"].save(path)
row = pad(messages[1], memory=type(row["memory"]).load(path))
row.pop("memory")
print(json.dumps(row))
"""


def test_a_checkpoints_own_code_reads_conversations(minilm: Path, tmp_path: Path) -> None:
    built = build(minilm)
    built.save_pretrained(tmp_path / "model")
    messages = [QUARREL[2], QUARREL[4]]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path / "model"), str(tmp_path / "state"), json.dumps(messages)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_same([json.loads(done.stdout.strip().splitlines()[-1])], built(messages)[1:])
    # The package reads what a checkpoint's own code kept.
    assert ConversationState.load(tmp_path / "state").turns == 1


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([THANKS, [*QUARREL, {"role": "user"}]], "Conversation 1, message 5 has no 'content'"),
        ([THANKS, [{"content": "hm"}]], "Conversation 1, message 0 must say who speaks"),
        ([THANKS, ["hm"]], "Conversation 1, message 0 must be a dict"),
        ([THANKS, {"role": "user", "content": "hm"}], "Conversation 1 must be a list of messages, got dict"),
        ([*QUARREL, "hm"], "Message 5 must be a dict"),
        ([{"role": 3, "content": "hm"}], "Message 0 must say who speaks"),
    ],
)
def test_bad_messages_are_named(pad: Pipeline, inputs: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pad(inputs)


def test_bad_memories_are_named(pad: Pipeline, minilm: Path) -> None:
    with pytest.raises(ValueError, match="memory= goes with chat messages"):
        pad("a text", memory=True)
    with pytest.raises(ValueError, match="for each of the 2 conversations"):
        pad([THANKS, THANKS], memory=[ConversationState()])
    with pytest.raises(ValueError, match=r"Got \['str'\]"):
        pad(THANKS, memory="state.safetensors")
    foreign = ConversationState({"user": ConversationMemory.empty(1, 8, 99)}, turns=1)
    with pytest.raises(ValueError, match=r"of 'user' in conversation 1 is not this model's: memory\.slots"):
        pad([THANKS, THANKS], memory=[ConversationState(), foreign])
    with pytest.raises(ValueError, match="'linear' has no memory"):
        build(minilm, "linear")(THANKS, memory=foreign)
    with pytest.raises(ValueError, match="does not take 'temperature'"):
        pad(THANKS, temperature=1.0)


AGENT = [
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "name": "Ada", "content": "Where is my parcel? I am furious!"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
    {"role": "tool", "tool_call_id": "1", "name": "track", "content": "delivered"},
    {"role": "assistant", "tool_calls": [{"id": "2", "type": "function"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "It was"}, {"type": "text", "text": "delivered."}]},
    {"role": "user", "name": "Ben", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
    {
        "role": "user",
        "name": "Ben",
        "content": [{"type": "image_url"}, "Look", {"type": "input_text", "text": "here."}],
    },
    {"role": "user", "name": "Ada", "content": "\U0001f621"},
    {"role": "user", "name": "Ada", "content": "Half \ud800"},
    {"role": "user", "name": "Ada", "content": " "},
]


def test_every_message_of_an_agent_has_a_row_and_only_people_are_read(pad: Pipeline) -> None:
    rows = pad(AGENT, memory=True)
    assert [row["error"] for row in rows] == [
        "role 'system' is not read",
        None,
        "no text (missing value)",
        "role 'tool' is not read",
        "no text (missing value)",
        None,
        "no text (no part of the content is a text)",
        None,
        "no token of this text is known to the model",
        "half of a character at position 5",
        "empty",
    ]
    assert [row["speaker"] for row in rows[:4]] == ["system", "Ada", "assistant", "track"]
    assert [row["turn"] for row in rows] == [None, 0, None, None, None, 1, None, 2, None, None, None]
    assert all(row["pleasure"] is row["octant"] is row["uncertainty"] is None for row in rows if row["error"])
    # What was not read leaves no trace: the same as the three turns alone.
    texts = ["Where is my parcel? I am furious!", "It was\ndelivered.", "Look\nhere."]
    alone = pad([{"role": "user", "speaker": n, "content": t} for n, t in zip(("Ada", "a", "Ben"), texts, strict=True)])
    for row, expected in zip([rows[1], rows[5], rows[7]], alone, strict=True):
        assert numbers(row) == pytest.approx(numbers(expected), abs=1e-5)
    state = rows[-1]["memory"]
    assert state.turns == 3 and set(state) == {"Ada", "assistant", "Ben"}
    for message, row in zip(AGENT, rows, strict=True):
        assert pad(message)["error"] == row["error"], "one by one, too, no message stops the conversation"


def test_roles_say_whose_messages_are_read(pad: Pipeline) -> None:
    rows = pad(AGENT[:6], roles=["user", "system"])
    assert [row["error"] for row in rows[:2]] == [None, None]
    assert {row["error"] for row in rows[2:]} == {"role 'assistant' is not read", "role 'tool' is not read"}
    with pytest.raises(LiminalError, match=r'roles must be a list of names, such as \["user", "assistant"\]'):
        pad(AGENT, roles="user")
    with pytest.raises(LiminalError, match="roles= goes with chat messages"):
        pad("a text", roles=["user"])


def test_a_row_with_memory_goes_into_json(pad: Pipeline) -> None:
    row = pad(QUARREL, memory=True)[1]
    assert json.loads(json.dumps(row)) == pad(QUARREL)[1] and "memory" not in json.dumps([row])
    assert row["memory"] is row.memory is row.get("memory") is row.pop("memory") and "memory" in row
    assert row.get("nothing", 3) == 3
    with pytest.raises(KeyError, match="nothing"):
        row["nothing"]


def test_a_state_goes_through_bytes_and_json_bit_by_bit(pad: Pipeline) -> None:
    state = pad(QUARREL[:2], memory=True)[1]["memory"]
    state.rows["user"] = [{"pleasure": 0.1}]
    for back in (
        ConversationState.from_bytes(state.to_bytes()),
        ConversationState.from_dict(json.loads(json.dumps(state.to_dict()))),
    ):
        assert back.turns == 2 and back.rows == state.rows and list(back) == list(state)
        for speaker, memory in state.items():
            assert all(torch.equal(value, back[speaker][name]) for name, value in memory.items())
            assert all(value.dtype == back[speaker][name].dtype for name, value in memory.items())
        assert pad(QUARREL[2], memory=back) == pad(QUARREL[2], memory=state)
    for wrong in ({}, {"turns": 1}, {"turns": 1, "speakers": {"a": {"slots": []}}}, []):
        with pytest.raises(LiminalError, match="does not hold a conversation"):
            ConversationState.from_dict(wrong)
    with pytest.raises(LiminalError, match="does not hold a conversation"):
        ConversationState.from_bytes(b"not a file")


def test_several_threads_save_one_conversation(tmp_path: Path) -> None:
    state = ConversationState({"user": ConversationMemory.empty(1, 8, 16)}, 1)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: state.save(tmp_path / "state"), range(200)))
    assert ConversationState.load(tmp_path / "state").turns == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_what_is_no_saved_conversation_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no conversation saved at"):
        ConversationState.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello", encoding="utf-8")
    save_file({"weight": torch.zeros(1)}, tmp_path / "weights")
    for name in ("text", "weights"):
        with pytest.raises(ValueError, match="does not hold a conversation"):
            ConversationState.load(tmp_path / name)


def test_speakers_may_have_any_name(tmp_path: Path) -> None:
    names = ["", "0.slots", "Zoë ☕", 'a"b']
    state = ConversationState({name: ConversationMemory.empty(1, 4, 8) for name in names}, turns=4)
    state.save(tmp_path / "state")
    assert list(ConversationState.load(tmp_path / "state")) == names


def test_memories_stack_by_row() -> None:
    model = LiminalForPADRegression(LiminalConfig(pooled_size=4, latent_size=16))
    one, two = model.initial_memory(1), model.initial_memory(1)
    one.pad += 1
    assert stack([one, two]).pad.tolist() == [[1.0] * 3, [0.0] * 3]


def test_the_state_is_public() -> None:
    assert liminal_hf.ConversationState is ConversationState


# ---- the measurement ----


# ---- ratings ----


def rated(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def test_a_rating_shifts_the_turns_after_it_of_its_speaker_alone(pad: Pipeline) -> None:
    talk = [
        rated("I went home.", name="Ada", pad={"pleasure": 0.9}),
        rated("I went home.", name="Ben"),
        rated("I went home.", name="Ada"),
        rated("I went home.", name="Ben"),
    ]
    plain = [{key: value for key, value in message.items() if key != "pad"} for message in talk]
    with_ratings, without = pad(talk, memory=True), pad(plain, memory=True)
    assert_same(with_ratings, without)  # the model's own answers do not move
    assert ["adjusted" in row for row in with_ratings] == [False, False, True, False]
    row, first = with_ratings[2], with_ratings[0]
    prior = PersonPrior.of_model(pad.model.config)
    offset = (0.9 - first["pleasure"]) / (1 + float(prior.shrinkage[0]))
    assert row["adjusted"]["pleasure"] == pytest.approx(row["pleasure"] + offset)
    assert (row["adjusted"]["arousal"], row["adjusted"]["dominance"]) == (row["arousal"], row["dominance"])
    assert "persons" not in without[-1]["memory"].to_dict()


def test_a_rating_goes_on_in_what_is_kept(pad: Pipeline, tmp_path: Path) -> None:
    row = pad(rated("I went home.", pad={"pleasure": 0.9, "arousal": -0.5}, time=3.0), memory=True)
    row["memory"].save(tmp_path / "kept")
    loaded = ConversationState.load(tmp_path / "kept")
    again = ConversationState.from_dict(json.loads(json.dumps(row["memory"].to_dict())))
    expected = pad(rated("I went out.", time=4.0), memory=row["memory"])
    for state in (loaded, again):
        assert pad(rated("I went out.", time=4.0), memory=state)["adjusted"] == expected["adjusted"]
        assert state.persons["user"].time.tolist() == [3.0]
    pad.person_prior = PersonPrior.guess([0.2] * 3, [0.1] * 3)
    try:
        other = pad(rated("I went out.", time=4.0), memory=loaded)["adjusted"]
    finally:
        pad.person_prior = None
    assert other["pleasure"] == expected["adjusted"]["pleasure"], "the same shrinkage, the same offset"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (rated("Hi.", pad={"joy": 1}), "Message 1: There is no target 'joy' to rate. The model has pleasure"),
        (rated("Hi.", pad={"pleasure": 9}), "Message 1: A rating of pleasure lies between -1 and 1, got 9"),
        (rated("Hi.", pad=0.5), "Message 1: 'pad' is the speaker's rating by target, .*got 0.5"),
        (rated("Hi.", pad={"pleasure": "high"}), "Message 1: 'pad' is the speaker's rating"),
        (rated("Hi.", time="noon"), "Message 1: 'time' is a number"),
    ],
)
def test_a_rating_that_is_none_is_an_error_before_anything_is_read(pad: Pipeline, message: Any, error: str) -> None:
    with pytest.raises(LiminalError, match=error):
        pad([rated("Good morning."), message])


def test_time_does_not_go_backwards(pad: Pipeline) -> None:
    for rating in ({}, {"pad": {"pleasure": 0.1}}):  # also of a speaker who rates nothing
        row = pad(rated("Good morning.", time=5.0, **rating), memory=True)
        with pytest.raises(LiminalError, match="Message 0: a turn at time 4 after one at 5"):
            pad(rated("Good evening.", time=4.0), memory=row["memory"])
        assert pad(rated("Good evening."), memory=row["memory"])["memory"].persons["user"].time.tolist() == [6.0]
    good = [rated("Good morning.", time=1.0), rated("Good evening.", time=1.0)]
    for more in ({}, {"pad": {"pleasure": 0.1}}):
        bad = [rated("One.", time=5.0), rated("Two.", name="Ada", time=1.0), rated("Three.", time=4.0, **more)]
        with pytest.raises(LiminalError, match=r"Conversation 1, message 2: a turn at time 4 after one at 5 of 'user'"):
            pad([good, bad])
    rising = [rated("One.", pad={"pleasure": 0.1}), rated("Two."), rated("Three.", time=0.5)]
    with pytest.raises(LiminalError, match=r"Message 2: a turn at time 0\.5 after one at 1 "):
        pad(rising)
    assert len(pad([*rising[:2], rated("Three.", time=1.0), {"role": "tool", "content": "x", "time": 0.0}])) == 4


def test_the_ratings_of_another_models_targets_are_refused(pad: Pipeline, tmp_path: Path) -> None:
    row = pad(rated("Good morning.", pad={"pleasure": 0.1}), memory=True)
    row["memory"].save(tmp_path / "kept")
    state = ConversationState.load(tmp_path / "kept")
    assert state.labels == {"targets": ["pleasure", "arousal", "dominance"], "label_range": [-1.0, 1.0]}
    assert pad(rated("Good evening."), memory=state)["adjusted"]
    for change in ({"targets": ["pleasure", "dominance", "arousal"]}, {"label_range": [0.0, 1.0]}):
        other = ConversationState(state, state.turns, state.rows, state.persons, {**state.labels, **change})
        with pytest.raises(LiminalError, match=r"memory of conversation 0 holds ratings of another model: of pleasure"):
            pad(rated("Good evening."), memory=ConversationState.from_dict(json.loads(json.dumps(other.to_dict()))))
    few = ConversationState(state, 1, None, {"user": PersonMemory.empty(1, 2)})
    with pytest.raises(LiminalError, match=r"of another model: of 2 targets, and this one has pleasure, arousal"):
        pad(rated("Good evening."), memory=few)
