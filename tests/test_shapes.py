"""The shapes that annotations name are checked while the tests run."""

from __future__ import annotations

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from hermes.tokens.positions import Rotary, compacted


def test_one_letter_is_one_size_within_a_call_and_free_in_the_next() -> None:
    rotary = Rotary(torch.ones(2), torch.zeros(2, dtype=torch.long), axes=1)
    for tokens in (3, 5):
        rotary.rotate(torch.zeros(1, 2, tokens, 4), torch.zeros(1, 1, 1, tokens))
    with pytest.raises(BeartypeCallHintViolation):
        rotary.rotate(torch.zeros(1, 2, 3, 4), torch.zeros(1, 1, 1, 5))


def test_number_types_and_results_count() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        compacted(torch.zeros(1, 3, dtype=torch.long), 0)
