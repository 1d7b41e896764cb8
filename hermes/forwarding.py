"""Where the folders that come with Hermes are found, and what became of the names modules had before.

`policies/`, `backbones/`, `analysis/` and `configs/` are installed inside this package; in a checkout they
lie beside it. Either way the code in them is imported as `hermes.policies` and so on.

Their former names, such as `policies`, belong to the user: a folder of theirs is found wherever Python would
find it, and so are the modules in it. Only what they have not is ours: `policies.fifo` is then the module
`hermes.policies.fifo` itself. A core module that was moved hands its names on, with a warning.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["PLUGINS", "current_place", "find_again", "former_names", "install", "shipped", "stored_module"]

PLUGINS = ("policies", "backbones", "analysis")

# Module -> where its names are now, from the ground up, so that a name is found where it is defined; all
# within `hermes`. The first eight are still modules, and found without this table.
MOVED = {
    "session": "session.session",
    "policy": "policy.policy",
    "backbone": "tokens.chunk backbone.config backbone.backbone",
    "memory": "memory.memory",
    "attention": "memory.scope attention.view attention.memory_attention",
    "config.composition": "config.files config.composition config.experiments",
    "data.benchmark": "data.benchmark data.annotated",
    "evaluation.judging": "evaluation.judging.judge_run evaluation.judging.verdict_file",
    "answer": "dialogue.choices session.answer",
    "archive": "memory.insertion policy.archive policy.archiving",
    "batch": "tokens.chunk memory.updates session.lockstep",
    "benchmark": "bench.records bench.stream",
    "blocks": "decoding.layerwise",
    "buffering": "tokens.chunk policy.embedded_frames",
    "callback": "session.session",
    "chat": "dialogue.template",
    "clocked": "decoding.layerwise_observer",
    "config.specs": "config.schema config.building config.exporting",
    "data.wanderer.files": "data.wanderer.benchmark",
    "environment": "machine.environment",
    "evaluation.asking": "evaluation.running.asking",
    "evaluation.clock": "evaluation.running.live_clock",
    "evaluation.compare": "evaluation.scoring.compare",
    "evaluation.efficiency": "bench.cells",
    "evaluation.journal": "evaluation.results.journal",
    "evaluation.judge": "evaluation.judging.judge",
    "evaluation.judges": "evaluation.judging.judges",
    "evaluation.manifest": "evaluation.results.run_folder evaluation.running.manifest",
    "evaluation.matched": "evaluation.scoring.same_bytes",
    "evaluation.measures": "evaluation.scoring.measures",
    "evaluation.metrics": "evaluation.scoring.metrics",
    "evaluation.module": "evaluation.running.module",
    "evaluation.plots": "evaluation.reports.run_plots",
    "evaluation.report": "evaluation.reports.run_page",
    "evaluation.rows": "evaluation.results.rows",
    "evaluation.run": "evaluation.running.run",
    "evaluation.settings": "evaluation.judging.judge evaluation.running.settings",
    "evaluation.statistics": "evaluation.scoring.statistics",
    "evaluation.summary": "evaluation.scoring.summary",
    "evaluation.sweep": "evaluation.sweeps.cells evaluation.sweeps.running",
    "evaluation.sweep_ages": "evaluation.reports.sweep_ages",
    "evaluation.sweep_pages": "evaluation.scoring.measures evaluation.reports.sweep_sections",
    "evaluation.sweep_plots": "evaluation.reports.sweep_plots",
    "evaluation.tables": "evaluation.reports.sweep_page",
    "evaluation.verdicts": "evaluation.scoring.verdicts",
    "execution": "decoding.execution",
    "folding": "memory.transitions",
    "generation": "decoding.generation",
    "interrupts": "machine.interrupts",
    "layer": "memory.config memory.updates memory.layer",
    "loading": "machine.device backbone.checkpoint backbone.loading",
    "memory_map": "session.memory_map",
    "observe": "attention.guidance decoding.observer",
    "parts.observed": "parts.received_attention",
    "pixels": "backbone.pixels",
    "positions": "tokens.positions",
    "prefill": "policy.policy decoding.prefill",
    "probe": "attention.probe session.session",
    "prompts": "dialogue.rounds dialogue.choices dialogue.prompts",
    "provenance": "tokens.provenance",
    "quantise": "policy.quantise",
    "recent": "memory.insertion policy.raw_frames",
    "reduction": "policy.reduction",
    "resources": "machine.device",
    "retrieval": "policy.retrieval",
    "run": "session.opening",
    "saliency": "backbone.saliency",
    "saving": "session.saving",
    "selfcheck": "backbone.self_check",
    "settings": "video.config session.config",
    "spatial": "policy.spatial",
    "static": "decoding.in_place",
    "storage": "files memory.storage memory.loading memory.memory",
    "styles": "pages.styles",
    "tape": "decoding.recording",
    "tiers": "policy.tiers",
    "trainers": "machine.lightning",
}
# What a name is called in its new place, where it has another name there.
RENAMED = {
    "Cell": "SweepCell HeldFrame",
    "ClockedObserver": "LayerwiseObserver",
    "EnoughSeenError": "StopForwardError",
    "Following": "AttentionLedger",
    "Graphed": "CudaGraph",
    "Kind": "TokenKind",
    "Row": "AnswerRow SettingRow",
    "StaticDecoder": "InPlaceDecoder",
    "Tapes": "Recordings",
    "Turn": "Round TemplateParts",
    "alike": "group_alike",
    "append": "append_memory append_pending",
    "attending": "reading",
    "flaws": "invalid_updates",
    "frames_of": "split_frames",
    "installed": "memory_attention_set",
    "joined": "join_chunks join_updates",
    "put_back": "insert_blocks",
    "settle": "synchronize",
    "together": "stack_chunks",
    "why_not_recorded": "reason_not_recorded",
}


def shipped(folder: str) -> Path:
    """Where a folder that comes with Hermes lies, such as `shipped("configs")`.

    Inside the package, as it is installed, or beside it, as in a checkout.
    """
    package = Path(__file__).parent
    return package / folder if (package / folder).is_dir() else package.parent / folder


def current_place(module: str, name: str) -> tuple[str, str]:
    """The module that has a name now, and what the name is there; as given, where nothing has moved.

    >>> current_place("hermes.chat", "Turn")
    ('hermes.dialogue.template', 'TemplateParts')
    >>> current_place("mine", "MyPolicy")
    ('mine', 'MyPolicy')
    """
    for place in MOVED.get(module.removeprefix("hermes."), "").split():
        for now in (*RENAMED.get(name, "").split(), name):
            if hasattr(import_module(f"hermes.{place}"), now):
                return f"hermes.{place}", now
    return module, name


def stored_module(module: str) -> str:
    """The module that settings and hashes name for a class of ours: where it was first, whatever has moved.

    >>> stored_module("hermes.policy.tiers"), stored_module("hermes.policies.fifo"), stored_module("mine")
    ('hermes.tiers', 'policies.fifo', 'mine')
    """
    top, _, rest = module.partition(".")
    if top != "hermes":
        return module
    if rest.partition(".")[0] in PLUGINS:
        return rest
    return next((f"hermes.{old}" for old, places in MOVED.items() if rest in places.split()), module)


def former_names(module: str) -> Callable[[str], Any]:
    """A `__getattr__` for a module: names that it had before, from where they are now.

    Raises:
        AttributeError: it never had such a name.
    """

    def get(name: str) -> Any:
        place, now = (module, name) if name.startswith("__") else current_place(module, name)
        if place == module:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {place}.{now}", DeprecationWarning, stacklevel=2)
        return getattr(import_module(place), now)

    return get


def find_again(name: str) -> None:
    """Replace a plug-in folder of ours that Python found by its former name before it met `hermes`.

    One of another checkout, not of this Hermes, stays what it is: a user's own.
    """
    if all(_is_ours(place, name) for place in sys.modules[name].__path__):
        del sys.modules[name]
        import_module(name)


def install() -> None:
    """Let imports find plug-in folders and moved modules; once is enough."""
    if _PluginFinder not in sys.meta_path:
        # First, as Python would load a second copy of ours where a checkout is on its path.
        sys.meta_path.insert(0, _PluginFinder)
        sys.meta_path.append(_MovedFinder)


class _PluginFinder:
    @staticmethod
    def find_spec(
        name: str, path: Iterable[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, rest = name.partition(".")
        if top in PLUGINS:
            return _their_own(name, path) or _same_as_ours(name, path)
        if top == "hermes" and rest in PLUGINS and _is_checkout(shipped(rest).parent):
            home = shipped(rest)
            return spec_from_file_location(name, home / "__init__.py", submodule_search_locations=[str(home)])
        return None


class _MovedFinder(Loader):
    @staticmethod
    def find_spec(
        name: str, path: Iterable[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        known = name.startswith("hermes.") and name.removeprefix("hermes.") in MOVED
        return spec_from_loader(name, _MovedFinder()) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name, "Moved: hands its names on from where they are now.")
        vars(module)["__getattr__"] = former_names(spec.name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run: its names are found when they are asked for."""


class _SameModule(Loader):
    """Loads a module that is there by another name, and leaves it as it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has written that of the other name.
        module.__spec__ = self.spec


def _their_own(name: str, path: Iterable[str] | None) -> ModuleSpec | None:
    """What Python finds where our folders are not."""
    top = name.partition(".")[0]
    if path is None:
        places = [place for place in sys.path if not _is_ours(os.path.join(place, top), top)]
    else:
        places = [place for place in path if not _is_ours(place, top)]
    for finder in sys.meta_path:
        if finder is not _PluginFinder and (spec := finder.find_spec(name, places)):
            return spec
    return None


def _same_as_ours(name: str, path: Iterable[str] | None) -> ModuleSpec | None:
    top, *deeper = name.split(".")
    if len(deeper) > 1 and not all(_is_ours(place, top) for place in path or ()):
        # Inside a package of theirs.
        return None
    spec = find_spec(f"hermes.{name}")
    if spec is None:
        return None
    package = spec.submodule_search_locations is not None
    return spec_from_loader(name, _SameModule(f"hermes.{name}"), origin=spec.origin, is_package=package)


def _is_ours(place: str, top: str) -> bool:
    home = os.path.realpath(shipped(top))
    return os.path.realpath(place) == home or os.path.realpath(place).startswith(home + os.sep)


def _is_checkout(folder: Path) -> bool:
    settings = folder / "pyproject.toml"
    return settings.is_file() and 'name = "hermes-stream"' in settings.read_text(encoding="utf-8")
