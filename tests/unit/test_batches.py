"""Steps, shards of ranks and tensors: every window once, whatever the number of ranks."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbti_ray.data.batch_sampler import batches_by_length, length_grouped_steps, shard
from mbti_ray.data.collate import Batch, Groups, collate, collate_packed
from mbti_ray.data.windows import EncodedRow, build_windows
from mbti_ray.typology import labels_of

pytestmark = pytest.mark.unit


def lengths_of(count, *, seed=0):
    """Window lengths as posts have them: many short ones, few long ones, a limit of 128."""
    random = np.random.default_rng(seed)
    return np.clip(random.lognormal(3.2, 0.7, count).astype(np.int64), 3, 128)


@given(
    count=st.integers(1, 700),
    step_size=st.integers(1, 64),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 50),
)
def test_an_epoch_covers_every_window_exactly_once(count, step_size, seed, epoch):
    steps = length_grouped_steps(lengths_of(count), step_size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(steps).tolist()) == list(range(count))


@given(count=st.integers(1, 7000), step_size=st.integers(1, 64))
@settings(max_examples=40)
def test_every_step_is_full_except_one_for_the_remainder(count, step_size):
    steps = length_grouped_steps(lengths_of(count), step_size, seed=3, epoch=1)
    sizes = Counter(len(step) for step in steps)
    full, rest = divmod(count, step_size)
    expected = Counter({step_size: full}) + Counter({rest: 1} if rest else {})
    assert sizes == expected


def test_a_step_is_sorted_longest_first():
    lengths = lengths_of(500)
    for step in length_grouped_steps(lengths, 16, seed=0, epoch=0):
        assert np.all(np.diff(lengths[step]) <= 0)


def as_lists(steps):
    return [step.tolist() for step in steps]


def test_a_plan_is_a_function_of_seed_and_epoch():
    lengths = lengths_of(300)
    plans = {
        (seed, epoch): as_lists(length_grouped_steps(lengths, 8, seed=seed, epoch=epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    for (seed, epoch), plan in plans.items():
        assert as_lists(length_grouped_steps(lengths, 8, seed=seed, epoch=epoch)) == plan
    assert len({str(plan) for plan in plans.values()}) == 4


def test_an_epoch_changes_which_windows_meet_in_a_step():
    # All different, so that sorting leaves nothing to chance.
    lengths = np.arange(1, 3001)
    first, second = (
        {
            frozenset(step)
            for step in as_lists(length_grouped_steps(lengths, 8, seed=0, epoch=epoch))
        }
        for epoch in (0, 1)
    )
    assert len(first & second) <= 0.05 * len(first)


@given(
    size=st.integers(1, 70),
    world_size=st.integers(1, 90),
    batch_tokens=st.integers(1, 2000),
)
def test_over_all_ranks_every_window_of_a_step_counts_exactly_once(size, world_size, batch_tokens):
    lengths = lengths_of(1000)
    step = np.random.default_rng(size).permutation(1000)[:size]
    counted = Counter()
    for rank in range(world_size):
        members, weight = shard(step, rank=rank, world_size=world_size)
        batches = list(batches_by_length(lengths, members, batch_tokens))
        assert weight in (0.0, 1.0)
        # A rank without a batch would leave the others waiting in the gradient exchange.
        assert len(batches) >= 1
        for batch in batches:
            assert len(batch) == 1 or len(batch) * lengths[batch].max() <= batch_tokens
        if weight == 1.0:
            counted.update(i for batch in batches for i in batch.tolist())
        else:
            assert sum(len(batch) for batch in batches) == 1
    assert counted == Counter(step.tolist())


@given(size=st.integers(1, 70), world_size=st.integers(1, 70))
def test_no_rank_computes_more_than_one_window_more_than_another(size, world_size):
    shards = [shard(np.arange(size), rank=r, world_size=world_size) for r in range(world_size)]
    sizes = [len(members) if weight else 0 for members, weight in shards]
    assert max(sizes) - min(sizes) <= 1


@given(size=st.integers(1, 200), world_size=st.integers(1, 16))
def test_ranks_differ_by_at_most_the_tokens_of_the_longest_window(size, world_size):
    lengths = -np.sort(-lengths_of(size))
    shards = [shard(np.arange(size), rank=r, world_size=world_size) for r in range(world_size)]
    tokens = [int(lengths[members].sum()) if weight else 0 for members, weight in shards]
    assert max(tokens) - min(tokens) <= lengths[0]


@pytest.fixture(scope="module")
def windows():
    """Three rows with windows of 3, 5, 2 and 4 tokens; the second row has two windows."""
    packed = [
        EncodedRow([[1, 10, 2]], truncated=False),
        EncodedRow([[1, 20, 21, 22, 2], [1, 2]], truncated=False),
        EncodedRow([[1, 30, 31, 2]], truncated=False),
    ]
    labels = np.array([labels_of(t) for t in ("INTJ", "ESFP", "ENTP")], np.uint8)
    return build_windows(packed, pa.table(dict(zip("entj", labels.T, strict=True))))


def test_collate_pads_to_the_longest_window_and_masks_the_padding(windows):
    batch = collate(windows, np.array([1, 0, 2]), pad_id=9)
    assert batch.input_ids.tolist() == [[1, 20, 21, 22, 2], [1, 10, 2, 9, 9], [1, 2, 9, 9, 9]]
    assert batch.attention_mask.tolist() == [
        [True] * 5,
        [True] * 3 + [False] * 2,
        [True] * 2 + [False] * 3,
    ]


def test_collate_returns_the_dtypes_that_the_model_takes(windows):
    batch = collate(windows, np.array([3]))
    assert batch.input_ids.dtype == torch.int64
    assert batch.attention_mask is None, "nothing is padded"
    assert collate(windows, np.array([0, 3])).attention_mask.dtype == torch.bool
    assert batch.input_ids.shape == (1, 4)


def test_moving_a_batch_moves_all_of_its_tensors(windows):
    passes = (collate(windows, np.array([0, 1])), collate_packed(windows, np.array([1, 0])))
    groups = Groups.of(np.array([0, 0, 1, 1]), np.array([3, 5, 5, 3]), rows=2)
    batch = Batch(passes, torch.zeros(2, 4), torch.ones(2), groups).to(torch.device("meta"))
    padded, packed = batch.passes
    assert packed.packing is not None
    assert batch.groups is not None
    tensors = (
        *(batch.labels, batch.weight, batch.groups.slots, batch.groups.tokens),
        *(padded.input_ids, padded.attention_mask, packed.input_ids),
        *(packed.packing.positions, packed.packing.owner, packed.packing.bounds),
    )
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=80),
    max_tokens=st.integers(1, 600),
    every=st.integers(1, 3),
    worth=st.integers(0, 300),
)
def test_batches_by_length_cover_all_members_within_the_token_budget(
    lengths, max_tokens, every, worth
):
    lengths = np.array(lengths)
    members = np.arange(0, len(lengths), every)
    batches = list(batches_by_length(lengths, members, max_tokens, min_efficient_tokens=worth))
    assert sorted(np.concatenate(batches).tolist()) == members.tolist()
    for batch in batches:
        padded = len(batch) * lengths[batch].max()
        assert padded <= max_tokens or len(batch) == 1


def test_an_efficient_batch_ends_where_windows_get_much_shorter():
    lengths = np.array([100, 95, 91, 80, 40, 38, 20, 20])

    def cut(worth):
        batches = batches_by_length(lengths, np.arange(8), 10_000, min_efficient_tokens=worth)
        return [lengths[batch].tolist() for batch in batches]

    assert cut(200) == [[100, 95, 91], [80, 40, 38], [20, 20]]
    assert cut(400) == [[100, 95, 91, 80], [40, 38, 20, 20]]
    assert cut(10_000) == [lengths.tolist()]


def test_a_rest_whose_padding_costs_less_than_another_pass_has_none_of_its_own():
    lengths = np.array([100, 95, 91, 80, 40, 38, 20, 20])
    batches = batches_by_length(lengths, np.arange(8), 10_000, min_efficient_tokens=260)
    assert [lengths[b].tolist() for b in batches] == [[100, 95, 91], [80, 40, 38, 20, 20]]
    # Where it does not fit into the batch.
    batches = batches_by_length(lengths, np.arange(8), 320, min_efficient_tokens=260)
    assert [lengths[b].tolist() for b in batches] == [[100, 95, 91], [80, 40, 38, 20], [20]]


def test_batches_by_length_of_no_members_are_none():
    assert list(batches_by_length(np.array([3, 4]), np.arange(0), 100)) == []


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "world_size"), [(32, 1, 1), (16, 4, 1), (16, 4, 4), (8, 4, 2)]
)
def test_less_than_five_percent_of_what_is_trained_on_is_padding(
    batch_size, accumulate, world_size
):
    lengths = lengths_of(20_000, seed=7)
    padded = 0
    for step in length_grouped_steps(lengths, batch_size * accumulate, seed=0, epoch=0):
        for rank in range(world_size):
            members, _ = shard(step, rank=rank, world_size=world_size)
            batches = batches_by_length(lengths, members, batch_size * 128)
            padded += sum(len(b) * int(lengths[b].max()) for b in batches)
    assert padded >= lengths.sum()
    assert 1 - lengths.sum() / padded < 0.05
