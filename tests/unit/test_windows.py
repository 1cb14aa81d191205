"""Splitting posts into windows, and token ids of a beginning."""

from string import ascii_lowercase

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mbti_ray.config.schema import ModelConfig
from mbti_ray.data.tokenizer import WordTokenizer, build_tokenizer, encode_rows
from mbti_ray.data.windows import build_windows, split_into_posts, split_into_windows, truncate
from mbti_ray.typology import labels_of

pytestmark = pytest.mark.unit

CLS, SEP = 1, 2
FIRST_WORD = 10


@st.composite
def post_lists(draw):
    """Posts whose tokens are all different, so that order and loss show."""
    lengths = draw(st.lists(st.integers(0, 30), max_size=12))
    tokens = iter(range(FIRST_WORD, FIRST_WORD + sum(lengths)))
    return [[next(tokens) for _ in range(length)] for length in lengths]


def encode(posts, *, max_tokens=12, max_windows=1000, truncation="head", split=split_into_windows):
    windows = split(posts, cls_id=CLS, sep_id=SEP, max_tokens=max_tokens)
    return truncate(windows, truncation, max_tokens=max_tokens, max_windows=max_windows)


def split_naively(posts, *, max_tokens, max_windows):
    """All windows first, then the limit: what `encode` must return without the work."""
    windows, current = [], []
    for post in posts:
        rest = post
        while rest:
            if current and len(current) + len(rest) + 1 > max_tokens - 1:
                windows.append([CLS, *current])
                current = []
            piece, rest = rest[: max_tokens - 2], rest[max_tokens - 2 :]
            current += [*piece, SEP]
    if current or not windows:
        windows.append([CLS, *(current or [SEP])])
    return windows[:max_windows], len(windows) > max_windows


@given(posts=post_lists(), max_tokens=st.integers(8, 24), max_windows=st.integers(1, 6))
def test_windows_are_those_of_the_naive_algorithm(posts, max_tokens, max_windows):
    found = encode(posts, max_tokens=max_tokens, max_windows=max_windows)
    expected = split_naively(posts, max_tokens=max_tokens, max_windows=max_windows)
    assert (found.windows, found.truncated) == expected


class Copied(list):
    """A list that counts the items that are copied out of it."""

    items = 0

    def __getitem__(self, place):
        found = super().__getitem__(place)
        self.items += len(found) if isinstance(place, slice) else 1
        return found


def test_only_what_the_windows_hold_is_copied():
    post = Copied(range(FIRST_WORD, FIRST_WORD + 100_000))
    assert encode([post], max_tokens=12, max_windows=5).truncated
    assert post.items <= 5 * 12


def words_in(windows):
    return [token for window in windows for token in window if token >= FIRST_WORD]


def words_of(posts):
    return [token for post in posts for token in post]


@given(posts=post_lists(), max_tokens=st.integers(8, 24), max_windows=st.integers(1, 6))
def test_no_window_is_longer_than_allowed_and_there_is_at_least_one(posts, max_tokens, max_windows):
    encoded = encode(posts, max_tokens=max_tokens, max_windows=max_windows)
    assert 1 <= len(encoded.windows) <= max_windows
    assert all(len(window) <= max_tokens for window in encoded.windows)


@given(posts=post_lists(), max_tokens=st.integers(8, 24))
def test_every_window_starts_with_cls_and_ends_with_sep(posts, max_tokens):
    for window in encode(posts, max_tokens=max_tokens).windows:
        assert window[0] == CLS
        assert window[-1] == SEP
        assert window.count(CLS) == 1


@given(posts=post_lists(), max_tokens=st.integers(8, 24))
def test_no_token_is_lost_or_moved_with_enough_windows(posts, max_tokens):
    encoded = encode(posts, max_tokens=max_tokens)
    assert words_in(encoded.windows) == words_of(posts)
    assert not encoded.truncated


@given(posts=post_lists(), max_tokens=st.integers(8, 24), max_windows=st.integers(1, 6))
def test_truncated_is_true_exactly_if_a_token_was_dropped(posts, max_tokens, max_windows):
    encoded = encode(posts, max_tokens=max_tokens, max_windows=max_windows)
    words, kept = words_of(posts), words_in(encoded.windows)
    assert kept == words[: len(kept)]
    assert encoded.truncated == (len(kept) < len(words))


@given(posts=post_lists(), max_tokens=st.integers(8, 24))
def test_a_post_that_fits_a_window_is_never_cut(posts, max_tokens):
    windows = encode(posts, max_tokens=max_tokens).windows
    for post in posts:
        if post and len(post) <= max_tokens - 2:
            assert sum(1 for w in windows if set(post) & set(w)) == 1


@given(posts=post_lists(), max_tokens=st.integers(8, 24), max_windows=st.integers(1, 60))
def test_posts_read_apart_share_no_window_and_long_ones_become_equal_parts(
    posts, max_tokens, max_windows
):
    limits = {"max_tokens": max_tokens, "split": split_into_posts}
    found, every = (encode(posts, max_windows=n, **limits) for n in (max_windows, 999))
    assert found.windows == every.windows[:max_windows]
    assert found.truncated == (len(every.windows) > max_windows)
    if not any(posts):
        assert every.windows == [[CLS, SEP]]
        return
    read = [token for window in every.windows for token in window[1:-1]]
    assert read == [token for post in posts for token in post]
    for post in filter(None, posts):
        parts = [w for w in every.windows if set(w) & set(post)]
        assert all(set(w[1:-1]) <= set(post) for w in parts)
        assert max(map(len, parts)) <= max_tokens
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert len(parts) == -(-len(post) // (max_tokens - 2))


def test_head_and_tail_of_a_text_are_its_first_128_and_last_382_tokens():
    post = list(range(FIRST_WORD, FIRST_WORD + 2000))
    found = encode([post], max_tokens=512, max_windows=1, truncation="head_tail")
    assert found.windows == [[CLS, *post[:128], *post[-382:], SEP]]
    assert found.truncated


@given(posts=post_lists(), max_windows=st.integers(2, 9))
@pytest.mark.parametrize("split", [split_into_windows, split_into_posts])
def test_head_and_tail_of_a_row_are_a_quarter_of_its_windows_and_the_rest(
    split, posts, max_windows
):
    every = encode(posts, split=split).windows
    found = encode(posts, split=split, max_windows=max_windows, truncation="head_tail")
    assert found.truncated == (len(every) > max_windows)
    head = max(1, max_windows // 4)
    expected = every if not found.truncated else every[:head] + every[head - max_windows :]
    assert found.windows == expected


def test_the_tail_of_a_text_is_read_however_long_the_text_is():
    texts = [f"the quick {'brown ' * 5000} fox"]
    model = ModelConfig(max_tokens=8, truncation="head_tail")
    tokenizer = TOKENIZERS["wordpiece"]
    (row,) = encode_rows(WordTokenizer.of(tokenizer), [texts], model, max_windows=1)
    assert tokenizer.decode(row.windows[0]) == "[CLS] the quick brown brown brown fox [SEP]"


def test_posts_share_a_window_until_it_is_full():
    encoded = encode([[10, 11], [12], [13, 14, 15, 16]], max_tokens=8)
    assert encoded.windows == [[CLS, 10, 11, SEP, 12, SEP], [CLS, 13, 14, 15, 16, SEP]]


def test_a_window_is_filled_to_the_last_token():
    assert encode([[10, 11, 12], [13, 14]], max_tokens=8).windows == [
        [CLS, 10, 11, 12, SEP, 13, 14, SEP]
    ]
    assert len(encode([[10, 11, 12], [13, 14, 15]], max_tokens=8).windows) == 2


def test_a_long_post_is_cut_into_full_windows():
    encoded = encode([list(range(10, 25))], max_tokens=8)
    assert [len(window) for window in encoded.windows] == [8, 8, 5]


@pytest.mark.parametrize("posts", [[], [[]], [[], []]])
def test_a_row_without_tokens_still_has_one_window(posts):
    encoded = encode(posts)
    assert encoded.windows == [[CLS, SEP]]
    assert not encoded.truncated


def some_windows(rows):
    """`Windows` of rows of posts; row k has type ENTJ, ISFP, ENTJ, ..., line k + 2, post k."""
    encoded = [encode(posts) for posts in rows]
    labels = [labels_of(("ENTJ", "ISFP")[k % 2]) for k in range(len(rows))]
    columns = dict(zip("entj", np.array(labels, np.uint8).reshape(-1, 4).T, strict=True))
    table = pa.table({**columns, "number": np.arange(len(rows)) + 2, "post": np.arange(len(rows))})
    return build_windows(encoded, table)


def test_windows_hold_ids_rows_and_labels_as_they_were_encoded():
    rows = [[list(range(10, 30))], [[40]], []]
    windows = some_windows(rows)
    flat = [window for posts in rows for window in encode(posts).windows]
    assert len(windows) == len(flat) == 4
    assert windows.row_count == 3
    assert windows.lengths.tolist() == [len(w) for w in flat]
    assert windows.ids.tolist() == [token for w in flat for token in w]
    assert windows.row_index.tolist() == [0, 0, 1, 2]
    assert windows.labels.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert windows.rows.column("number").to_pylist() == [2, 3, 4]
    assert windows.rows.column("post").to_pylist() == [0, 1, 2]


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A Unigram tokenizer as SentencePiece makes them, of letters and a few words."""
    pieces = ["<pad>", "<unk>", "<s>", "</s>", "▁", "▁the", "▁and", "ing", *ascii_lowercase]
    backend = Tokenizer(models.Unigram([(piece, -float(len(piece))) for piece in pieces], unk_id=1))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="<s>", sep_token="</s>", unk_token="<unk>"
    )


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer as that of RoBERTa, without merges but two."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: n for n, piece in enumerate(["<s>", "</s>", *alphabet, "th", "the"])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[("t", "h"), ("th", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<s>", sep_token="</s>")


TOKENIZERS = {
    "wordpiece": build_tokenizer("tiny", ["the quick brown fox and the lazy dog are reading"]),
    "unigram": metaspace_tokenizer(),
    "byte-level": byte_level_tokenizer(),
}
# Words, one longer than any, punctuation, another script, accents and what has no token at all.
WORDS = ["the", "and", "reading", "x" * 300, "...", "漢字", "é", "\u0301", "\u200d", "🙂"]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=30)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), max_size=3),
    times=st.integers(1, 40),
)
def test_a_text_cut_before_the_tokenizer_gives_the_windows_of_the_whole(name, texts, times):
    tokenizer = TOKENIZERS[name]
    long = [" ".join([text] * times) for text in texts]
    by_word = WordTokenizer.of(tokenizer)
    (found,) = encode_rows(by_word, [long], ModelConfig(max_tokens=8), max_windows=2)
    posts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in long]
    ids = {"cls_id": tokenizer.cls_token_id, "sep_id": tokenizer.sep_token_id}
    whole = split_into_windows(posts, **ids, max_tokens=8)
    assert found == truncate(whole, "head", max_tokens=8, max_windows=2)


@pytest.mark.parametrize("words", ["the ", "\u200d "])
def test_of_a_long_text_only_the_beginning_is_tokenized_unless_it_has_no_tokens(words, monkeypatch):
    tokenized = []

    def recorded(_, texts):
        tokenized.append(sum(map(len, texts)))
        return [[FIRST_WORD] * text.count("the") for text in texts]

    monkeypatch.setattr(WordTokenizer, "tokenize", recorded)
    tokenizer = WordTokenizer.of(TOKENIZERS["wordpiece"])
    encode_rows(tokenizer, [[words * 100_000]], ModelConfig(max_tokens=8), max_windows=2)
    if words == "the ":
        assert sum(tokenized) < 1000
    else:
        assert tokenized[-1] == len(words) * 100_000
