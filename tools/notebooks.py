"""Run the notebooks again and save them in place, with outputs: `python tools/notebooks.py [FILE ...]`.

Each runs from a clean kernel of this very interpreter, on one thread, in an empty folder.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

from hermes.files import write_whole

FOLDER = Path(__file__).parent.parent / "notebooks"
# Seconds a cell may take.
TIMEOUT = 120


class ThisInterpreter(AsyncKernelManager):
    """Kernels of the running interpreter, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def executed(path: Path) -> NotebookNode:
    """The notebook with the outputs of this run; raises `CellExecutionError` where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            # No profile and no history of whoever runs it.
            "IPYTHONDIR": str(Path(folder) / "ipython"),
            # tqdm's, where there are no widgets: it would be kept, with a path of this machine.
            "PYTHONWARNINGS": "ignore:IProgress not found",
        }
        work = Path(folder) / "work"
        work.mkdir()
        # Through files: no port is opened, and nothing is left in the home folder.
        kernel = ThisInterpreter(transport="ipc", connection_file=str(Path(folder) / "kernel.json"))
        client = NotebookClient(notebook, km=kernel, timeout=TIMEOUT, record_timing=False)
        client.execute(cwd=str(work), env=env, cleanup_kc=True)
    # The kernel notes its own version of Python.
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
    }
    return notebook


def main(names: list[str]) -> None:
    for path in map(Path, names) if names else sorted(FOLDER.glob("*.ipynb")):
        write_whole(path, partial(nbformat.write, executed(path)))
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
