"""What one question looked at in one layer: the data every measure starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

__all__ = ["LayerMass"]


@dataclass(frozen=True, eq=False)
class LayerMass:
    """Attention of one question, or of another text, to the tokens that a layer holds.

    Source: arXiv 2601.14724, Sec. 2 (mean over query tokens, and over heads unless it is of one KV head),
    with the provenance of each token. :class:`hermes.analysis.question.QuestionProbe` says which tokens are
    the question's.

    Attributes:
        mass: mean weight of each of ``T`` held tokens; sums to at most 1, as a question also sees itself.
        frame: index of the sampled frame the token is of; -1 for the prefix and other text.
        age: seconds from the frame's time to the question.
        patch: place of the token in its frame, in raster order; -1 for text and summaries.
    """

    mass: Float[np.ndarray, " T"]
    frame: Int[np.ndarray, " T"]
    age: Float[np.ndarray, " T"]
    patch: Int[np.ndarray, " T"]

    @property
    def video(self) -> LayerMass:
        """The tokens of frames alone, in the order they are held."""
        kept = self.frame >= 0
        return LayerMass(self.mass[kept], self.frame[kept], self.age[kept], self.patch[kept])
