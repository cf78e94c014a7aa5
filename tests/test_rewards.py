"""Rewards for TRL: towards the goal, nothing for what can't be relied on, and a real trainer that calls them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from liminal_hf import DEFAULT_CHECKPOINT, PADReward
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import Scorer

HAPPY = ["What a lovely surprise, thank you!", "We laughed all day, it was wonderful.", "I am so glad that you came."]
SAD = ["I lost everything that I loved.", "Get out of here, I hate you!", "What a terrible, hopeless day."]
PLAIN = ["The train leaves at nine.", "He put the box on the table."]
# What a model might write for the reward alone.
CHEATS = {
    "nothing": ["", " ", "\n", "\u200b"],
    "no words": ["\U0001f600\U0001f600\U0001f600", "... !!! ???", "12 34 56 78"],
    "a word": ["happy", "Wonderful!", "love joy"],
    "repeated words": ["happy " * 30, "love love love love", "So happy! " * 20, "great day great day great day"],
    "gibberish": ["xqzt blorf wexi mnbv plok", "kdjf slkj weoi zxmn qpwo", "asdf jkl; qwer uiop zxcv"],
    "another language": [
        "Ich freue mich so sehr, dass du endlich da bist!",
        "Sono davvero felice di vederti oggi, amico mio.",
        "Estoy muy contento de verte otra vez, amigo.",
        "\u6211\u4eca\u5929\u975e\u5e38\u9ad8\u5174 \u89c1\u5230 \u4f60 \u4eec",
    ],
    "code": ["def f(x): return x + 1", "for i in range(10): print(i)", "SELECT name FROM users WHERE id = 3;"],
}


@pytest.fixture(scope="module")
def scorer(minilm: Path) -> Scorer:
    return Scorer(DEFAULT_CHECKPOINT, threads=1)


@pytest.fixture(scope="module")
def happy(scorer: Scorer) -> PADReward:
    return PADReward({"pleasure": 0.6}, scorer)


def test_it_grows_towards_the_goal(happy: PADReward, scorer: Scorer) -> None:
    good, plain, bad = (happy(completions=texts) for texts in (HAPPY, PLAIN, SAD))
    assert min(good) > max(plain) > min(plain) > sum(bad) / len(bad) >= 0 and max(good) <= 1
    sad = PADReward({"pleasure": -0.6}, scorer)
    assert min(sad(completions=SAD)) > max(sad(completions=HAPPY))
    # By the formula: the mean distance of the targets that count.
    both = PADReward({"pleasure": 0.5, "dominance": -0.1}, scorer, reach=0.8)
    for text, reward in zip(HAPPY, both(completions=HAPPY), strict=True):
        (row,) = scorer.rows([text])
        distance = (abs(row["pleasure"] - 0.5) + abs(row["dominance"] + 0.1)) / 2
        assert reward == pytest.approx(max(0, 1 - distance / 0.8), abs=1e-5)


@pytest.mark.parametrize("kind", CHEATS)
def test_cheats_pay_nothing(happy: PADReward, kind: str) -> None:
    assert happy(completions=CHEATS[kind]) == [0.0] * len(CHEATS[kind])


def test_cheats_pay_nothing_towards_the_middle_either(scorer: Scorer) -> None:
    """Gibberish is read as neutral, so a neutral goal is where it would pay most."""
    neutral = PADReward({"pleasure": 0.0, "arousal": 0.0, "dominance": 0.0}, scorer)
    texts = [text for texts in CHEATS.values() for text in texts]
    assert neutral(completions=texts) == [0.0] * len(texts)
    assert min(neutral(completions=PLAIN)) > 0.8


def test_a_wide_interval_pays_nothing(scorer: Scorer) -> None:
    (row,) = scorer.rows(HAPPY[:1])
    low, high = row["interval"]["pleasure"]
    assert PADReward({"pleasure": 0.6}, scorer, widest=(high - low) * 0.99)(completions=HAPPY[:1]) == [0.0]
    assert PADReward({"pleasure": 0.6}, scorer, widest=(high - low) * 1.01)(completions=HAPPY[:1])[0] > 0.5


def test_no_reward_depends_on_the_others(happy: PADReward) -> None:
    texts = [*HAPPY, *CHEATS["gibberish"], *SAD, *CHEATS["nothing"], HAPPY[0] * 30]
    together = happy(completions=texts)
    assert [happy(completions=[text])[0] for text in texts] == pytest.approx(together, abs=1e-5)
    assert all(type(reward) is float for reward in together) and happy(completions=[]) == []


def test_conversations_are_read_by_what_the_assistant_says(happy: PADReward) -> None:
    said = [
        [{"role": "assistant", "content": HAPPY[0]}],
        [{"role": "assistant", "content": [{"type": "text", "text": HAPPY[0]}, {"type": "image"}]}],
        [
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "tool", "content": SAD[0]},
            {"role": "assistant", "content": HAPPY[0]},
        ],
        [{"role": "tool", "content": HAPPY[0]}],
        [],
    ]
    rewards = happy(prompts=[[{"role": "user", "content": SAD[0]}]] * 5, completions=said, completion_ids=[[1]] * 5)
    (alone,) = happy(completions=HAPPY[:1])
    assert rewards == pytest.approx([alone] * 3 + [0.0] * 2, abs=1e-5) and alone > 0.8


def test_each_row_may_have_a_goal_of_its_own(scorer: Scorer) -> None:
    by_row = PADReward(None, scorer)
    rewards = by_row(
        completions=[HAPPY[0]] * 3, pleasure=[0.6, -0.6, None], arousal=[None, None, None], other=[1, 2, 3]
    )
    assert rewards[0] > 0.8 and rewards[1] < 0.2 and rewards[2] == 0.0
    with pytest.raises(LiminalError, match="There is no goal"):
        by_row(completions=HAPPY)
    with pytest.raises(LiminalError, match="'pleasure' has 1 rows for 2"):
        by_row(completions=HAPPY[:2], pleasure=[0.1])
    with pytest.raises(LiminalError, match=r"goal of row 1.*-1\.\.1, got 5"):
        by_row(completions=HAPPY[:2], pleasure=[0.1, 5])


@pytest.mark.parametrize("goal", [{}, {"joy": 0.1}, {"pleasure": 2}, {"pleasure": True}, {"pleasure": float("nan")}])
def test_a_goal_that_is_none_is_refused(scorer: Scorer, goal: dict[str, Any]) -> None:
    with pytest.raises(LiminalError, match="The goal"):
        PADReward(goal, scorer)


def test_a_real_trainer_takes_it(happy: PADReward, minilm: Path, tmp_path: Path) -> None:
    """TRL's own GRPOTrainer, on a tiny decoder with random weights."""
    trl = pytest.importorskip("trl")
    from conftest import tiny_config
    from datasets import Dataset
    from transformers import AutoTokenizer, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(minilm)
    tokenizer.eos_token = "[SEP]"
    config = tiny_config("gpt2")
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    seen: list[list[float]] = []

    def fitting(completions: list[str], **columns: Any) -> list[float]:
        """As if the model wrote good texts: every other one."""
        texts = [HAPPY[0] if index % 2 else SAD[0] for index in range(len(completions))]
        seen.append(happy(completions=texts, **columns))
        return seen[-1]

    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, num_generations=4, report_to=[],
        max_completion_length=8, use_cpu=True, bf16=False, logging_steps=1, save_strategy="no",
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=GPT2LMHeadModel(config),
        reward_funcs=[happy, fitting],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["Say something kind.", "How was your day?"] * 4}),
        processing_class=tokenizer,
    )
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(log) == 2 and seen[0][1] > 0.8
    for entry, fitted in zip(log, seen, strict=True):
        assert entry["rewards/fitting/mean"] == pytest.approx(sum(fitted) / len(fitted), abs=1e-5)
        # What it writes itself is no English sentence: it never gets what one gets.
        assert 0 <= entry["rewards/pad_reward/mean"] < 0.5 and 0 <= entry["pad_reward/zero"] <= 1
