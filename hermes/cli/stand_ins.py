"""Stand-ins for the heavy packages: their names can be imported, their values cannot be had.

`hermes list` imports every policy, and every policy imports torch, but for what the list says only the
classes and their settings matter. With `install` a heavy package is not executed: its modules have names
that can stand in annotations, be subclassed, and be called as decorators. Whatever could let a value of such
a name into a result raises `NeedsRealPackageError`: truth, comparison, iteration, arithmetic, text, and so on.
So what is computed beside stand-ins is what would be computed beside the real packages, or nothing.

A name is believed in where the source of its module mentions it and does not bind it to a value; any other
one (misspelt, of another version, a constant) needs the real package. What stays unseen: whether the package
itself is sound, and whether something it returns is None.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from abc import ABCMeta
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

__all__ = ["HEAVY", "NeedsRealPackageError", "StandIn", "StandInModule", "install", "refusals"]

# Top-level packages that take more than about 50 ms of CPU to import, or bring one that does.
HEAVY = frozenset(
    "torch torchvision torchaudio triton transformers tokenizers safetensors accelerate huggingface_hub peft "
    "lightning lightning_fabric lightning_utilities pytorch_lightning torchmetrics flash_attn bitsandbytes timm "
    "jaxtyping beartype av PIL cv2 matplotlib scipy pandas pyarrow sklearn statsmodels openai".split()
)
# Where else a module's names are listed: those of compiled code, and those that are looked up when asked for.
_LISTED = {
    "torch": ("_C/_VariableFunctions.pyi", "_C/__init__.pyi"),
    "transformers": ("models/auto/*.py",),
}
# Facts about the real thing, wherever they are asked for; other double-underscore names it just does not have.
_FACTS = frozenset("__all__ __doc__ __module__ __name__ __qualname__ __version__".split())

# What was refused in this process: an `except:` may have swallowed the error.
refusals: list[str] = []


class NeedsRealPackageError(BaseException):
    """Something would depend on a value of a package that is only stood in for.

    No `Exception`, so that `except Exception` of whoever imports does not take it for a fault of its own.
    """


def _refuse(what: str) -> NoReturn:
    refusals.append(what)
    raise NeedsRealPackageError(f"{what} needs the real package")


def _ordinary(name: str, path: str) -> None:
    """Refuse facts, and say of other double-underscore names that there are none."""
    if name in _FACTS:
        _refuse(f"{path}.{name}")
    if name.startswith("__") and name.endswith("__"):
        raise AttributeError(f"{path}.{name}")


class StandIn:
    """What stands for a class, a function or a value of a heavy package."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattribute__(self, name: str) -> Any:
        if name in _FACTS:
            _refuse(f"{object.__getattribute__(self, '_path')}.{name}")
        return object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> StandIn:
        _ordinary(name, self._path)
        found = StandIn(f"{self._path}.{name}")
        setattr(self, name, found)
        return found

    def __call__(self, *args: Any, **options: Any) -> Any:
        """As a decorator: what is decorated, unchanged; else the inert result of a call."""
        if len(args) == 1 and not options and not isinstance(args[0], StandIn):
            (decorated,) = args
            if callable(decorated) or isinstance(decorated, (property, classmethod, staticmethod)):
                return decorated
        return StandIn(f"{self._path}()")

    def __getitem__(self, key: object) -> StandIn:
        return StandIn(f"{self._path}[]")

    def __or__(self, other: object) -> StandIn:
        return StandIn(f"{self._path} | ...")

    __ror__ = __or__

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type]:
        return (self._base,)

    @functools.cached_property
    def _base(self) -> type:
        return _Derived("StandInBase", (), {})

    def __instancecheck__(self, value: object) -> bool:
        """Nothing is an instance: no value of the package exists."""
        return _refuse(f"an instance of {self._path}") if isinstance(value, StandIn) else False

    def __subclasscheck__(self, cls: type) -> bool:
        return _refuse(f"a subclass of {self._path}") if isinstance(cls, (StandIn, _Derived)) else False

    def __eq__(self, other: object) -> bool:
        """`typing` compares an annotation with its own forms, and is told that it is none of them."""
        if isinstance(other, type) or type(other).__module__ == "typing":
            return False
        return _refuse(f"{self._path} == ...")

    __hash__ = object.__hash__


def _refusing(method: str) -> Callable[..., NoReturn]:
    def refuse(self: StandIn, *_: object) -> NoReturn:
        _refuse(f"{self._path}.{method}")

    return refuse


for _method in (
    "bool len iter next contains reversed int float complex index bytes str repr format fspath dir reduce_ex "
    "lt le gt ge ne neg pos abs invert round trunc floor ceil enter exit aenter aexit await setitem delitem "
    "delattr add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor radd rsub rmul rmatmul "
    "rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand rxor"
).split():
    setattr(StandIn, f"__{_method}__", _refusing(f"__{_method}__"))


class _Derived(ABCMeta):
    """The type of classes made from a stand-in: they may be defined, but not used or described."""

    def __call__(cls, *args: Any, **options: Any) -> NoReturn:
        _refuse("an instance of a class made from a stand-in")

    def __getattribute__(cls, name: str) -> Any:
        if name == "__doc__":
            _refuse("the description of a class made from a stand-in")
        return super().__getattribute__(name)

    def __getattr__(cls, name: str) -> NoReturn:
        _ordinary(name, "a class made from a stand-in")
        _refuse(f"{name} of a class made from a stand-in")

    def __repr__(cls) -> NoReturn:
        _refuse("the name of a class made from a stand-in")


class StandInModule(ModuleType):
    """What stands for a module of a heavy package; nothing of it is executed."""

    def __getattr__(self, name: str) -> Any:
        path = f"{self.__name__}.{name}"
        _ordinary(name, self.__name__)
        if PathFinder.find_spec(path, getattr(self, "__path__", [])) is not None:
            return importlib.import_module(path)
        if not _known(self, name):
            _refuse(path)
        found = StandIn(path)
        setattr(self, name, found)
        return found


def _known(module: StandInModule, name: str) -> bool:
    """Whether a module certainly has a name that is no plain value."""
    own, listed = _sources(module.__name__, (module.__spec__ and module.__spec__.origin) or "")
    word = re.escape(name)
    if re.search(rf"^{word}\s*(:.*)?=[^=]", own, re.MULTILINE):
        return re.search(rf"^\s*(class|def) {word}\b", own, re.MULTILINE) is not None
    return any(re.search(rf"\b{word}\b", text) for text in (own, listed))


@functools.cache
def _sources(name: str, origin: str) -> tuple[str, str]:
    """A module's source, or what lies beside it where it is compiled; and where else its names are listed."""
    path = Path(origin)
    own = path if path.suffix == ".py" else path.with_name(f"{path.name.partition('.')[0]}.pyi")
    more = [file for pattern in _LISTED.get(name, ()) for file in path.parent.glob(pattern)]
    return _text([own]), _text(more)


def _text(files: Sequence[Path]) -> str:
    return "\n".join(file.read_text("utf-8", "replace") for file in files if file.is_file())


class _Finder(MetaPathFinder, Loader):
    """Finds stand-ins for the modules of heavy packages, where the package is installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in HEAVY:
            return None
        real = PathFinder.find_spec(name, path)
        if real is None:
            # Not installed, or a module that the package itself makes up.
            return _refuse(name) if "." in name else None
        places = real.submodule_search_locations
        spec = ModuleSpec(name, self, origin=real.origin, is_package=places is not None)
        spec.has_location = real.has_location
        spec.submodule_search_locations = places
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None


def install() -> None:
    """Put stand-ins in the place of heavy packages, for the rest of this process.

    Raises:
        RuntimeError: one of them is imported already.
    """
    if loaded := HEAVY & sys.modules.keys():
        raise RuntimeError(f"already imported: {', '.join(sorted(loaded))}")
    sys.meta_path.insert(0, _Finder())
