"""Memory policies: the interface, tiers, and what policies share. Nothing here knows a model."""

from hermes.policy.archive import Archive, Store, mean_keys
from hermes.policy.archiving import Archiving
from hermes.policy.embedded_frames import Buffering
from hermes.policy.policy import (
    Bound,
    MemoryPolicy,
    Recall,
    StreamContext,
    check_budget,
    check_policy,
    check_streams,
    compress_together,
    group_by_round,
    reindex_due,
    with_budget,
    wrong_result,
)
from hermes.policy.quantise import dequantise, quantise
from hermes.policy.raw_frames import FrameBuffer, encode_apart, frames_that_fit
from hermes.policy.reduction import (
    cosine,
    density_peaks,
    frame_slots,
    segmented,
    temporal_reduction,
    with_background,
)
from hermes.policy.retrieval import (
    Context,
    FrameRetrieval,
    best,
    head_means,
    newer,
    question_queries,
    run_lengths,
    shared_threshold,
    similarity,
)
from hermes.policy.shallow import ShallowReading
from hermes.policy.spatial import blurred, merged, otsu, thinned
from hermes.policy.tiers import Tier, TieredPolicy, hierarchy

__all__ = [
    "Archive",
    "Archiving",
    "Bound",
    "Buffering",
    "Context",
    "FrameBuffer",
    "FrameRetrieval",
    "MemoryPolicy",
    "Recall",
    "ShallowReading",
    "Store",
    "StreamContext",
    "Tier",
    "TieredPolicy",
    "best",
    "blurred",
    "check_budget",
    "check_policy",
    "check_streams",
    "compress_together",
    "cosine",
    "density_peaks",
    "dequantise",
    "encode_apart",
    "frame_slots",
    "frames_that_fit",
    "group_by_round",
    "head_means",
    "hierarchy",
    "mean_keys",
    "merged",
    "newer",
    "otsu",
    "quantise",
    "question_queries",
    "reindex_due",
    "run_lengths",
    "segmented",
    "shared_threshold",
    "similarity",
    "temporal_reduction",
    "thinned",
    "with_background",
    "with_budget",
    "wrong_result",
]
