"""The notebooks run from a clean kernel, and are kept with their outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

from tools.notebooks import executed  # noqa: E402  needs all three

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in code(notebook) for output in cell.outputs]


def kinds(notebook: Any) -> list[list[tuple[str, ...]]]:
    """What each cell puts out, without the numbers, which may differ from machine to machine, and notes."""
    return [
        [(o.output_type, *sorted(o.get("data", ()))) for o in cell.outputs if o.get("name") != "stderr"]
        for cell in code(notebook)
    ]


def test_there_are_four() -> None:
    names = {path.stem for path in NOTEBOOKS}
    assert names == {"investigation", "own_policy", "ablation", "memory_map"}


@pytest.mark.model
@pytest.mark.thorough
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_a_clean_kernel(path: Path) -> None:
    kept = nbformat.read(path, as_version=4)
    fresh = executed(path)
    assert [output for output in outputs(fresh) if output.output_type == "error"] == []
    # A question near the beginning of a stream, before anything had to go, is answered with a note.
    said = [output.text for output in outputs(fresh) if output.get("name") == "stderr"]
    assert [text for text in said if not text.startswith("nothing was evicted: all ")] == []
    assert kinds(fresh) == kinds(kept)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_with_outputs(path: Path) -> None:
    kept = nbformat.read(path, as_version=4)
    nbformat.validate(kept)
    assert [cell.execution_count for cell in code(kept)] == list(range(1, len(code(kept)) + 1))
    assert not [output for output in outputs(kept) if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs(kept))
    assert not any("execution" in cell.metadata for cell in kept.cells)
    # No path of the machine it ran on.
    for output in outputs(kept):
        output.get("data", {}).pop("image/png", None)
    assert not re.search(r"/(?:tmp|home|root|Users|var)/|site-packages", nbformat.writes(kept))
