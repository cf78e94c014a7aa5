"""`liminal chat`: the rule of the sharp turn, the trend, and a conversation through a terminal."""

import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from liminal_hf import LiminalForPADRegression
from liminal_hf.chat import converse, sharp_turn, trend, turn_line
from liminal_hf.modeling.conversation import ConversationState


def row(pleasure: float, arousal: float, doubt: float | None = 0.1, **more: Any) -> dict[str, Any]:
    names = ("pleasure", "arousal", "dominance")
    return {
        **dict(zip(names, (pleasure, arousal, 0.0), strict=True)),
        "uncertainty": None if doubt is None else dict.fromkeys(names, doubt),
        "percentile": None,
        "confidence": None,
        "verdict": {"pleasure": "negative", "arousal": "unclear", "dominance": "neutral"},
        "octant": "bored",
        "octant_probability": 0.6,
        "in_domain": None,
        "speaker": "you",
        "role": "user",
        "turn": 1,
        **more,
    }


@pytest.mark.parametrize(
    ("pleasure", "arousal", "sharp"),
    [
        (-0.4, 0.1, True),  # (4 + 1) / 2 in standard deviations of a difference of .141: 2.5 > 2
        (-0.2, 0.1, False),  # (2 + 1) / 2
        (-0.29, 0.1, False),  # 1.95
        (-0.31, 0.1, True),  # 2.05
        (-0.9, 0.0, False),  # arousal does not rise
        (-0.9, -0.3, False),  # sad, calmer
        (0.3, 0.9, False),  # delighted
        (0.0, 0.0, False),
    ],
)
def test_a_sharp_turn_exceeds_two_standard_deviations(pleasure: float, arousal: float, sharp: bool) -> None:
    assert sharp_turn(row(0.0, 0.0), row(pleasure, arousal)) is sharp
    # Doubt twice as large needs changes twice as large.
    assert sharp_turn(row(0.0, 0.0, 0.2), row(2 * pleasure, 2 * arousal, 0.2)) is sharp


def test_the_doubt_about_either_turn_counts() -> None:
    assert sharp_turn(row(0.0, 0.0, 0.05), row(-0.3, 0.1, 0.05))
    assert not sharp_turn(row(0.0, 0.0, 0.05), row(-0.3, 0.1, 0.3))
    assert not sharp_turn(row(0.0, 0.0, 0.3), row(-0.3, 0.1, 0.05))


def test_without_an_uncertainty_percentiles_decide() -> None:
    def at(pleasure: float, arousal: float) -> dict[str, Any]:
        return row(
            pleasure / 100, arousal / 100, None, percentile={"pleasure": pleasure, "arousal": arousal, "dominance": 0.0}
        )

    assert sharp_turn(at(60, 40), at(30, 70))
    assert not sharp_turn(at(60, 40), at(30, 60))
    assert not sharp_turn(at(60, 40), at(40, 90))
    assert not sharp_turn(row(0.9, -0.9, None), row(-0.9, 0.9, None))


def test_trend_against_the_last_three() -> None:
    earlier = [row(-0.9, 0.9), *[row(0.2, 0.0)] * 3]
    found = trend(earlier, row(0.5, -0.1))
    # The doubt is sqrt(.1^2 + .1^2 / 3) = .115; what is older than three turns does not count.
    assert found == {"pleasure": "rising", "arousal": "steady", "dominance": "steady"}
    assert trend(earlier, row(0.0, 0.0))["pleasure"] == "falling"
    assert set(trend([], row(0.9, 0.9)).values()) == {"steady"}
    assert trend([row(0.0, 0.0, None)], row(0.2, 0.05, None))["pleasure"] == "rising"


def test_a_line_says_everything() -> None:
    line = turn_line(row(-0.4, 0.2, in_domain=0.2), [row(0.0, 0.0)]).plain
    words = "negative; bored (60%); unlike the training texts"
    for part in ("  2 you", "pleasure -0.40 +/-0.10 falling", "arousal +0.20", words):
        assert part in line
    assert "SHARP TURN (pleasure -0.40, arousal +0.20)" in line
    assert "SHARP" not in turn_line(row(-0.4, 0.2), []).plain
    assert "+/-" not in turn_line(row(-0.4, 0.2, None), []).plain


@pytest.fixture(scope="module")
def checkpoint(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("chat") / "model"
    LiminalForPADRegression.from_encoder_pretrained(minilm, latent_size=16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return folder


def start(*arguments: str) -> Any:
    import pexpect  # needs a pseudo-terminal

    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    return pexpect.spawn(
        sys.executable, ["-m", "liminal_hf.cli", "chat", *arguments], encoding="utf-8", timeout=120, env=environment,
        dimensions=(24, 200), preexec_fn=hear_interrupts,
    )  # fmt: skip


def hear_interrupts() -> None:
    """A shell starts its background jobs deaf to Ctrl-C, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end(terminal: Any) -> None:
    """What is left to read is read, and the command has ended well."""
    left = terminal.read()
    terminal.wait()
    assert terminal.exitstatus == 0, left


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_conversation_in_a_terminal(checkpoint: Path, tmp_path: Path) -> None:
    kept, copied = tmp_path / "kept.safetensors", tmp_path / "copied.safetensors"
    terminal = start("--model", str(checkpoint), "--memory", str(kept))
    terminal.expect("you> ")
    terminal.sendline("Good morning [bold]everyone")
    terminal.expect(r"1 you +pleasure [+-]\d\.\d\d \+/-\d\.\d\d steady +arousal .* dominance\s+[+-]\d")
    terminal.expect("you> ")
    terminal.sendline("")
    terminal.expect("you> ")
    terminal.sendline("/as [red]Ben")
    terminal.expect(r"\[red\]Ben> ")
    terminal.sendline("I lost my keys.")
    terminal.expect(r"2 \[red\]Ben +pleasure")
    terminal.expect("> ")
    terminal.sendline("/save " + str(copied))
    terminal.expect("Kept in")
    terminal.sendline("/unknown")
    terminal.expect("Ctrl-D ends")
    terminal.sendline("/save " + str(tmp_path))
    terminal.expect("directory")
    terminal.expect("> ")
    terminal.sendeof()
    end(terminal)
    for path in (kept, copied):
        state = ConversationState.load(path)
        assert (list(state), state.turns) == (["you", "[red]Ben"], 2)

    terminal = start("--model", str(checkpoint), "--memory", str(kept))
    terminal.expect("Going on after 2 turns")
    terminal.sendline("Anyone there?")
    terminal.expect(r"3 you +pleasure")
    terminal.sendline("/new")
    terminal.expect("A new conversation")
    terminal.sendline("Hello again.")
    terminal.expect(r"1 you +pleasure")
    terminal.expect("> ")
    terminal.sendintr()
    end(terminal)
    assert ConversationState.load(kept).turns == 1


def test_a_kept_conversation_remembers_what_trends_look_back_at(
    pad: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    monkeypatch.setenv("COLUMNS", "200")

    def chat(*lines: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
        converse(pad, ConversationState.load(kept) if kept.exists() else ConversationState(), kept)
        return "".join(capsys.readouterr())

    once = chat("What a lovely surprise!", "You forgot our date again, and I am furious!")
    assert "falling" in once and "SHARP TURN (pleasure -" in once
    for leave in ("/quit", "quit", "exit", ":q", "QUIT"):
        kept.unlink()
        first = chat("What a lovely surprise!", leave, "this is not read")
        assert "steady" in first and "  2 you" not in first
    again = chat("You forgot our date again, and I am furious!", "\U0001f621", "so " * 300)
    assert "  2 you" in again and "falling" in again and "SHARP TURN (pleasure -" in again
    assert "not read: no token of this text is known" in again and "its end was left out" in again
    assert len(ConversationState.load(kept).rows["you"]) == 3


def test_a_line_of_other_targets() -> None:
    targets = ["valence", "arousal", "warmth"]
    doubt = {"valence": 0.1, "arousal": 0.1, "warmth": None}
    base = {
        "turn": 1,
        "speaker": "you",
        "octant": None,
        "verdict": None,
        "in_domain": None,
        "uncertainty": doubt,
        "percentile": None,
    }
    before = {**base, "valence": 0.4, "arousal": 0.0, "warmth": None}
    line = turn_line({**before, "valence": -0.2, "arousal": 0.4}, [before], targets).plain
    assert "valence -0.20 +/-0.10 falling" in line and "warmth" not in line and "SHARP TURN (valence -0.60" in line
    assert trend([before], {**before, "valence": 0.9}, targets)["warmth"] == "steady"
    assert not sharp_turn({"warmth": 0.9}, {"warmth": -0.9})


def test_a_rating_in_the_terminal_says_what_is_usual_and_shifts_what_follows(
    pad: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    monkeypatch.setenv("COLUMNS", "220")

    def chat(*lines: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
        converse(pad, ConversationState.load(kept) if kept.exists() else ConversationState(), kept)
        return "".join(capsys.readouterr())

    assert "you has not said anything that could be rated yet" in chat("/rate pleasure=0.5")
    shown = chat("I went home.", "/rate pleasure=0.9", "I went home.")
    assert "you, after 1 rating:  pleasure usually +" in shown and "now +0.90" in shown and "in a day +" in shown
    assert "arousal usually" not in shown, "it was not rated"
    assert "for you, by their ratings:  pleasure +" in shown
    again = chat("I went home.", "/rate 0.9 0.1", "/rate pleasure=9", "/rate well", "/rate joy=1")
    assert "for you, by their ratings" in again and "after 2 ratings" in again and "arousal usually" in again
    assert "A rating of pleasure lies between -1 and 1, got 9" in again
    assert again.count("A rating is typed as /rate pleasure=0.5") == 2
    state = ConversationState.load(kept)
    assert state.persons["you"].count.tolist() == [[2, 1, 0]] and state.persons["you"].turn.tolist() == [3]
    # Put right: the turn has one rating, the last.
    first = chat("/new", "I went home.", "/rate pleasure=-0.9", "/rate pleasure=0.9", "/quit")
    right = ConversationState.load(kept).persons["you"]
    chat("/new", "I went home.", "/rate pleasure=0.9", "/quit")
    once = ConversationState.load(kept).persons["you"]
    assert first.count("after 1 rating:") == 2 and right.count.tolist() == once.count.tolist() == [[1, 0, 0]]
    torch.testing.assert_close(right.residual_sum, once.residual_sum)
