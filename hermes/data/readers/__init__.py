"""The field's benchmarks, in the form of the method's release and in their own.

Each reader names the publication whose format it reads.
"""

from hermes.data.readers.captions import Captions
from hermes.data.readers.offline import EgoSchema, MVBench, VideoMME
from hermes.data.readers.rvs import RvsEgo, RvsMovie
from hermes.data.readers.streaming import OvoBench, StreamingBench

__all__ = ["Captions", "EgoSchema", "MVBench", "OvoBench", "RvsEgo", "RvsMovie", "StreamingBench", "VideoMME"]
