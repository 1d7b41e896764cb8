"""Packages that hand on names at first use."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

FACES = ("hermes", "hermes.session", "hermes.evaluation", "hermes.bench")


@pytest.mark.parametrize("name", FACES)
def test_the_list_that_type_checkers_read_is_what_is_handed_on(name: str) -> None:
    package = importlib.import_module(name)
    tree = ast.parse(Path(str(package.__file__)).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    found = {alias.asname: (node.module, alias.name) for node in imports for alias in node.names}
    assert sorted(str(told) for told in found) == package.__all__
    for told, (module, own) in found.items():
        assert getattr(package, str(told)) is getattr(importlib.import_module(str(module)), own)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        _ = package.nothing


def test_naming_a_package_needs_no_torch() -> None:
    code = f"import sys, {', '.join(FACES)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
