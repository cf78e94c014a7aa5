"""`liminal chat`: a conversation in the terminal, with the PAD of each turn, its trend and its sharp turns.

Requires rich and torch; the caller brings a `pipeline("pad-regression")`.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from .modeling.configuration_liminal import DIMENSIONS
from .modeling.conversation import check_persons
from .modeling.errors import LiminalError
from .modeling.person_prior import PersonPrior
from .modeling.persons import PersonMemory, rating_row
from .modeling.rows import in_words

HELP = (
    "Type a turn and press Enter. /as NAME lets NAME speak, /rate pleasure=0.5 says how the last turn felt, /new "
    "starts anew, /save FILE keeps the conversation, /quit (also quit, exit, :q) or Ctrl-D ends."
)
_SECONDS_PER_DAY = 86_400
_LEAVE = ("/quit", "/exit", "/q", "quit", "exit", ":q", ":quit")
# As many of a speaker's last rows as a trend looks at.
_ROWS_KEPT = 3
# Two standard deviations; two quarters of what the model says of its training texts.
_SHARP_DEVIATIONS = 2.0
_SHARP_PERCENTILES = 25.0
_STYLES = {"rising": "green", "falling": "red", "steady": "dim"}


def sharp_turn(previous: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether a turn escalates against an earlier one: less pleasure and more arousal, beyond the model's own doubt.

    With an uncertainty, both changes are measured in standard deviations of a difference, sqrt(u_before^2 + u_now^2),
    and (fall of pleasure + rise of arousal) / sqrt(2) must exceed 2: were nothing but the two errors at work,
    independent and normal, this would happen by chance in at most 2.3% of the turns. Without an uncertainty, pleasure
    must fall and arousal rise by more than 25 percentile points each. A row with neither can't be judged: False.

    Args:
        previous: row of `pipeline("pad-regression")` of an earlier turn, usually the same speaker's last.
        row: that of the present turn.

    Example:
        >>> doubt = {"pleasure": 0.1, "arousal": 0.1, "dominance": 0.1}
        >>> calm = {"pleasure": 0.2, "arousal": 0.0, "dominance": 0.0, "uncertainty": doubt}
        >>> sharp_turn(calm, {**calm, "pleasure": -0.3, "arousal": 0.2})
        True
        >>> sharp_turn(calm, {**calm, "pleasure": -0.3, "arousal": -0.1})  # sad, and not escalating
        False
    """
    pleasure = "valence" if "valence" in row else "pleasure"
    if None in (row.get(pleasure), row.get("arousal"), previous.get(pleasure), previous.get("arousal")):
        return False
    fall, rise = previous[pleasure] - row[pleasure], row["arousal"] - previous["arousal"]
    if fall <= 0 or rise <= 0:
        return False
    before, now = previous.get("uncertainty"), row.get("uncertainty")
    if before is not None and now is not None:
        fall /= math.hypot(before[pleasure], now[pleasure])
        rise /= math.hypot(before["arousal"], now["arousal"])
        return (fall + rise) / math.sqrt(2) > _SHARP_DEVIATIONS
    before, now = previous.get("percentile"), row.get("percentile")
    if before is not None and now is not None:
        fall, rise = before[pleasure] - now[pleasure], now["arousal"] - before["arousal"]
        return min(fall, rise) > _SHARP_PERCENTILES
    return False


def trend(
    earlier: Sequence[Mapping[str, Any]], row: Mapping[str, Any], targets: Sequence[str] = DIMENSIONS
) -> dict[str, str]:
    """Per target "rising", "falling" or "steady", against the mean of the last three earlier rows.

    Steady is a change of less than one standard deviation of it, sqrt(u_now^2 + mean(u_before^2) / count), or of less
    than 0.1 where there is no uncertainty. The first turn is steady, and so is a target without a value.

    Example:
        >>> rows = [{"pleasure": p, "arousal": 0.0, "dominance": 0.0} for p in (0.0, 0.1, 0.6)]
        >>> trend(rows[:2], rows[2])["pleasure"]
        'rising'
    """
    last = list(earlier)[-_ROWS_KEPT:]
    directions = dict.fromkeys(targets, "steady")
    for name in targets:
        if not last or row[name] is None:
            continue
        change = row[name] - sum(other[name] for other in last) / len(last)
        if row.get("uncertainty") is None:
            doubt = 0.1
        else:
            before = sum(other["uncertainty"][name] ** 2 for other in last) / len(last)
            doubt = math.sqrt(row["uncertainty"][name] ** 2 + before / len(last))
        if abs(change) >= doubt:
            directions[name] = "rising" if change > 0 else "falling"
    return directions


def turn_line(
    row: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]], targets: Sequence[str] = DIMENSIONS
) -> Text:
    """One turn for the terminal: its targets with uncertainty and trend, in numbers and words, and any sharp turn.

    Args:
        row: that of the turn.
        earlier: the same speaker's earlier rows, oldest first.
        targets: names of the model's targets; one without a value is left out.
    """
    line = Text(f"{row['turn'] + 1:>3} {row['speaker']}  ")
    directions = trend(earlier, row, targets)
    for name in targets:
        if row[name] is None:
            continue
        line.append(f"{name} {row[name]:+.2f}")
        if row["uncertainty"] is not None:
            line.append(f" +/-{row['uncertainty'][name]:.2f}", style="dim")
        line.append(f" {directions[name]}", style=_STYLES[directions[name]])
        line.append("  ")
    line.append(in_words(row), style="bold")
    if row.get("truncated"):
        line.append("  (too long: its end was left out)", style="yellow")
    if earlier and sharp_turn(earlier[-1], row):
        pleasure = "valence" if "valence" in row else "pleasure"
        line.append("  SHARP TURN", style="bold red")
        line.append(f" ({pleasure} {row[pleasure] - earlier[-1][pleasure]:+.2f}, ")
        line.append(f"arousal {row['arousal'] - earlier[-1]['arousal']:+.2f})")
    return line


def parse_rating(typed: str, targets: Sequence[str]) -> dict[str, float]:
    """What was typed after /rate, by target: `pleasure=0.5 arousal=-0.2`, or numbers in the order of the targets.

    Raises:
        LiminalError: it is neither.

    Example:
        >>> parse_rating("pleasure=0.5 arousal=-.2", DIMENSIONS), parse_rating("0.5", DIMENSIONS)
        ({'pleasure': 0.5, 'arousal': -0.2}, {'pleasure': 0.5})
    """
    words = typed.replace(",", " ").split()
    pairs = [word.partition("=")[::2] if "=" in word else ("", word) for word in words]
    if not any(name for name, _ in pairs):
        pairs = [(name, number) for name, (_, number) in zip(targets, pairs, strict=False)]
    try:
        rating = {name: float(number) for name, number in pairs}
    except ValueError:
        rating = {}
    if not rating or len(rating) < len(words) or not rating.keys() <= set(targets):
        raise LiminalError(
            f"A rating is typed as /rate {targets[0]}=0.5, or as numbers in the order {', '.join(targets)}; got "
            f"{typed!r}."
        )
    return rating


def person_line(speaker: str, person: PersonMemory, prior: PersonPrior, targets: Sequence[str]) -> Text:
    """What is known of a person: the usual level, the last value against it, and a forecast for a day later."""
    level, forecast = person.level(prior)[0], person.forecast(prior, float(person.time[0]) + 1)
    count = int(person.count.max())
    line = Text(f"    {speaker}, after {count} rating{'s' if count > 1 else ''}:  ", style="dim")
    for index, name in enumerate(targets):
        if not bool(person.last_rated[0, index]):
            continue
        last = float(person.last[0, index])
        line.append(f"{name} usually {level[index]:+.2f}, now {last:+.2f} ({last - level[index]:+.2f}), in a day ")
        low, high = float(forecast.low[0, index]), float(forecast.high[0, index])
        line.append(f"{forecast.mean[0, index]:+.2f} [{low:+.2f}, {high:+.2f}]  ")
    return line


def rate(reader: Any, state: Any, speaker: str, typed: str) -> Text:
    """Takes note of a rating of a speaker's last turn, in the state, and says what is known of them now.

    Rated again, the turn has the new rating and not the first.

    Raises:
        LiminalError: there is no such turn, the rating is none, or the state is of another model.
    """
    config = reader.model.config
    check_persons(state, config)
    if not state.rows.get(speaker) or speaker not in state.persons:
        raise LiminalError(f"{speaker} has not said anything that could be rated yet.")
    trained = [name for name, is_trained in zip(config.targets, config.trained_targets, strict=True) if is_trained]
    rating = parse_rating(typed, trained)
    values = [
        math.nan if state.rows[speaker][-1][name] is None else state.rows[speaker][-1][name] for name in config.targets
    ]
    prediction = torch.tensor([values], dtype=torch.float64)
    person = state.persons[speaker].rate(prediction, rating_row(rating, config.targets, config.label_range))
    state.persons = {**state.persons, speaker: person}
    return person_line(speaker, person, reader.person_prior or PersonPrior.of_model(config), config.targets)


def converse(  # noqa: C901  (one loop over what can be typed)
    reader: Any, state: Any, memory: Path | None = None, speaker: str = "you"
) -> None:
    """Reads turns from the terminal or a pipe until /quit or the end of the input, and shows each with its numbers.

    Args:
        reader: a `pipeline("pad-regression")`.
        state: the `ConversationState` to go on from; its `rows` are those that trends and sharp turns look back at.
        memory: where the conversation is kept at the end.
        speaker: who speaks first.

    Raises:
        OSError: the conversation could not be kept in `memory`.
    """
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    targets = reader.model.config.targets
    console.print(HELP, style="dim")
    if state.turns:
        console.print(f"Going on after {state.turns} turns.", style="dim")
    while True:
        try:
            line = console.input(Text(f"{speaker}> ")).strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            break
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if line.lower() in _LEAVE:
            break
        try:
            if command == "/as" and rest:
                speaker = rest
            elif command == "/new":
                state = type(state)()
                console.print("A new conversation.", style="dim")
            elif command == "/rate" and rest:
                console.print(rate(reader, state, speaker, rest))
            elif command == "/save" and rest:
                state.save(rest)
                console.print(Text(f"Kept in {rest}.", style="dim"))
            elif command.startswith("/"):
                console.print(HELP, style="dim")
            elif line:
                # Everyone who speaks may come to rate: they are remembered from the first turn on, with times in days.
                persons = {speaker: PersonMemory.empty(1, len(targets)), **state.persons}
                known = type(state)(state, state.turns, state.rows, persons, state.labels)
                now = max(time.time() / _SECONDS_PER_DAY, float(persons[speaker].time[0]))  # a clock may be put back
                message = {"role": "user", "speaker": speaker, "content": line, "time": now}
                row = reader(message, memory=known)
                if row["error"] is not None:
                    raise LiminalError(f"This turn was not read: {row['error']}.")
                state, earlier = row["memory"], state.rows.get(speaker, [])
                console.print(turn_line(row, earlier, targets))
                if adjusted := row.get("adjusted"):
                    shown = "  ".join(f"{name} {value:+.2f}" for name, value in adjusted.items() if value is not None)
                    console.print(Text(f"    for {speaker}, by their ratings:  {shown}", style="cyan"))
                plain = {name: row[name] for name in (*targets, "uncertainty", "percentile")}
                state.rows = {**state.rows, speaker: [*earlier, plain][-_ROWS_KEPT:]}
        except (OSError, ValueError) as error:
            errors.print(Text(str(error), style="red"))
    if memory is not None:
        state.save(memory)
