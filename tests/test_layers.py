"""The rule of the layers: imports go down the list or stay within their room, and no files go in circles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From the ground up. A room imports those above it in this list and itself; lazy and type-only imports count.
ROOMS = [
    *(
        "errors",
        "version",
        "faces",
        "forwarding",
        "registry",
        "files",
        "reading",
        "kernels",
        "machine",
        "pages",
    ),
    *("samples", "tokens", "config", "video", "dialogue", "memory", "attention", "data", "parts"),
    *("backbone", "policy", "decoding", "session", "evaluation", "testing", "training", "bench", "cli"),
]
EVALUATION = ["results", "scoring", "judging", "running", "sweeps", "reports"]
PLUGINS = ("policies", "backbones", "analysis")
PLACES = ("hermes", *PLUGINS, "tests", "benchmarks", "tools")
# Whoever ranks tokens knows no model.
MODEL_FREE = ("hermes.parts", "hermes.policy", "policies")
MODEL = ("hermes.backbone", "hermes.decoding")


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_name(path): path for top in ("hermes", *PLUGINS) for path in sorted((ROOT / top).rglob("*.py"))}


@cache
def imports_of(module: str, source: str) -> tuple[str, ...]:
    """Modules of ours that a source imports, wherever in it; a name that is a module is that module."""
    return tuple(_imports(module, source))


def _imports(module: str, source: str) -> Iterator[str]:
    package = module.split(".") if FILES[module].name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base


def violations(sources: dict[str, str]) -> list[str]:
    """Every import that goes against the rule."""
    found = []
    for module, source in sources.items():
        for target in imports_of(module, source):
            if _against(module, target):
                found.append(f"{module} imports {target}")
    return found


def _inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _against(module: str, target: str) -> bool:
    mine, theirs = module.split("."), target.split(".")
    if _inside(module, MODEL_FREE) and _inside(target, MODEL):
        return True
    if mine[0] != "hermes" or theirs[0] not in ("hermes", *PLUGINS):
        return False
    if theirs[0] in PLUGINS or (len(theirs) > 1 and theirs[1] in PLUGINS):
        return True
    if len(mine) == 1 or mine[1] == "__main__":
        # The face of the whole.
        return False
    if len(theirs) == 1 or ROOMS.index(theirs[1]) > ROOMS.index(mine[1]):
        return True
    if mine[1] == theirs[1] == "evaluation" and len(mine) > 2 and len(theirs) > 2:
        return EVALUATION.index(theirs[2]) > EVALUATION.index(mine[2])
    return False


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files that import each other, directly or not (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1 or node in edges[node]:
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


@cache
def _sources() -> dict[str, str]:
    return {module: path.read_text() for module, path in FILES.items()}


def _edges(sources: dict[str, str]) -> dict[str, set[str]]:
    """Files to the files they import. A room's face is left out within the room: it only hands names on."""
    edges = {}
    for module, source in sources.items():
        targets = {target for target in imports_of(module, source) if target in FILES}
        edges[module] = {target for target in targets if target != module}
    return edges


def test_every_room_is_on_the_list() -> None:
    rooms = {module.split(".")[1] for module in FILES if module.startswith("hermes.")} - {"__main__"}
    assert rooms == set(ROOMS)


def test_imports_go_down_the_layers() -> None:
    assert not violations(_sources())


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not circles(_edges(_sources()))


def test_an_import_against_the_rule_is_found() -> None:
    sources = _sources()
    for module, line in (
        ("hermes.memory.layer", "from hermes.session.session import StreamSession"),
        ("hermes.tokens.chunk", "def late():\n    from hermes.memory import KVMemory"),
        (
            "hermes.policy.tiers",
            "if TYPE_CHECKING:\n    from hermes.decoding.observer import DecoderObserver",
        ),
        ("hermes.config.schema", "import policies.fifo"),
        ("hermes.config.schema", "import hermes.policies.fifo"),
        ("hermes.cli.ask", "from hermes.analysis import study"),
        ("policies.fifo", "from hermes.backbone import Backbone"),
        ("hermes.evaluation.scoring.summary", "from hermes.evaluation.reports.run_page import page"),
    ):
        assert violations({**sources, module: f"{sources[module]}\n{line}\n"})
    back = f"{sources['hermes.memory.config']}\nfrom hermes.memory.memory import KVMemory\n"
    assert circles(_edges({**sources, "hermes.memory.config": back}))


def test_plugins_are_named_by_their_place() -> None:
    """`policies` may be a user's own: ours is `hermes.policies`, and relative among themselves."""
    found = []
    for path in (path for top in PLACES for path in sorted((ROOT / top).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            found += [f"{path}: {name}" for name in names if _inside(name, PLUGINS)]
    assert not found


def test_layers_of_the_memory_are_written_by_the_memory_alone() -> None:
    """No file outside `memory/` assigns a layer's tensors or counters."""
    fields = {
        "keys",
        "values",
        "positions",
        "tokens",
        "clock",
        "start",
        "prefix",
        "written",
        "to_shared_clock",
    }
    found = []
    for module, source in _sources().items():
        if _inside(module, ("hermes.memory",)):
            continue
        for node in ast.walk(ast.parse(source)):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in (part for whole in targets for part in ast.walk(whole)):
                if isinstance(target, ast.Attribute) and target.attr in fields:
                    owner = ast.unparse(target.value)
                    if owner == "layer" or owner.endswith((".layers[index]", "memory[index]")):
                        found.append(f"{module}: {ast.unparse(node)}")
    assert not found


def test_the_map_names_every_room_in_its_order_and_no_file_that_is_not_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (`[a-z`, /]+) \| (.*) \|$", page.partition("Beside `hermes/`")[0], re.MULTILINE)
    named = [name for first, _ in rows for name in re.findall(r"`(\w+)/?`", first)]
    assert named == ROOMS
    for first, line in rows:
        for file in re.findall(r"`(\w+\.py)`", line):
            assert list((ROOT / "hermes" / first.strip("`/")).rglob(file)), f"{first}: {file}"
    for path in re.findall(r"`((?:hermes|tests|policies|backbones|analysis)/[\w/]+\.py)`", page):
        assert "NAME" in path or (ROOT / path).is_file(), path
