"""Labels: the order of the dimensions, the sixteen types, and the messages about others."""

from itertools import product

import pytest

from mbti_ray.errors import DataError
from mbti_ray.typology import DIMENSIONS, POSITIVE_POLES, TYPES, labels_of, type_of

pytestmark = pytest.mark.unit


def test_dimensions_have_the_order_of_the_seed_with_e_n_t_j_positive():
    assert [d.name for d in DIMENSIONS] == ["E/I", "S/N", "T/F", "J/P"]
    assert [d.key for d in DIMENSIONS] == ["ei", "sn", "tf", "jp"]
    assert POSITIVE_POLES == ("E", "N", "T", "J")
    assert [d.negative for d in DIMENSIONS] == ["I", "S", "F", "P"]


def test_there_are_sixteen_types_and_no_other_combination():
    assert sorted(TYPES) == sorted("".join(t) for t in product("EI", "SN", "TF", "JP"))
    assert len(set(TYPES)) == 16


@pytest.mark.parametrize("mbti_type", TYPES)
def test_a_type_comes_back_from_its_labels(mbti_type):
    assert type_of(labels_of(mbti_type)) == mbti_type


@pytest.mark.parametrize(
    ("mbti_type", "labels"),
    [
        ("ENTJ", (1, 1, 1, 1)),
        ("ISFP", (0, 0, 0, 0)),
        ("INTP", (0, 1, 1, 0)),
        ("ESFJ", (1, 0, 0, 1)),
    ],
)
def test_a_label_is_one_for_the_positive_pole(mbti_type, labels):
    assert labels_of(mbti_type) == labels


def test_case_and_outer_spaces_do_not_matter():
    assert labels_of(" intJ\n") == labels_of("INTJ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("INXJ", 'type "INXJ" has no letter of T/F in place 3; allowed: T, F'),
        ("xxxx", 'type "xxxx" has no letter of E/I in place 1; allowed: E, I'),
        ("SNTJ", 'type "SNTJ" has no letter of E/I in place 1; allowed: E, I'),
        ("INTX", 'type "INTX" has no letter of J/P in place 4; allowed: J, P'),
        ("INT", 'type "INT" has 3 letters; allowed: 4, such as INTJ'),
        ("7", 'type "7" has 1 letter; allowed: 4, such as INTJ'),
        ("", 'type "" has 0 letters; allowed: 4, such as INTJ'),
    ],
)
def test_the_message_for_a_wrong_type_names_the_letter_and_what_is_allowed(given, message):
    with pytest.raises(DataError) as caught:
        labels_of(given)
    assert str(caught.value) == message


def test_labels_of_booleans_are_labels():
    assert type_of([False, True, True, False]) == "INTP"


@pytest.mark.parametrize("labels", [(1, 0, 1), (1, 0, 1, 0, 1)])
def test_other_than_four_labels_are_not_a_type(labels):
    with pytest.raises(ValueError, match="zip"):
        type_of(labels)
