"""`liminal serve`: the same numbers as the Scorer's and the pipeline's, limits, a full queue, kills, a real process."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")
import httpx
from fastapi.testclient import TestClient
from websockets.sync.client import connect

from liminal_hf import DEFAULT_CHECKPOINT
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import Scorer
from liminal_hf.serving import MAX_BYTES, MAX_CHARACTERS, MAX_TEXTS, Batcher, Busy, create_app
from liminal_hf.serving.app import _listen

TEXTS = ["What a lovely surprise!", "Get out of here, now!", "The train leaves at nine.", "I lost my keys. " * 60]
TURNS = [
    {"role": "user", "name": "Ada", "content": "I lost my keys.", "pad": {"pleasure": 0.2}},
    {"role": "tool", "content": "{}"},
    {"role": "user", "name": "Bo", "content": "Oh no!"},
    {"role": "user", "name": "Ada", "content": "Found them!"},
]


@pytest.fixture(scope="module")
def scorer(minilm: Path) -> Scorer:
    return Scorer(DEFAULT_CHECKPOINT, threads=1)


@pytest.fixture(scope="module")
def client(scorer: Scorer, pad: Any) -> Iterator[TestClient]:
    with TestClient(create_app(scorer, pad)) as opened:
        yield opened


def plain(rows: list[Any]) -> list[Any]:
    return json.loads(json.dumps(rows, allow_nan=False))


def alike(found: Any, wanted: Any) -> bool:
    """Equal but for rounding."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(alike(found[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(alike, found, wanted))
    return found == (pytest.approx(wanted, abs=2e-3) if isinstance(wanted, float) else wanted)


# ---- answers ----


def test_rows_are_the_pipelines(client: TestClient, pad: Any) -> None:
    answer = client.post("/predict", json={"texts": TEXTS})
    assert answer.status_code == 200
    rows = answer.json()["rows"]
    wanted = plain(pad(TEXTS))
    assert len(rows[3]["windows"]) > 1 and rows[3]["windows"] is not None
    for row, own in zip(rows, wanted, strict=True):
        assert alike(row, own), (row, own)


def test_what_cant_be_read_has_a_row(client: TestClient) -> None:
    body = '{"texts": ["Good morning.", null, " ", 3, "a\\ud83d", NaN, ["x"], "\\u0001"]}'
    rows = client.post("/predict", content=body, headers={"content-type": "application/json"}).json()["rows"]
    assert rows[0]["error"] is None and rows[0]["octant"] is not None
    assert [row["pleasure"] for row in rows[1:]] == [None] * 7
    errors = [row["error"] for row in rows[1:]]
    assert errors[:2] == ["no text (missing value)", "empty"] and "half of a character" in errors[3] and all(errors)
    assert client.post("/predict", json={"texts": []}).json() == {"rows": []}


def test_conversations_are_the_pipelines(client: TestClient, pad: Any) -> None:
    rows = client.post("/conversation", json={"messages": TURNS}).json()["rows"]
    wanted = plain(pad(TURNS))
    assert alike(rows, wanted)
    assert rows[3]["adjusted"]["pleasure"] != rows[3]["pleasure"] and rows[1]["error"] == "role 'tool' is not read"
    with client.websocket_connect("/stream") as stream, client.websocket_connect("/stream") as other:
        for turn, own in zip(TURNS, wanted, strict=True):
            stream.send_text(json.dumps(turn))
            other.send_text(json.dumps({"role": "user", "content": "Hello."}))
            assert alike(json.loads(stream.receive_text()), own)
            other.receive_text()


def test_a_stream_goes_on_after_nonsense(client: TestClient) -> None:
    with client.websocket_connect("/stream") as stream:
        for text in (
            "{",
            "3",
            "[]",
            '{"role": "user"}',
            '{"role": "user", "content": "a", "time": "noon"}',
            "[" * 9000,
        ):
            stream.send_text(text)
            answer = json.loads(stream.receive_text())
            assert list(answer) == ["error"] and answer["error"], text
        stream.send_text(json.dumps(TURNS[0] | {"content": "a" * (MAX_CHARACTERS + 1)}))
        assert "The message has 20,001 characters" in json.loads(stream.receive_text())["error"]
        stream.send_bytes(b"\x00\xff")
        assert "text frame" in json.loads(stream.receive_text())["error"]
        stream.send_text(json.dumps(TURNS[0]))
        assert json.loads(stream.receive_text())["turn"] == 0


def test_half_a_character_in_a_name_comes_back_as_it_came(client: TestClient) -> None:
    message = {"role": "user", "name": "\ud83d", "content": "Good morning."}
    answer = client.post(
        "/conversation", content=json.dumps({"messages": [message]}), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200 and answer.json()["rows"][0]["speaker"] == "\ud83d"
    with client.websocket_connect("/stream") as stream:
        stream.send_text(json.dumps(message))
        assert json.loads(stream.receive_text())["speaker"] == "\ud83d"


# ---- limits ----


@pytest.mark.parametrize(
    ("path", "body", "status", "part"),
    [
        ("/predict", {"texts": ["a"] * (MAX_TEXTS + 1)}, 422, f"at most {MAX_TEXTS}"),
        ("/predict", {"texts": ["a", "a" * (MAX_CHARACTERS + 1)]}, 422, "Text 1 has 20,001 characters"),
        ("/conversation", {"messages": [TURNS[0], TURNS[0] | {"content": "a" * 20_001}]}, 422, "Message 1 has 20,001"),
        ("/conversation", {"messages": [TURNS[0] | {"content": [{"text": "a" * 9_999}] * 3}]}, 422, "has 29,997"),
        ("/predict", {"texts": "Good morning."}, 422, "list"),
        ("/predict", {"text": ["Good morning."]}, 422, "texts: Field required"),
        ("/predict", {"texts": ["a" * MAX_BYTES]}, 413, "1,000,000 bytes"),
        ("/conversation", {"messages": []}, 422, "at least 1"),
        ("/conversation", {"messages": [{"content": "a"}]}, 422, "role"),
        ("/conversation", {"messages": [{"role": "user", "content": "a", "pad": {"joy": 1}}]}, 422, "joy"),
        ("/nothing", {}, 404, "Not Found"),
    ],
)
def test_limits_are_said(client: TestClient, path: str, body: Any, status: int, part: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status and part in answer.json()["error"]


def test_a_body_that_hides_its_size_is_refused(client: TestClient) -> None:
    pieces = (b"[" * 1000 for _ in range(2 * MAX_BYTES // 1000))
    answer = client.post("/predict", content=pieces, headers={"content-type": "application/json"})
    assert answer.status_code == 413 and "1,000,000 bytes" in answer.json()["error"]


def test_what_is_no_json_is_said(client: TestClient) -> None:
    for content in (b"{", b"\xff\xfe", b"", b"[" * 5000):
        answer = client.post("/predict", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422) and answer.json()["error"]
        if content == b"{":
            error = answer.json()["error"]
            assert error.startswith("The body is no JSON") and '/predict takes {"texts": ["..."]}' in error


def test_openapi_describes_rows_and_limits(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert {"/predict", "/conversation", "/health", "/metrics"} <= set(described["paths"])
    assert set(described["paths"]["/predict"]["post"]["responses"]) == {"200", "413", "422", "429"}
    schemas = described["components"]["schemas"]
    assert schemas["Texts"]["properties"]["texts"]["maxItems"] == MAX_TEXTS
    row = client.post("/predict", json={"texts": TEXTS[:1]}).json()["rows"][0]
    assert set(row) - set(schemas["Row"]["properties"]) == {"pleasure", "arousal", "dominance"}


def test_metrics_count(scorer: Scorer) -> None:
    with TestClient(create_app(scorer)) as client:
        client.post("/predict", json={"texts": TEXTS[:3]})
        client.post("/predict", json={"texts": 3})
        client.get("/made-up-by-a-stranger")
        page = client.get("/metrics").text
        # Without a pipeline there are no conversations.
        assert client.post("/conversation", json={"messages": TURNS}).status_code == 404
        assert client.get("/health").json()["status"] == "ok"
    for line in (
        'liminal_requests_total{path="/predict",status="200"} 1.0',
        'liminal_requests_total{path="/predict",status="422"} 1.0',
        'liminal_requests_total{path="other",status="404"} 1.0',
        "liminal_texts_total 3.0",
        "liminal_batch_texts_sum 3.0",
        "liminal_waiting 0.0",
    ):
        assert line in page, page


# ---- the queue ----


class Reader:
    """Doubles numbers, when it may; refuses negative ones."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        assert self.may.wait(10)
        if min(items) < 0:
            raise LiminalError(f"{min(items)} is negative")
        if 1313 in items:
            raise KeyError(1313)
        return [item * 2 for item in items]


def with_batcher(scene: Any, **options: Any) -> tuple[Any, Reader]:
    async def play() -> Any:
        async with Batcher(reader, ThreadPoolExecutor(1), **options) as batcher:
            return await asyncio.wait_for(scene(batcher, reader), 20)

    reader = Reader()
    return asyncio.run(play()), reader


def test_many_askers_share_batches_and_get_their_own() -> None:
    async def scene(batcher: Batcher, reader: Reader) -> Any:
        reader.may.set()
        return await asyncio.gather(*(batcher.ask([index, -0, 100 + index][: 1 + index % 3]) for index in range(90)))

    answers, reader = with_batcher(scene, at_once=16)
    assert answers == [[2 * index, 0, 200 + 2 * index][: 1 + index % 3] for index in range(90)]
    assert max(map(len, reader.batches)) <= 16 and len(reader.batches) < 20


def test_one_askers_fault_is_no_others() -> None:
    async def scene(batcher: Batcher, reader: Reader) -> Any:
        reader.may.set()
        first = await asyncio.gather(
            batcher.ask([1, 2]), batcher.ask([3, -4]), batcher.ask([5]), return_exceptions=True
        )
        crash = await asyncio.gather(batcher.ask([1313]), batcher.ask([7]), return_exceptions=True)
        return first, crash, await batcher.ask([6]), batcher.waiting

    (first, crash, after, waiting), _ = with_batcher(scene)
    assert first[0] == [2, 4] and first[2] == [10] and isinstance(first[1], LiminalError) and "-4" in str(first[1])
    # A fault of ours is an error for whoever asked; those beside them and the next ones are read.
    assert isinstance(crash[0], KeyError) and crash[1] == [14] and after == [12] and waiting == 0


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def scene(batcher: Batcher, reader: Reader) -> Any:
        asked = [asyncio.create_task(batcher.ask([index] * 2)) for index in range(5)]
        await asyncio.sleep(0.05)
        with pytest.raises(Busy) as refused:
            await batcher.ask([1])
        reader.may.set()
        answers = await asyncio.gather(*asked)
        return refused.value.retry_after, answers, await batcher.ask([7])

    (retry_after, answers, after), _ = with_batcher(scene, at_once=2, room=10)
    assert retry_after >= 1 and answers == [[2 * index] * 2 for index in range(5)] and after == [14]


def test_who_hangs_up_is_not_read() -> None:
    async def scene(batcher: Batcher, reader: Reader) -> Any:
        asked = [asyncio.create_task(batcher.ask([index])) for index in range(4)]
        await asyncio.sleep(0.05)
        asked[0].cancel()  # is being read
        asked[2].cancel()  # waits
        await asyncio.sleep(0)
        reader.may.set()
        done = await asyncio.gather(*asked, return_exceptions=True)
        return done, batcher.waiting

    (done, waiting), reader = with_batcher(scene, at_once=1)
    assert done[1] == [2] and done[3] == [6] and waiting == 0
    assert [2] not in reader.batches and [0] in reader.batches


def test_many_items_of_one_dont_hold_up_the_few_of_another() -> None:
    async def scene(batcher: Batcher, reader: Reader) -> Any:
        reader.may.set()
        return await asyncio.gather(batcher.ask(list(range(100))), batcher.ask([7]))

    (many, few), reader = with_batcher(scene, at_once=8)
    assert many == [2 * item for item in range(100)] and few == [14]
    assert all(len(batch) <= 8 for batch in reader.batches)


# ---- a real process ----


@contextlib.contextmanager
def server(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`liminal serve` on a free port: its address and its process."""
    command = [sys.executable, "-m", "liminal_hf", "serve", "--port", "0", "--threads", "1", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"http://\S+", line):
                break
        else:
            raise AssertionError("it ended before it listened")
        # Nothing fills the pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[0], process
    finally:
        process.kill()
        process.wait()


def test_a_process_answers_many_and_survives_those_who_leave(minilm: Path) -> None:
    texts = [f"I have {count} lovely dogs." for count in range(24)]
    own = Scorer(DEFAULT_CHECKPOINT, "int8", threads=1).rows(texts)
    with server("--room", "256") as (address, process):
        host, port = address.removeprefix("http://").split(":")
        with httpx.Client(base_url=address, timeout=60) as client:
            client.post("/predict", json={"texts": texts[:1]}).raise_for_status()
            # Those who hang up in the middle of a question or of an answer.
            body = json.dumps({"texts": ["Some words that nobody waits for."] * 100})
            head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            for sent in (f"{head}\r\n\r\n{body}", f"{head}\r\n\r\n{body[:40]}", head):
                with socket.create_connection((host, int(port))) as leaver:
                    leaver.sendall(sent.encode())
                    time.sleep(0.02)
            with ThreadPoolExecutor(12) as pool:
                found = list(pool.map(lambda text: client.post("/predict", json={"texts": [text]}).json(), texts))
            # The same texts one by one and many at a time, whoever asks beside: bit for bit what the Scorer says.
            assert [answer["rows"][0] for answer in found] == plain(own)
            # More at once than there is room for: refused, with the time to come back.
            with ThreadPoolExecutor(8) as pool:
                many = list(pool.map(lambda _: client.post("/predict", json={"texts": ["Hi."] * 100}), range(8)))
            refused = [answer for answer in many if answer.status_code == 429]
            assert refused and all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            assert {answer.status_code for answer in many} == {200, 429}
            assert client.get("/health").json()["backend"] == "int8"
        with connect(f"ws://{host}:{port}/stream") as stream:
            stream.send(json.dumps(TURNS[0]))
            assert json.loads(stream.recv())["turn"] == 0
            # A request that was asked before the end is answered; nobody new is let in.
            with ThreadPoolExecutor(1) as pool:
                last = pool.submit(httpx.post, f"{address}/predict", json={"texts": texts * 10}, timeout=60)
                time.sleep(0.3)
                process.send_signal(signal.SIGTERM)
                assert last.result().json()["rows"][: len(texts)] == plain(own)
        assert process.wait(30) in (0, -signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{address}/health")


def test_small_answers_are_sent_at_once() -> None:
    """Without TCP_NODELAY a client with one connection waits 40 ms for each answer."""

    async def scene() -> int:
        found = asyncio.get_running_loop().create_future()

        async def answer(_: Any, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with _listen("127.0.0.1", 0) as listening:
            server = await asyncio.start_server(answer, sock=listening)
            async with server:
                _, writer = await asyncio.open_connection(*listening.getsockname())
                writer.close()
                return await asyncio.wait_for(found, 10)

    assert asyncio.run(scene())


def test_a_port_that_is_taken_is_said(run: Any, minilm: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, err = run("serve", "--port", taken.getsockname()[1], "--backend", "torch")
    assert status == 2 and "--port" in err and "Traceback" not in err


def test_room_for_less_than_a_request_is_refused(scorer: Scorer) -> None:
    with pytest.raises(LiminalError, match="room for the 256 texts"):
        create_app(scorer, room=10)
