"""Finding, fetching and committing files; the network is a server on loopback."""

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from liminal_hf import io
from liminal_hf.data import emobank

CONTENT = b"id,split,V,A,D,text\na,train,3,3,3,Hello.\nb,dev,4,3,3,Yes.\nc,test,5,3,3,No.\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that has `emobank.csv`; offline mode is off."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "emobank.csv").write_bytes(CONTENT)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setattr(io, "HF_HUB_OFFLINE", False)
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_fetched_once_and_checked(server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "cache" / "emobank.csv"
    assert io.fetch(f"{server}/emobank.csv", target, SHA256).read_bytes() == CONTENT
    # Now from the cache: the address leads nowhere.
    assert io.fetch(f"{server}/gone", target, SHA256) == target
    target.write_bytes(CONTENT[:-5])
    assert io.fetch(f"{server}/emobank.csv", target, SHA256).read_bytes() == CONTENT
    assert "damaged" in caplog.text
    assert [path.name for path in target.parent.iterdir()] == ["emobank.csv"]


def test_wrong_content_is_refused_and_not_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sha256 .*expected 000"):
        io.fetch(f"{server}/emobank.csv", tmp_path / "cache" / "a.csv", "0" * 64)
    assert not (tmp_path / "cache").exists()


def test_no_network_says_what_to_do(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError, match=r"could not be fetched \(HTTP Error 404.*LIMINAL_DATA_DIR"):
        io.fetch(f"{server}/gone", tmp_path / "a.csv", SHA256)
    with pytest.raises(ConnectionError, match=r"could not be fetched .*LIMINAL_DATA_DIR"):
        io.fetch("http://127.0.0.1:9/a.csv", tmp_path / "a.csv", SHA256)
    monkeypatch.setattr(io, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"HF_HUB_OFFLINE is set.*LIMINAL_DATA_DIR"):
        io.fetch(f"{server}/emobank.csv", tmp_path / "a.csv", SHA256)


def test_emobank_comes_from_its_source(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMINAL_DATA_DIR", raising=False)
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(emobank, "SOURCE", server)
    with pytest.raises(ValueError, match=emobank.SHA256["emobank.csv"]):  # this server's is not the real one
        emobank.load_emobank()
    monkeypatch.setitem(emobank.SHA256, "emobank.csv", SHA256)
    assert emobank.load_emobank()["validation"][0] == {"id": "b", "text": "Yes.", "labels": [0.5, 0.0, 0.0]}


def test_the_pins_are_those_of_the_files_at_hand(data_dir: Path) -> None:
    for name, pin in emobank.SHA256.items():
        assert hashlib.sha256((data_dir / "emobank" / name).read_bytes()).hexdigest() == pin


def test_find_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMINAL_DATA_DIR", raising=False)
    (tmp_path / "emobank").mkdir()
    inside, beside = tmp_path / "emobank" / "a.csv", tmp_path / "b.csv"
    inside.touch()
    beside.touch()
    assert io.find_file("emobank", "a.csv", tmp_path) == inside
    assert io.find_file("emobank", "a.csv", tmp_path / "emobank") == inside
    assert io.find_file("emobank", "b.csv", str(tmp_path)) == beside
    assert io.find_file("emobank", "a.csv") is None
    with pytest.raises(FileNotFoundError, match=r"c\.csv.*data_dir"):
        io.find_file("emobank", "c.csv", tmp_path)
    monkeypatch.setenv("LIMINAL_DATA_DIR", str(tmp_path))
    assert io.find_file("emobank", "a.csv") == inside
    assert io.find_file("emobank", "c.csv") is None
    with pytest.raises(FileNotFoundError, match=r"meld/x\.csv was not found. Get it from there.*LIMINAL_DATA_DIR"):
        io.require_file("meld", "x.csv", None, "there")


def test_cache_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "mine"))
    assert io.cache_root() == tmp_path / "mine"
    monkeypatch.delenv("LIMINAL_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert io.cache_root() == tmp_path / "liminal_hf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert io.cache_root() == Path.home() / ".cache" / "liminal_hf"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), io.atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_writing_leaves_no_part(tmp_path: Path) -> None:
    io.write_text(tmp_path / "a.txt", "one")
    io.write_text(tmp_path / "a.txt", "two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "two")]


def test_a_folder_takes_the_place_of_the_old_one_when_it_is_whole(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with io.atomic_folder(tmp_path / "result") as part:
            io.write_text(part / f"{content}.txt", content)
    with pytest.raises(RuntimeError), io.atomic_folder(tmp_path / "result") as part:
        raise RuntimeError
    digests = io.folder_sha256(tmp_path / "result")
    assert digests.keys() == {"two.txt"} and io.folder_sha256(tmp_path / "result", "*.json") == {}
    assert io.changed_files(tmp_path / "result", {**digests, "gone.txt": "x"}) == ["gone.txt"]
    (tmp_path / "result" / "two.txt").write_text("three")
    assert io.changed_files(tmp_path / "result", digests) == ["two.txt"]
