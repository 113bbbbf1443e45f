"""Category ids, rows of the classification head, and ids in the user's files."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from util.category_ids import CategoryIds, category_id_of


@given(st.integers(0, 10**18 - 1))
def test_decimal_text_stands_for_its_number(number):
    assert category_id_of(str(number)) == category_id_of(number) == number


@pytest.mark.parametrize(
    "text", ["", "01", "-1", "1.0", "1e3", "½", "١", "9" * 19, "cell", "\ud800"]
)
def test_other_text_stands_for_a_number_of_32_bits(text):
    assert 0 <= category_id_of(text) < 2**32


own_ids = st.lists(
    st.one_of(st.integers(0, 10**6), st.text(min_size=1)), min_size=1, unique_by=category_id_of
)


@given(own_ids)
def test_rows_and_ids_there_and_back(own):
    ids = CategoryIds(tuple(own))
    rows = ids.rows_of(torch.tensor(ids.by_row))
    assert rows.tolist() == list(range(len(own)))
    assert [ids.text_ids().get(i, i) for i in ids.by_row] == own


@given(own_ids)
def test_what_a_checkpoint_holds(own):
    ids = CategoryIds(tuple(own))
    assert CategoryIds.read(ids.saved(), len(own)) == ids


def test_row_numbers_are_not_saved():
    assert CategoryIds((0, 1, 2)).saved() is None and CategoryIds((0, 1, 2)).are_rows
    assert CategoryIds.read(None, 3) == CategoryIds((0, 1, 2))
    assert CategoryIds((0, "1")).saved() == [0, "1"] and CategoryIds((0, "1")).are_rows
    assert not CategoryIds((1, 0)).are_rows


@pytest.mark.parametrize(
    ("saved", "complaint"),
    [
        ([1, 2], "list of 3 ids"),
        ({1: 2}, "list of 3 ids"),
        ([1, 2, 2], "twice"),
        ([1, 2, "2"], "twice"),
        ([1, 2, None], "integers and strings"),
        ([1, 2, True], "integers and strings"),
    ],
)
def test_what_is_no_list_of_ids(saved, complaint):
    with pytest.raises(ValueError, match=complaint):
        CategoryIds.read(saved, 3)


def test_rows_of_no_labels():
    rows = CategoryIds((7, 3)).rows_of(torch.zeros(0, dtype=torch.int64))
    assert rows.shape == (0,) and rows.dtype == torch.int64


def test_an_id_without_a_row():
    with pytest.raises(KeyError, match="4"):
        CategoryIds((7, 3)).rows_of(torch.tensor([7, 4]))
