"""Functions of tensors recorded once and replayed: compiled on a CPU, CUDA graphs on a GPU."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

logger = logging.getLogger(__name__)

Run = Callable[..., Sequence[Tensor]]
T = TypeVar("T")
_ON_THE_HOST = "a tensor's value is read on the host"


class NotYetError(Exception):
    """The step at hand is not one to be recorded."""


def record(run: Run, inputs: Sequence[Tensor], *, fuse: bool = True) -> Run:
    """Record what ``run`` does with tensors of these shapes; everything else it read is part of the record.

    On a CPU it is traced and compiled by Inductor. On a GPU it becomes a CUDA graph;
    with ``fuse`` Inductor compiles it before. A step that reads a tensor's value on the host, or draws random
    numbers, is refused.

    Args:
        run: takes and returns tensors, and changes none of those it is given.
        inputs: an example.
        fuse: compile for a GPU, too, which takes minutes; a CUDA graph takes one step.

    Raises:
        RuntimeError: it cannot be recorded.
    """
    on_gpu = inputs[0].is_cuda
    if fuse or not on_gpu:
        run = compiled(traced(run, inputs))
    if on_gpu:
        return CudaGraph(run, inputs)
    run(*inputs)
    return run


def compiled(graph: torch.fx.GraphModule) -> Run:
    """A traced function, compiled for its shapes."""
    run: Any = torch.compile(graph, dynamic=False, fullgraph=True)
    return run  # type: ignore[no-any-return]


def traced(run: Run, inputs: Sequence[Tensor]) -> torch.fx.GraphModule:
    """The operations that ``run`` calls, as a graph.

    Raises:
        RuntimeError: a tensor's value is read on the host, or random numbers are drawn.
    """
    try:
        # Tensors without values: reading one fails, and nothing is computed.
        graph = make_fx(run, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)(*inputs)
    except (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode) as error:
        raise RuntimeError(_ON_THE_HOST) from error
    for node in graph.graph.nodes:
        tags = set(getattr(node.target, "tags", ()))
        if tags & {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}:
            raise RuntimeError(_ON_THE_HOST)
        # Attention has this tag for its dropout, which there is none of.
        if torch.Tag.nondeterministic_seeded in tags and "scaled_dot_product" not in str(node.target):
            raise RuntimeError("random numbers are drawn")
    return graph


class CudaGraph:
    """A CUDA graph with buffers of its own for what goes in and comes out.

    Raises:
        RuntimeError: a tensor's value is read on the host.
    """

    def __init__(self, run: Run, inputs: Sequence[Tensor]) -> None:
        self.device = inputs[0].device
        with torch.cuda.device(self.device):
            self.inputs = [x.clone() for x in inputs]
            self.graph = torch.cuda.CUDAGraph()
            stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(current)
            mode = torch.cuda.get_sync_debug_mode()
            try:
                torch.cuda.set_stream(stream)
                # Compilers and kernels warm up outside of the graph.
                run(*self.inputs)
                # Found out before the capture, which a wait would leave broken.
                torch.cuda.set_sync_debug_mode("error")
                run(*self.inputs)
                torch.cuda.set_sync_debug_mode(mode)
                with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                    self.outputs = list(run(*self.inputs))
            except RuntimeError as error:
                if "synchronizing" in str(error):
                    raise RuntimeError(_ON_THE_HOST) from error
                raise
            finally:
                torch.cuda.set_sync_debug_mode(mode)
                torch.cuda.set_stream(current)
            current.wait_stream(stream)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        with torch.cuda.device(self.device):
            for mine, given in zip(self.inputs, inputs, strict=True):
                mine.copy_(given, non_blocking=True)
            self.graph.replay()
            # The next replay overwrites the outputs, and a fork of the memory may outlive it.
            return [x.clone() for x in self.outputs]


class Recordings(Generic[T]):
    """The records of one operation, by what they were made for.

    A record is made when the same shapes come for the third time in a stream: while a
    memory fills up, every step has other shapes.

    Args:
        name: of the operation, for the log.
        patience: how often the same must come before it is recorded.
        room: records kept; the one that was not used for longest goes.
        most: records made in all, where making one takes long; None for any number. After three failures
            nothing more is tried.
    """

    def __init__(self, name: str, *, patience: int = 3, room: int = 4, most: int | None = 8) -> None:
        self.name = name
        self.patience = patience
        self.room = room
        self.most = most
        self.made: OrderedDict[Hashable, T] = OrderedDict()
        # Why not, in the order in which it was found; each is said once.
        self.refused: dict[str, None] = {}
        self._failed: set[Hashable] = set()
        self._times: OrderedDict[Hashable, int] = OrderedDict()
        self._count = 0

    def restart(self) -> None:
        """Another stream: its memory fills up through the same shapes as the last one's."""
        self._times.clear()

    def refuse(self, reason: str) -> None:
        """Say why the operation is not recorded."""
        if reason not in self.refused:
            self.refused[reason] = None
            logger.warning("memory.execution=compile: the %s runs eagerly, as %s", self.name, reason)

    def get(self, key: Hashable, make: Callable[[], T]) -> T | None:
        """The record for ``key``, made now if it is time; None where the operation is to run eagerly.

        ``make`` raises NotYetError where the step is none to be recorded.
        """
        if key in self.made:
            self.made.move_to_end(key)
            return self.made[key]
        if key in self._failed or len(self._failed) == 3 or not self._is_time(key):
            return None
        if self._count == self.most:
            self.refuse(f"it was recorded {self.most} times: shapes or questions keep changing")
            return None
        started = time.perf_counter()
        logger.info("memory.execution=compile: recording the %s", self.name)
        try:
            self.made[key] = make()
        except NotYetError:
            del self._times[key]
            return None
        except Exception as error:
            # Whatever a compiler stumbles over, the step itself can be done without it.
            self._failed.add(key)
            self.refuse(f"it cannot be recorded: {_first_line(error)}")
            return None
        self._count += 1
        logger.info("recorded the %s in %.1f s", self.name, time.perf_counter() - started)
        if len(self.made) > self.room:
            self.made.popitem(last=False)
        return self.made[key]

    def _is_time(self, key: Hashable) -> bool:
        self._times[key] = self._times.get(key, 0) + 1
        self._times.move_to_end(key)
        if len(self._times) > 64:
            self._times.popitem(last=False)
        return self._times[key] >= self.patience


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
