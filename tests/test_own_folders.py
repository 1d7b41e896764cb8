"""A user's own `policies/`, `backbones/`, `analysis/` and `configs/`: theirs stay theirs, ours are found."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from hermes.forwarding import shipped
from tests.support.command_line import FAST, process

pytestmark = [pytest.mark.model, pytest.mark.slow]

FILES = {
    "policies/mine.py": """
from dataclasses import dataclass
from hermes.policies.fifo import Fifo


@dataclass
class Mine(Fifo):
    "A policy of my own."
""",
    "policies/fifo.py": "WHO = 'mine'\n",
    "backbones/nets.py": "from backbones.layers import WIDTH\n",
    "backbones/layers.py": "WIDTH = 7\n",
    "analysis/plots/curves.py": "COLOUR = 'red'\n",
    "configs/policy/fifo_frame.yaml": "name: fifo\nbudget: 3\n",
    "configs/policy/own.yaml": "name: policies.mine.Mine\nbudget: 5\n",
}
PACKAGES = {"policies/__init__.py": "NAME = 'mine'\n", "backbones/__init__.py": ""}
PACKAGES |= {"analysis/__init__.py": "", "analysis/plots/__init__.py": ""}

OWN = """
import policies, policies.fifo, backbones.nets, analysis.plots.curves
from policies import fifo

assert policies.fifo.WHO == fifo.WHO == "mine"
assert backbones.nets.WIDTH == 7 and analysis.plots.curves.COLOUR == "red"
"""
OURS = """
import hermes
from hermes import open_session
from hermes.session.config import run_config
import hermes.policies.fifo, hermes.analysis.measures, hermes.backbones.tiny
from policies.hermes import Hermes
from analysis.measures import measure
from backbones.tiny import TinyLlavaOnevision

assert Hermes is hermes.policies.hermes.Hermes
assert measure is hermes.analysis.measures.measure
assert TinyLlavaOnevision is hermes.backbones.tiny.TinyLlavaOnevision
assert run_config(["policy=fifo_frame"]).policy.align == "frame"
assert run_config(["policy=fifo_frame"]).policy.budget != 3
"""
SESSIONS = """
from pathlib import Path
from policies.mine import Mine

assert type(run_config(["policy=own"], config_dirs=[Path("configs")]).policy) is Mine
ours = hermes.policies.fifo.Fifo
for given, expected in (("fifo", ours), ("policies.mine.Mine", Mine), (Mine(budget=9), Mine)):
    with open_session("tiny_llava_onevision", given, 9) as session:
        assert type(session.policy) is expected, type(session.policy)
for missing in ("policies.absent", "hermes.policies.absent", "analysis.plots.measures"):
    try:
        __import__(missing)
    except ModuleNotFoundError as error:
        assert missing in str(error), error
    else:
        raise AssertionError(missing)
print("done")
"""
ORDERS = {
    "theirs first": OWN + OURS + SESSIONS,
    "ours first": OURS + OWN + SESSIONS,
}


@pytest.fixture(params=[pytest.param("packages", marks=pytest.mark.thorough), "folders"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A research repository, with `__init__.py` files or without."""
    for path, text in (FILES | (PACKAGES if request.param == "packages" else {})).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


@pytest.mark.parametrize("script", ORDERS.values(), ids=ORDERS.keys())
def test_a_script_beside_its_own_folders(folder: Path, script: str) -> None:
    (folder / "train.py").write_text(script)
    done = process(sys.executable, "train.py", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_another_checkout_is_a_folder_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    for name in ("__init__.py", "fifo.py"):
        shutil.copy(shipped("policies") / name, tmp_path / "policies")
    script = "from policies.fifo import Fifo\nfrom policies.hermes import Hermes\n"
    script += "import hermes.policies.fifo, hermes.policies.hermes\n"
    script += "assert Fifo is not hermes.policies.fifo.Fifo and Hermes is hermes.policies.hermes.Hermes\n"
    (tmp_path / "train.py").write_text(script)
    done = process(sys.executable, "train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_module_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "policies.py").write_text("WHO = 'mine'\n")
    script = "import policies\nimport hermes.policies.fifo\nfrom hermes.registry import registry\n"
    script += "assert policies.WHO == 'mine'\n"
    script += "assert registry('policy').get('fifo') is hermes.policies.fifo.Fifo\n"
    (tmp_path / "train.py").write_text(script)
    done = process(sys.executable, "train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["hermes", "-m"])
def test_a_policy_of_that_folder_on_the_command_line(folder: Path, command: str) -> None:
    run = (
        [sys.executable, "-m", "hermes"] if command == "-m" else [str(Path(sys.executable).parent / command)]
    )
    done = process(*run, "validate", "policy=policies.mine.Mine", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["policy"]["name"] == "policies.mine.Mine"


def test_commands_in_that_folder(folder: Path) -> None:
    hermes = str(Path(sys.executable).parent / "hermes")
    settings = [*FAST, "policy=policies.mine.Mine"]
    done = process(hermes, "ask", "sample", "What is happening?", "--json", *settings, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "answer" in json.loads(done.stdout)
    done = process(hermes, "list", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "cannot be used" not in done.stdout
