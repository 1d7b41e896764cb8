"""Measurements: time, memory and bytes of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes.faces import lazy_face

if TYPE_CHECKING:
    from hermes.bench.cells import Measured as Measured
    from hermes.bench.cells import measure_cells as measure_cells
    from hermes.bench.cells import measured as measured
    from hermes.bench.cells import write_bench as write_bench
    from hermes.bench.records import Record as Record
    from hermes.bench.records import Recorder as Recorder
    from hermes.bench.records import frames_of as frames_of
    from hermes.bench.records import write_records as write_records
    from hermes.bench.stream import PAPER as PAPER
    from hermes.bench.stream import BenchConfig as BenchConfig
    from hermes.bench.stream import bench_config as bench_config
    from hermes.bench.stream import bench_identity as bench_identity
    from hermes.bench.stream import measure as measure
    from hermes.bench.stream import plot_stream as plot_stream
    from hermes.bench.stream import stream_records as stream_records
else:
    __all__, __getattr__ = lazy_face(
        __name__,
        {
            "records": "Record Recorder frames_of write_records",
            "stream": "PAPER BenchConfig bench_config bench_identity measure plot_stream stream_records",
            "cells": "Measured measure_cells measured write_bench",
        },
    )
