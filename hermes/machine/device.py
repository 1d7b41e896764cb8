"""Memory and time used by the process and the device."""

from __future__ import annotations

import resource
import sys
import time

import torch

from hermes.errors import SettingError


def peak_memory_bytes(device: torch.device) -> int:
    """Peak bytes: allocated on a CUDA device, or resident in this process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


class Stopwatch:
    """Sums the time of work on a device, without making the host wait for it while it runs.

    >>> watch = Stopwatch(torch.device("cpu"))
    >>> with watch:
    ...     _ = torch.ones(3).sum()
    >>> watch.ms > 0
    True
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._ms = 0.0
        self._running: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        self._started = time.perf_counter()
        if self.cuda:
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def __exit__(self, *error: object) -> None:
        if not self.cuda:
            self._ms += 1e3 * (time.perf_counter() - self._started)
            return
        stop = torch.cuda.Event(enable_timing=True)
        stop.record()
        self._running.append((self._event, stop))
        while self._running and self._running[0][1].query():
            first, last = self._running.pop(0)
            self._ms += first.elapsed_time(last)

    @property
    def ms(self) -> float:
        """Milliseconds so far; waits for work that is under way."""
        for first, last in self._running:
            last.synchronize()
            self._ms += first.elapsed_time(last)
        self._running.clear()
        return self._ms


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has done what it was given, so that a clock read now means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def resolve_device(name: str) -> torch.device:
    """The device that setting ``backbone.device`` means.

    Raises:
        SettingError: there is no such device here.
    """
    gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if gpu else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingError("backbone.device", name, "auto, cpu, cuda, cuda:1, ...") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingError(
            "backbone.device", name, f"auto, cpu{', cuda' if gpu else ''}", "No such GPU here."
        )
    return device
