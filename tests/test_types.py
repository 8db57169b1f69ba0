"""Rectangles and what a frame remembers."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import synthetic
from mien.types import Frame, Rect

relaxed = settings(deadline=None)  # the machine may be busy
numbers = st.integers(-40, 140)


def frame(width: int, height: int) -> Frame:
    return Frame(np.zeros((height, width, 3), np.uint8))


@pytest.mark.parametrize(
    ("rect", "grown"),
    [
        (Rect(3, 5, 7, 9), (2, 4, 8, 10)),
        (Rect(2, 4, 8, 10), (2, 4, 8, 10)),
        (Rect(-3, -1, 3, 3), (0, 0, 4, 4)),
        (Rect(90, 40, 101, 51), (90, 40, 101, 51)),  # an odd frame ends at an odd pixel
        (Rect(97, 47, 300, 300), (96, 46, 101, 51)),
    ],
)
def test_even_known_answers(rect, grown):
    assert rect.even(101, 51) == grown


@relaxed
@given(x0=numbers, y0=numbers, x1=numbers, y1=numbers, step=st.sampled_from([2, 4, 16]))
def test_even_covers_what_is_in_the_frame_and_no_more_than_a_step(x0, y0, x1, y1, step):
    width, height = 97, 63
    rect = Rect(x0, y0, x1, y1)
    seen = np.zeros((height, width), bool)
    if not rect.empty:
        seen[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    grown = rect.even(width, height, step)
    covered = np.zeros((height, width), bool)
    if not grown.empty:
        assert grown.x0 >= 0
        assert grown.y0 >= 0
        assert grown.x0 % step == 0
        assert grown.y0 % step == 0
        assert grown.x1 % step == 0 or grown.x1 == width
        assert grown.y1 % step == 0 or grown.y1 == height
        covered[grown.slices()] = True
    assert (covered | ~seen).all()
    if seen.any():
        assert grown.x1 - grown.x0 < x1 - x0 + 2 * step
        assert grown.y1 - grown.y0 < y1 - y0 + 2 * step


def test_slices_take_rows_then_columns():
    image = np.arange(12).reshape(3, 4)
    assert image[Rect(1, 0, 3, 2).slices()].tolist() == [[1, 2], [5, 6]]


@pytest.mark.parametrize("rect", [Rect(5, 5, 5, 9), Rect(5, 5, 9, 5), Rect(6, 5, 5, 9)])
def test_empty(rect):
    assert rect.empty
    assert not Rect(5, 5, 6, 6).empty


def test_dirty_rectangles_are_even_inside_the_frame_and_kept_apart():
    one, other = frame(31, 21), frame(31, 21)
    one.mark_dirty(Rect(3, 3, 5, 5))
    one.mark_dirty(Rect(29, 19, 90, 90))
    one.mark_dirty(Rect(40, 3, 60, 5))  # out of view
    one.mark_dirty(Rect(-9, -9, -1, -1))
    assert one.dirty == [Rect(2, 2, 6, 6), Rect(28, 18, 31, 21)]
    assert other.dirty == []


def test_an_identity_is_itself_alone_and_may_be_forgotten():
    """Generators key what they prepared by it; arrays inside have no truth value to compare."""
    one, same = synthetic.identity(64), synthetic.identity(64)
    assert one != same
    assert len({one, same, one}) == 2
    ghost = weakref.ref(one)
    del one
    gc.collect()
    assert ghost() is None
