"""The model that comes with Hermes: small, trained on Wanderer, no download."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from hermes.backbone import Backbone, BackboneConfig

from ..llava_onevision import LlavaOnevision

FOLDER = Path(__file__).parent / "model"


class Embedded(LlavaOnevision):
    """A LLaVA-OneVision of 2.4 M parameters that answers questions about Wanderer, 4 tokens a frame.

    Trained by ``hermes train training=embedded``.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    default_fps = 1.0
    own_weights = "trained"

    @classmethod
    def load(cls, config: BackboneConfig) -> Backbone:
        """Load the shipped weights, or those of ``checkpoint``."""
        return super().load(replace(config, checkpoint=config.checkpoint or str(FOLDER)))
