"""Rows whose logits are the token-weighted mean of their windows'."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbti_ray.model.classifier import pool_rows

pytestmark = pytest.mark.unit


@given(
    windows=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 300)), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_a_row_is_the_mean_of_its_windows_weighted_by_their_tokens(windows, seed):
    # Every row has a window, as `pack_posts` sees to.
    windows = [*windows, *((row, 7) for row in range(5))]
    rows, tokens = (np.array(column) for column in zip(*windows, strict=True))
    logits = np.random.default_rng(seed).normal(size=(len(windows), 4))
    pooled = pool_rows(
        torch.from_numpy(logits), torch.from_numpy(rows), torch.from_numpy(tokens), 5
    ).numpy()
    for row in range(5):
        mine = rows == row
        expected = np.average(logits[mine], axis=0, weights=tokens[mine])
        np.testing.assert_allclose(pooled[row], expected, rtol=1e-9, atol=1e-12)


def test_a_row_of_one_window_keeps_its_logits():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    pooled = pool_rows(logits, torch.tensor([2, 0, 1]), torch.tensor([5, 17, 128]), 3)
    torch.testing.assert_close(pooled, logits[[1, 2, 0]])
