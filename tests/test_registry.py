"""The registry: names from entry points, dotted paths, and errors that say what went wrong."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from hermes.errors import HermesError, SettingError
from hermes.policy import TieredPolicy
from hermes.registry import KINDS, Registry, registry

GROUP = "hermes.tests"


def distribution(
    root: Path, name: str, entries: dict[str, str], modules: dict[str, str] | None = None
) -> None:
    """An installed package: its metadata with entry points, and its modules."""
    info = root / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = "".join(f"{key} = {value}\n" for key, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}")
    write(root, modules or {})


def write(root: Path, modules: dict[str, str]) -> None:
    for path, text in modules.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path, and a current folder that is not; everything imported is forgotten again."""
    site, here = tmp_path / "site", tmp_path / "here"
    site.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield site
    for name in set(sys.modules) - before:
        del sys.modules[name]


def message(call: Registry, name: str, where: str = "") -> str:
    with pytest.raises(SettingError) as caught:
        call.get(name, where)
    return str(caught.value)


CLASS = 'class Fifo:\n    """Keep the newest.\n\n    More.\n    """\n'


def test_names_import_nothing(site: Path) -> None:
    distribution(site, "toy", {"fifo": "toy_mod:Fifo", "broken": "no_such_module:X"}, {"toy_mod.py": CLASS})
    found = Registry("policy", GROUP)
    assert found.names() == ["broken", "fifo"]
    assert "toy_mod" not in sys.modules
    assert found.get("fifo").__name__ == "Fifo"
    assert found.name_of(found.get("fifo")) == "fifo"


def test_unknown_name_suggests_the_nearest(site: Path) -> None:
    distribution(site, "toy", {"fifo": "toy_mod:Fifo", "hermes": "toy_mod:Fifo"}, {"toy_mod.py": CLASS})
    text = message(Registry("policy", GROUP), "Fifi", "policy.x")
    allowed = "fifo, hermes, a dotted path module.attr"
    assert text == f"policy.x: got 'Fifi'; allowed: {allowed}. Did you mean 'fifo'?"


def test_describe_lists_broken_entries_with_their_error(site: Path) -> None:
    distribution(site, "toy", {"fifo": "toy_mod:Fifo", "broken": "no_such_module:X"}, {"toy_mod.py": CLASS})
    found = Registry("policy", GROUP)
    found.register("mine", dict)
    rows = {row.name: row for row in found.describe()}
    assert rows["fifo"][1:] == ("Keep the newest.", "toy")
    assert "No module named 'no_such_module'" in rows["broken"].summary
    assert rows["mine"].origin == "this process"


@pytest.mark.parametrize("path", ["mine.MyPolicy", "mine:MyPolicy"])
def test_dotted_path_from_the_current_folder(site: Path, path: str) -> None:
    write(Path.cwd(), {"mine.py": "class MyPolicy:\n    class Inner: pass\n"})
    found = Registry("policy", GROUP)
    cls = found.get(path)
    assert found.name_of(cls) == "mine.MyPolicy"
    assert found.get(found.name_of(cls.Inner)) is cls.Inner


def test_current_folder_is_searched_last(site: Path) -> None:
    write(site, {"plans/__init__.py": "", "plans/ours.py": "class P:\n    origin = 'ours'\n"})
    write(Path.cwd(), {"plans/__init__.py": "", "plans/ours.py": "class P:\n    origin = 'theirs'\n"})
    assert Registry("policy", GROUP).get("plans.ours.P").origin == "ours"
    assert sys.path[-1] == str(Path.cwd())


def test_dotted_path_errors(site: Path) -> None:
    write(Path.cwd(), {"mine.py": "import absent_library\n", "good.py": CLASS, "bad.py": "class X(:\n"})
    found = Registry("policy", GROUP)
    found.register("near.Fifo", dict)
    assert "Importing 'mine' failed: ModuleNotFoundError: No module named 'absent_library'" in message(
        found, "mine.P"
    )
    assert "Importing 'bad' failed: SyntaxError" in message(found, "bad.X")
    assert "'good' has no 'Fifa'. Did you mean 'Fifo'?" in message(found, "good.Fifa")
    assert "Did you mean 'near.Fifo'?" in message(found, "nea.Fifo")
    assert "Importing '' failed" in message(found, ".x")


@pytest.mark.parametrize("path", ["hermes.tiers.TieredPolicy", "hermes.policy.tiers:TieredPolicy"])
def test_a_class_that_was_moved_is_written_down_as_before(path: str) -> None:
    found = registry("policy")
    assert found.get(path) is TieredPolicy
    assert found.name_of(TieredPolicy) == "hermes.tiers.TieredPolicy"


@pytest.mark.parametrize("path", ["policies.fifo.Fifo", "hermes.policies.fifo:Fifo"])
def test_a_plugin_has_its_registered_name(path: str) -> None:
    found = registry("policy")
    assert found.get(path) is found.get("fifo")
    assert found.name_of(found.get(path)) == "fifo"


@pytest.mark.parametrize(
    "path", ["policies.livevlm.VisionAttention", "hermes.policies.livevlm.VisionAttention"]
)
def test_a_part_of_a_plugin_is_written_down_as_before(path: str) -> None:
    found = registry("scorer")
    assert found.name_of(found.get(path)) == "policies.livevlm.VisionAttention"


def test_same_name_twice(site: Path) -> None:
    distribution(site, "toy-a", {"fifo": "toy_a:Fifo"}, {"toy_a.py": CLASS})
    distribution(site, "toy-b", {"fifo": "toy_b:Fifo"}, {"toy_b.py": CLASS})
    found = Registry("policy", GROUP)
    text = message(found, "fifo")
    assert "toy-a" in text
    assert "toy-b" in text
    assert "toy_a:Fifo, toy_b:Fifo" in text
    for path in ("toy_a.Fifo", "toy_b.Fifo"):
        assert found.name_of(found.get(path)) == path


def test_same_name_as_ours(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    distribution(site, "toy-a", {"fifo": "toy_a:Fifo"}, {"toy_a.py": CLASS})
    distribution(site, "hermes-stream", {"fifo": "our_fifo:Fifo"}, {"our_fifo.py": CLASS})
    with caplog.at_level(logging.WARNING):
        assert Registry("policy", GROUP).get("fifo").__module__ == "our_fifo"
    assert "toy_a:Fifo of toy-a" in caplog.text
    assert "dotted path" in caplog.text


def test_register_refuses_a_taken_name(site: Path) -> None:
    distribution(site, "toy", {"fifo": "toy_mod:Fifo"})
    with pytest.raises(SettingError, match="toy has it"):
        Registry("policy", GROUP).register("fifo", ModuleType("x"))


def test_registry_by_kind() -> None:
    assert registry("policy") is registry("policy")
    assert {kind: registry(kind).group for kind in KINDS} == dict(KINDS)
    with pytest.raises(HermesError, match="no registry for kind 'polcy'"):
        registry("polcy")


def test_settings_import_no_torch() -> None:
    code = "import sys, hermes.config, hermes.registry, hermes.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
