"""Streams of frames with true timestamps, from files, folders, arrays, cameras and iterators; or of texts."""

from hermes.video.av_source import orient
from hermes.video.captions import Caption
from hermes.video.config import VideoConfig
from hermes.video.link import Link
from hermes.video.opening import open_source
from hermes.video.source import Frame, FrameSource, Sampling, TimedImage, sample
from hermes.video.writing import video_encoders, write_video

__all__ = [
    "Caption",
    "Frame",
    "FrameSource",
    "Link",
    "Sampling",
    "TimedImage",
    "VideoConfig",
    "open_source",
    "orient",
    "sample",
    "video_encoders",
    "write_video",
]
