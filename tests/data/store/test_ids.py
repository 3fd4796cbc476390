import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sohes.data.store.ids import Ids, distinct
from sohes.errors import SohesError
from sohes.masks import empty_mask_set
from sohes.structures import ImageRecord


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40), st.lists(st.integers(-50, 50), max_size=9))
def test_every_id_is_found_where_it_stands_and_no_other_is(drawn: list[int], others: list[int]) -> None:
    for in_order in (list(dict.fromkeys(drawn)), sorted(set(drawn))):
        ids = Ids(np.array(in_order, np.int64))
        rows = dict(zip(in_order, range(len(in_order)), strict=True))
        assert [ids.row(image_id) for image_id in (*in_order, *others)] == [rows.get(i) for i in (*in_order, *others)]
        assert (len(ids), ids.in_order.tolist(), ids.twice()) == (len(rows), in_order, None)


def test_an_id_that_occurs_twice_is_named() -> None:
    assert Ids(np.array([5, 9, 5, 7, 9])).twice() == 5
    assert Ids(np.array([5, 7, 7])).twice() == 7


def test_the_ids_of_a_column_are_its_numbers_in_order_and_all_there() -> None:
    assert Ids.of_column(pa.chunked_array([[3, 1], [], [2]], pa.int64())).in_order.tolist() == [3, 1, 2]
    assert len(Ids.of_column(pa.chunked_array([], pa.int64()))) == 0
    with pytest.raises(ValueError, match="an image has no id"):
        Ids.of_column(pa.chunked_array([[3, None]], pa.int64()))


def test_nobody_can_change_them() -> None:
    given_ids = np.array([1, 2])
    with pytest.raises(ValueError, match="read-only"):
        Ids(given_ids).in_order[0] = 9
    given_ids[0] = 0  # the caller's own array stays as it was


def test_records_pass_until_one_has_the_id_of_another() -> None:
    records = [ImageRecord(number, f"{place}.jpg", "", empty_mask_set(1, 1)) for place, number in enumerate((7, 2, 7))]
    assert list(distinct(records[:2])) == records[:2]
    passed = distinct(records)
    assert [next(passed), next(passed)] == records[:2]
    with pytest.raises(SohesError, match=r"image id 7 occurs twice, the second time for 2\.jpg"):
        next(passed)
