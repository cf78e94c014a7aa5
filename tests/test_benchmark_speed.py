"""The speed benchmark runs on a tiny model, keeps what it does not measure again, and its estimate follows from it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import benchmark_speed  # noqa: E402
from research import speed_items, timing  # noqa: E402

pytestmark = pytest.mark.nightly


def test_a_quick_run_gives_a_table(tmp_path: Path) -> None:
    results = tmp_path / "speed.json"
    # In a process of its own: it sets the threads of torch and silences all logs.
    command = [sys.executable, ROOT / "scripts" / "benchmark_speed.py", "--quick", "--results", results]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads(results.read_text())
    assert list(content["items"]) == list(speed_items.QUICK_ITEMS)
    for name, item in content["items"].items():
        assert item["machine"] and item["versions"]["torch"] and (item["lines"] or name == "gpu")
        for line in item["lines"]:
            assert line["value"] == line["value"]
            assert line["low"] is None or line["low"] <= line["value"] <= line["high"]
    table = results.with_suffix(".md").read_text()
    assert "| one text: the pad-regression pipeline, times faster | " in table and "**missed**" in table
    assert table == benchmark_speed.markdown(content)


def test_systems_take_turns() -> None:
    called: list[str] = []
    found = timing.take_turns({name: lambda name=name: called.append(name) for name in "abc"}, 3)
    assert "".join(called) == "abc" + "abc" + "bca" + "cab", "one to warm up, then each round starts with another"
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3, "c": 3}
    line = timing.ratio("x", [2, 4, 9], [1, 1, 3])
    assert (line.value, line.low, line.high) == (3, 2.5, 3.5)
    assert timing.aim(line, at_least=3).met and not timing.aim(line, below=3).met


def test_the_estimate_follows_from_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "speed.json"
    results.write_text(json.dumps({"items": {}}))
    arguments = ["--estimate", "--results", str(results), "--messages", "3.6e8", "--price", "0.1", "--cores", "10"]
    with pytest.raises(SystemExit, match="--only throughput,scaling"):
        benchmark_speed.main(arguments)
    values = {
        speed_items.ONE_CORE.format("int8"): 250,
        speed_items.TWO_WORKERS: 1.6,
        speed_items.READING: 50_000,
        speed_items.BYTES: 125,
    }
    lines = [{"what": what, "value": value} for what, value in values.items()]
    results.write_text(json.dumps({"items": {"scaling": {"lines": lines}}}))
    benchmark_speed.main([*arguments, "--hours", "5"])
    out = capsys.readouterr().out
    # 250 x 1.6 / 2 = 200 a second and core; 3.6e8 / 200 / 3600 = 500 core hours; 10 machines of 10 cores in 5 hours.
    for part in (
        "250 a second",
        "200 per core",
        "500 core hours",
        "10 machines of 10 cores for 5.0 hours",
        "50.00 in all",
    ):
        assert part in out
    # 100 cores x 200 x 125 bytes; 125 MB/s at 25 kB/s per core.
    for part in ("0.139 per million", "0.5% of a core", "2.5 MB/s", "from 5,000 cores on"):
        assert part in out


def test_an_unknown_item_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark_speed.main(["--only", "speed"])
    assert "the items are latency, throughput, head" in capsys.readouterr().err
