"""Model families: from pixels to chunks, and from a checkpoint to a model that has been checked."""

from typing import TYPE_CHECKING

from hermes.backbone.backbone import Backbone, deepstack, visual_features
from hermes.backbone.checkpoint import load_checkpoint, preprocessor_of, stock_preprocessor
from hermes.backbone.config import BackboneConfig
from hermes.backbone.fingerprint import weights_fingerprint
from hermes.backbone.layer_specs import layer_specs
from hermes.backbone.loading import backbone_fallback, load_backbone, save_checkpoint
from hermes.backbone.pixels import (
    PixelRecipe,
    normalize,
    patchify,
    per_frame_limits,
    prepare,
    prepare_patches,
    resize,
    smart_resize,
    stack,
)
from hermes.backbone.rotary import read_rotary
from hermes.backbone.rotation import cast_weights, restore_rotation
from hermes.backbone.saliency import encode
from hermes.backbone.self_check import self_check
from hermes.backbone.stock import FramePrompt, FrameShape, StockPrompt, stock_processor
from hermes.forwarding import former_names

__all__ = [
    "Backbone",
    "BackboneConfig",
    "FramePrompt",
    "FrameShape",
    "PixelRecipe",
    "StockPrompt",
    "backbone_fallback",
    "cast_weights",
    "deepstack",
    "encode",
    "layer_specs",
    "load_backbone",
    "load_checkpoint",
    "normalize",
    "patchify",
    "per_frame_limits",
    "prepare",
    "prepare_patches",
    "preprocessor_of",
    "read_rotary",
    "resize",
    "restore_rotation",
    "save_checkpoint",
    "self_check",
    "smart_resize",
    "stack",
    "stock_preprocessor",
    "stock_processor",
    "visual_features",
    "weights_fingerprint",
]

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)
