"""`hermes doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import typer
from rich.table import Table
from rich.text import Text

from hermes.cli.output import out

_WAIT = 2.0  # seconds for an answer of the hub
_CODECS = ("h264", "hevc", "vp9", "av1", "mpeg4")


class _Finding(NamedTuple):
    """One line: what was looked at, what was found, and what to do where something is missing."""

    what: str
    found: str
    advice: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="The environment as one JSON object.")] = False,
) -> None:
    """Look at versions, devices, codecs and the model hub; say what is missing and how to get it."""
    from hermes.attention import NAME
    from hermes.machine.environment import environment

    about = environment(NAME)
    if as_json:
        import json

        out().print(json.dumps(about), soft_wrap=True)
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    missing = []
    for finding in [*_packages(about), *_devices(about), *_video(), *_plugins(), *_hub()]:
        mark = [("! ", "yellow")] if finding.advice else []
        table.add_row(finding.what, Text.assemble(*mark, finding.found))
        if finding.advice:
            missing.append(f"{finding.what}: {finding.advice}")
    out().print(table)
    out().print()
    for line in missing:
        out().print(Text.assemble(("!", "yellow"), f" {line}"), soft_wrap=True)
    if not missing:
        out().print("nothing is missing")


def _packages(about: dict[str, Any]) -> Iterator[_Finding]:
    yield _Finding("platform", about["platform"])
    for name, version in about["versions"].items():
        if version is not None:
            yield _Finding(name, version)
        elif name == "triton":
            yield _Finding(
                name, "not installed", "kernels run as plain PyTorch; on Linux with a GPU: pip install triton"
            )
        else:
            yield _Finding(name, "not installed", f"pip install {name}")


def _devices(about: dict[str, Any]) -> Iterator[_Finding]:
    import torch

    yield _Finding("CPU", f"{about['threads']} threads of {os.cpu_count()} cores")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield _Finding(f"cuda:{index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        why = (
            "PyTorch was built without CUDA"
            if torch.version.cuda is None
            else "PyTorch finds no GPU or no driver"
        )
        advice = (
            "tiny models run on the CPU; a 7B model needs a GPU of 24 GiB and a PyTorch for it (pytorch.org)"
        )
        yield _Finding("GPU", f"none: {why}", advice)
    yield _Finding("attention", about["attention"])


def _video() -> Iterator[_Finding]:
    import av

    from hermes.video import video_encoders

    lacking = [name for name in _CODECS if name not in av.codecs_available]
    decoders = ", ".join(name for name in _CODECS if name not in lacking)
    advice = f"no {', '.join(lacking)}: pip install --force-reinstall av brings a build with all of them"
    yield _Finding("video decoders", decoders, advice if lacking else "")
    yield _Finding("video encoders", ", ".join(video_encoders()))


def _plugins() -> Iterator[_Finding]:
    from hermes.registry import KINDS, registry

    for kind in KINDS:
        broken = [entry for entry in registry(kind).describe() if entry.summary.startswith("cannot be used")]
        for entry in broken:
            yield _Finding(f"{kind} {entry.name}", "cannot be used", f"{entry.summary} (from {entry.origin})")


def _hub() -> Iterator[_Finding]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    models = sorted(path.name.removeprefix("models--").replace("--", "/") for path in cache.glob("models--*"))
    shown = ", ".join(models[:8]) + (f" and {len(models) - 8} more" if len(models) > 8 else "")
    yield _Finding("hub cache", f"{cache}: {shown or 'no model yet'}")
    if constants.HF_HUB_OFFLINE:
        yield _Finding("hub", "offline (HF_HUB_OFFLINE is set): only cached models and folders load")
        return
    endpoint = urlsplit(constants.ENDPOINT)
    proxy = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
    target = urlsplit(proxy) if proxy else endpoint
    port = target.port or (443 if target.scheme == "https" else 80)
    if _reachable(target.hostname or "", port):
        yield _Finding("hub", f"{endpoint.hostname} {'through a proxy ' if proxy else ''}can be reached")
    else:
        advice = "where there is a network: hf download ID --local-dir FOLDER; then here: backbone=FOLDER"
        yield _Finding("hub", f"{target.hostname} cannot be reached within {_WAIT:g} s", advice)


def _reachable(host: str, port: int) -> bool:
    """Whether something answers there soon. Looking up a name has no time limit, hence the thread."""
    answered = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_WAIT).close()
            answered.append(True)
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_WAIT)
    return bool(answered)
