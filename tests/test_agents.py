"""`liminal mcp`, asked by the SDK's own client: over the pipes of a real process, and over HTTP."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

mcp = pytest.importorskip("mcp")
from mcp import Client  # noqa: E402
from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: E402

from liminal_hf import AffectMemory  # noqa: E402
from liminal_hf.agents import MAX_CHARACTERS, MAX_MESSAGES, build  # noqa: E402

TOOLS = {"read_text", "read_conversation", "rate", "forecast", "forget"}
COMMAND = [sys.executable, "-m", "liminal_hf", "mcp"]
TURNS = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "I lost my keys."},
    {"role": "user", "name": "Bo", "content": "So did I!"},
]


@pytest.fixture
def asked(pad: Any) -> Callable[..., Any]:
    """Calls a tool of a server in this process."""
    memory = AffectMemory(":memory:", pad)

    def ask(tool: str, /, **arguments: Any) -> Any:
        async def call() -> Any:
            async with Client(build(pad, memory)) as client:
                return await client.call_tool(tool, arguments)

        return asyncio.run(call())

    return ask


async def story(client: Any) -> tuple[dict[str, Any], ...]:
    """One call of each tool; the answers."""

    async def call(tool: str, **arguments: Any) -> Any:
        result = await client.call_tool(tool, arguments)
        return result.content[0].text if result.is_error else result.structured_content

    assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
    return (
        await call("read_text", text="What a lovely surprise!"),
        await call("read_text", text="What a lovely surprise!", person="Ada", time=1000.0),
        await call("rate", person="Ada", rating={"pleasure": 0.9, "arousal": -0.2}),
        await call("read_conversation", messages=TURNS),
        await call("forecast", person="Ada", hours=48),
        await call("forget", person="Ada"),
        await call("forecast", person="Ada"),
    )


def check(answers: tuple[dict[str, Any], ...], pad: Any) -> None:
    alone, added, rated, conversation, expected, forgotten, unknown = answers
    own = pad("What a lovely surprise!")
    for name in ("pleasure", "arousal", "dominance", "octant_probability", "in_domain"):
        assert alone[name] == added[name] == pytest.approx(own[name], abs=5e-4)
    assert alone["uncertainty"] == pytest.approx(own["uncertainty"], abs=5e-4)
    assert alone["octant"] == own["octant"] and alone["verdict"] == own["verdict"] and alone["error"] is None
    assert added["state"]["turns"] == 1 and added["time"] == 1000.0
    assert rated["pleasure"]["ratings"] == 1 and rated["pleasure"]["last"] == 0.9 and rated["dominance"]["ratings"] == 0
    for row, turn in zip(conversation["turns"], pad(TURNS), strict=True):
        assert (row["speaker"], row["turn"], row["error"]) == (turn["speaker"], turn["turn"], turn["error"])
        assert row["pleasure"] == (None if turn["error"] else pytest.approx(turn["pleasure"], abs=5e-4))
    # Days after the message the person is back at their level.
    assert expected["pleasure"]["now"] == pytest.approx(expected["pleasure"]["level"], abs=1e-3)
    assert expected["pleasure"]["low"] < expected["pleasure"]["now"] < expected["pleasure"]["high"]
    assert forgotten == {"forgotten": True} and "'Ada' is not known" in unknown and "read_text" in unknown


def test_over_the_pipes_of_a_process(minilm: Path, pad: Any, tmp_path: Path) -> None:
    kept = tmp_path / "affect.db"

    async def talk() -> tuple[dict[str, Any], ...]:
        server = StdioServerParameters(
            command=COMMAND[0], args=[*COMMAND[1:], "--memory", str(kept)], env=dict(os.environ)
        )
        async with Client(stdio_client(server)) as client:
            answers = await story(client)
            await client.call_tool("read_text", {"text": "Good morning.", "person": "Bo"})
            return answers

    check(asyncio.run(talk()), pad)
    with AffectMemory(kept, pad) as memory:
        assert memory.persons() == ["Bo"]
    assert b"Ada" not in kept.read_bytes() and b"morning" not in kept.read_bytes()


def test_over_http_of_a_process(minilm: Path, pad: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([*COMMAND, "--http", "--port", str(port)], stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}/mcp"

    async def talk() -> Any:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            await asyncio.sleep(0.1)
        async with Client(address) as client, Client(address) as other:
            answers = await story(client)
            # Both are asked at once, and each gets the answer to its own question.
            texts = [f"I have {count} lovely dogs." for count in range(12)]
            found = await asyncio.gather(
                *(one.call_tool("read_text", {"text": text}) for text in texts for one in (client, other))
            )
        async with httpx2.AsyncClient() as browser:
            strangers = [
                await browser.post(address, headers={**headers, "accept": "application/json"}, json={})
                for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"})
            ]
        return answers, texts, found, strangers

    try:
        answers, texts, found, strangers = asyncio.run(talk())
    finally:
        server.terminate()
        _, said = server.communicate(timeout=30)
    check(answers, pad)
    for index, result in enumerate(found):
        wanted = pad(texts[index // 2])
        assert result.structured_content["pleasure"] == pytest.approx(wanted["pleasure"], abs=6e-4)
    # A page in the browser of the same machine can't ask for what is kept of persons.
    assert [answer.status_code for answer in strangers] == [403, 421]
    assert f"{address} (Ctrl-C" in said and "Traceback" not in said and "open to other machines" not in said


def test_what_is_wrong_is_said_as_a_tools_error(asked: Callable[..., Any]) -> None:
    long = "a" * (MAX_CHARACTERS + 1)
    wrong = [
        ("read_text", {"text": "  "}, "empty"),
        ("read_text", {"text": "\U0001f600"}, "no token"),
        ("read_text", {"text": long}, f"at most {MAX_CHARACTERS}"),
        ("read_text", {"text": "Hi", "time": 3.0}, "person"),
        ("read_text", {"text": "Hi", "person": "Ada", "time": 1000 * time.time()}, "lies in the future"),
        ("read_text", {"text": "Hi", "person": ""}, "at least 1"),
        ("read_text", {}, "required"),
        ("read_conversation", {"messages": []}, "at least 1"),
        ("read_conversation", {"messages": TURNS * MAX_MESSAGES}, f"at most {MAX_MESSAGES}"),
        ("read_conversation", {"messages": [{"role": "user"}]}, "content"),
        ("rate", {"person": "Ada", "rating": {"pleasure": 0.5}}, "not known"),
        ("forecast", {"person": "Ada"}, "not known"),
        ("forecast", {"person": "Ada", "hours": -1}, "greater than or equal to 0"),
        ("read_minds", {}, "read_minds"),
    ]
    for tool, arguments, part in wrong:
        result = asked(tool, **arguments)
        assert result.is_error and part in result.content[0].text, (tool, arguments, result.content)
    assert asked("forget", person="Nobody").structured_content == {"forgotten": False}


def test_a_rating_outside_of_the_scale_changes_nothing(asked: Callable[..., Any]) -> None:
    before = asked("read_text", text="Good morning.", person="Ada").structured_content["state"]
    for rating in ({"pleasure": 1.5}, {"joy": 0.1}, {"pleasure": float("nan")}):
        result = asked("rate", person="Ada", rating=rating)
        assert result.is_error and "pleasure" in result.content[0].text
    late = asked("read_text", text="Good morning.", person="Ada", time=5.0)
    assert late.is_error and "older than their last" in late.content[0].text
    after = asked("forecast", person="Ada").structured_content
    assert after["turns"] == before["turns"] and after["pleasure"]["ratings"] == 0


def test_the_tools_say_their_units(pad: Any) -> None:
    async def listed() -> Any:
        async with Client(build(pad, AffectMemory(":memory:", pad))) as client:
            return (await client.list_tools()).tools, client.instructions

    tools, instructions = asyncio.run(listed())
    assert "-1..1" in instructions and "no diagnosis" in instructions
    for tool in tools:
        assert tool.name == "forget" or re.search(r"-1\.\.1", tool.description)
        assert tool.annotations.destructive_hint is (tool.name == "forget") or tool.annotations.read_only_hint
        for one in tool.input_schema["properties"].values():
            assert one.get("description") or "items" in one, (tool.name, one)


def test_without_the_extra_the_line_to_type_is_said(
    refused: Callable[..., str], minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    assert "pip install 'liminal_hf[mcp]'" in refused("mcp")


def test_a_memory_that_is_none_is_refused(refused: Callable[..., str], minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database, for certain" * 99)
    assert "no affect memory" in refused("mcp", "--memory", tmp_path / "notes.txt")
