"""The notebook `scripts/tour.ipynb` runs from top to bottom, and what it shows was made by it.

Needs nbclient, ipykernel and the packaged MiniLM.
"""

import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parents[1] / "scripts" / "tour.ipynb"


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python3` is this interpreter, whatever kernels the machine has."""
    from ipykernel.kernelspec import install
    from jupyter_client.kernelspec import KernelSpecManager

    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))
    install(prefix=str(tmp_path))
    assert KernelSpecManager().get_kernel_spec("python3").argv[0] == sys.executable


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_the_cells_run_from_top_to_bottom(minilm: Path, kernel: None, tmp_path: Path) -> None:
    notebook = nbformat.read(PATH, as_version=4)
    kept = outputs(notebook)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    made = outputs(notebook)
    assert [output.output_type for output in made] == [output.output_type for output in kept]
    assert [sorted(output.get("data", ())) for output in made] == [sorted(output.get("data", ())) for output in kept]
    assert (tmp_path / "runs" / "tour" / "run" / "model" / "config.json").is_file()
    # The reader's own head has learned the reader's scale.
    last = made[-1].data["text/plain"].splitlines()
    wonderful, disgusting = (float(line.split()[-1]) for line in last[-2:])
    assert wonderful > 0.5 and disgusting < -0.5


def test_the_notebook_is_small_executed_and_says_nothing_of_a_machine() -> None:
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    assert PATH.stat().st_size < 200_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [
        output
        for output in outputs(notebook)
        if output.output_type in ("error", "stream") and output.get("name") != "stdout"
    ]
    assert sum("image/png" in output.get("data", ()) for output in outputs(notebook)) == 1
