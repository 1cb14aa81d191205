"""Rows whose logits are the token-weighted mean of their windows'."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbti_ray.data.collate import Groups
from mbti_ray.model.classifier import pool_table

pytestmark = pytest.mark.unit


@given(
    windows=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 300)), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_a_row_is_the_mean_of_its_windows_weighted_by_their_tokens(windows, seed):
    # Every row has a window, as `split_into_windows` sees to.
    windows = [*windows, *((row, 7) for row in range(5))]
    rows, tokens = (np.array(column) for column in zip(*windows, strict=True))
    logits = np.random.default_rng(seed).normal(size=(len(windows), 4))
    groups = Groups.of(rows, tokens, rows=5)
    pooled = pool_table(groups.table(torch.from_numpy(logits)), groups.tokens.double()).numpy()
    for row in range(5):
        mine = rows == row
        expected = np.average(logits[mine], axis=0, weights=tokens[mine])
        np.testing.assert_allclose(pooled[row], expected, rtol=1e-9, atol=1e-12)


def test_a_row_of_one_window_keeps_its_logits():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    groups = Groups.of(np.array([2, 0, 1]), np.array([5, 17, 128]), rows=3)
    pooled = pool_table(groups.table(logits), groups.tokens)
    torch.testing.assert_close(pooled, logits[[1, 2, 0]])
