"""Fits, matrices and rasterising, against known answers, round trips and a slow reference."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mien import geometry
from mien.types import Rect

relaxed = settings(deadline=None)  # the machine may be busy
coordinate = st.floats(-200, 200, allow_nan=False, width=32)
angle = st.floats(-3.1, 3.1)
scale = st.floats(0.05, 20)


def points(low: int, high: int = 12):
    return st.lists(st.tuples(coordinate, coordinate), min_size=low, max_size=high).map(np.array)


def similar(turn: float, size: float, x: float, y: float) -> np.ndarray:
    c, s = size * np.cos(turn), size * np.sin(turn)
    return np.array([[c, -s, x], [s, c, y]])


def mapped(matrix: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.array([matrix @ (x, y, 1) for x, y in p])


@relaxed
@given(p=points(2), turn=angle, size=scale, x=coordinate, y=coordinate)
def test_similarity_finds_the_map_that_was_applied(p, turn, size, x, y):
    assume(np.ptp(p, axis=0).max() > 1)
    true = similar(turn, size, x, y)
    found = geometry.similarity(p, mapped(true, p))
    np.testing.assert_allclose(found, true, atol=1e-6 * (1 + size * 200))


def test_similarity_has_no_reflection_and_is_least_squares():
    corners = np.array([[0, 0], [2, 0], [2, 1], [0, 1]], float)
    found = geometry.similarity(corners, corners * (-1, 1))
    assert np.linalg.det(found[:, :2]) > 0
    # Three corners agree on doubling, one lies 1 off: no map nearby does better.
    wanted = corners * 2 + [[0, 0], [0, 0], [0, 0], [1, 0]]
    found = geometry.similarity(corners, wanted)

    def cost(m):
        return ((mapped(m, corners) - wanted) ** 2).sum()

    rng = np.random.default_rng(0)
    for _ in range(50):
        k, t = rng.normal(0, 0.02, 2), rng.normal(0, 0.02, 2)
        other = found + np.array([[k[0], -k[1], t[0]], [k[1], k[0], t[1]]])
        assert cost(other) >= cost(found)


def test_similarity_of_one_point_is_an_error():
    with pytest.raises(ValueError, match="two different points"):
        geometry.similarity([[3, 3], [3, 3]], [[1, 2], [3, 4]])


@relaxed
@given(p=points(3), m=st.lists(coordinate, min_size=6, max_size=6))
def test_affine_finds_the_map_that_was_applied(p, m):
    spread = np.linalg.svd(p - p.mean(0), compute_uv=False)
    assume(spread[1] > 1)
    true = np.array(m).reshape(2, 3)
    found = geometry.affine(p, mapped(true, p))
    np.testing.assert_allclose(mapped(found, p), mapped(true, p), rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(found[:, :2], true[:, :2], rtol=1e-5, atol=1e-4)


@relaxed
@given(p=points(1), turn=angle, size=scale, x=coordinate, y=coordinate, shear=st.floats(-2, 2))
def test_invert_undoes_transform(p, turn, size, x, y, shear):
    matrix = similar(turn, size, x, y)
    matrix[:, 1] += shear * matrix[:, 0]
    there = geometry.transform(matrix, p)
    np.testing.assert_allclose(there, mapped(matrix, p), rtol=1e-5, atol=1e-3)
    back = geometry.transform(geometry.invert(matrix), there.astype(np.float64))
    np.testing.assert_allclose(back, p, atol=2e-2)


def test_transform_scales_depth_and_keeps_shape():
    quarter = similar(np.pi / 2, 3, 10, 20)
    p = np.array([[[1, 0, 5], [0, 2, -1]]], np.float32)
    out = geometry.transform(quarter, p)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [[[10, 23, 15], [4, 20, -3]]], atol=1e-5)


@relaxed
@given(cx=coordinate, cy=coordinate, side=st.floats(4, 500), turn=angle, size=st.integers(8, 300))
def test_square_crop_puts_the_square_onto_the_pixels(cx, cy, side, turn, size):
    matrix = geometry.square_crop((cx, cy), side, turn, size)
    along = np.array([np.cos(turn), np.sin(turn)])
    down = np.array([-np.sin(turn), np.cos(turn)])
    centre = np.array([cx, cy])
    middle = (size - 1) / 2
    got = geometry.transform(matrix, [centre, centre + along * side / 2, centre + down * side / 2])
    wanted = [[middle, middle], [middle + size / 2, middle], [middle, middle + size / 2]]
    np.testing.assert_allclose(got, wanted, atol=2e-2 * size / side + 1e-2)
    assert np.linalg.det(matrix[:, :2]) == pytest.approx((size / side) ** 2)


def test_bounds():
    found = geometry.bounds([[3, 9, 1], [-2, 4, 8], [5, 5, 5]])
    assert found.tolist() == [-2, 4, 5, 9]


def test_overlap_known_answers():
    a = [[0, 0, 10, 10], [100, 100, 110, 110]]
    b = [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [7, 7, 7, 7]]
    found = geometry.overlap(a, b)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[1, 1 / 3, 0, 0.04, 0], [0] * 5], atol=1e-6)
    assert geometry.overlap([3, 3, 3, 3], [3, 3, 3, 3]).tolist() == [[0]]


@relaxed
@given(a=points(2, 2), b=points(2, 2))
def test_overlap_is_symmetric_and_bounded(a, b):
    box, other = (np.concatenate([p.min(0), p.max(0)]) for p in (a, b))
    there, back = geometry.overlap(box, other)[0, 0], geometry.overlap(other, box)[0, 0]
    assert there == pytest.approx(back, abs=1e-5)
    assert 0 <= there <= 1.0001


def test_signed_areas_know_the_winding():
    p = np.array([[0, 0, 9], [4, 0, 9], [0, 3, 9]], np.float32)
    assert geometry.signed_areas(p, np.array([[0, 1, 2], [0, 2, 1], [0, 0, 1]])).tolist() == [
        12, -12, 0,
    ]  # fmt: skip


# --- rasterising ------------------------------------------------------------------------------


def slow(p, triangles, depth, width, height):
    """Pixel by pixel: the nearest triangle, and whether the pixel is too near an edge to say."""
    out = np.full((height, width), -1)
    doubt = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            best = np.inf
            for t, corners in enumerate(triangles):
                (ax, ay), (bx, by), (cx, cy) = p[corners, :2].astype(float)
                area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
                if abs(area) < 1e-3:
                    continue
                u = ((x - ax) * (cy - ay) - (cx - ax) * (y - ay)) / area
                v = ((bx - ax) * (y - ay) - (x - ax) * (by - ay)) / area
                least = min(u, v, 1 - u - v)
                doubt[y, x] |= abs(least) < 2e-3
                if least >= 0 and depth[t] < best:
                    best, out[y, x] = depth[t], t
    return out, doubt


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_rasterise_agrees_with_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    p = rng.uniform(-6, 18, (9, 2)).astype(np.float32)  # beyond every border of the grid
    triangles = rng.integers(0, 9, (8, 3))  # some of them without area
    depth = rng.permutation(8).astype(np.float32)
    got = geometry.rasterise(p, triangles, depth, 13, 10)
    wanted, doubt = slow(p, triangles, depth, 13, 10)
    assert got.shape == (10, 13)
    np.testing.assert_array_equal(got[~doubt], wanted[~doubt])


@pytest.mark.parametrize("flip", [False, True])
def test_the_nearest_of_two_triangles_stays(flip):
    p = np.array([[0, 0], [9, 0], [0, 9], [9, 9]], np.float32)
    triangles = np.array([[0, 1, 2], [0, 1, 3]])
    depth = np.array([1.0, 2.0], np.float32)
    if flip:
        depth = depth[::-1].copy()
    hit = geometry.rasterise(p, triangles, depth, 10, 10)
    assert hit[2, 4] == (1 if flip else 0)  # both cover it
    assert hit[5, 1] == 0
    assert hit[5, 8] == 1
    assert hit[9, 4] == -1


def test_two_triangles_of_a_square_leave_no_gap():
    """Pixels on the shared edge and on the square's own border belong to it."""
    p = np.array([[1, 1], [7, 1], [7, 7], [1, 7]], np.float32)
    hit = geometry.rasterise(p, np.array([[0, 1, 2], [0, 2, 3]]), np.zeros(2, np.float32), 9, 9)
    wanted = np.zeros((9, 9), bool)
    wanted[1:8, 1:8] = True
    np.testing.assert_array_equal(hit >= 0, wanted)


@pytest.mark.parametrize(
    "corners", [[(3, 3)] * 3, [(1, 1), (4, 4), (7, 7)], [(-9, -9), (-5, -9), (-9, -5)]]
)
def test_degenerate_and_unseen_triangles_cover_nothing(corners):
    p = np.array(corners, np.float32)
    hit = geometry.rasterise(p, np.array([[0, 1, 2]]), np.zeros(1, np.float32), 8, 6)
    assert hit.shape == (6, 8)
    assert (hit == -1).all()


def test_a_triangle_far_larger_than_the_grid_covers_all_of_it():
    p = np.array([[-1e4, -1e4], [3e4, -1e4], [-1e4, 3e4]], np.float32)
    hit = geometry.rasterise(p, np.array([[0, 1, 2]]), np.zeros(1, np.float32), 8, 6)
    assert (hit == 0).all()


@relaxed
@given(src=points(3, 3), dst=points(3, 3))
def test_triangle_maps_take_corners_to_corners(src, dst):
    src, dst = src.astype(np.float32), dst.astype(np.float32)
    first, second = src[1] - src[0], src[2] - src[0]
    assume(abs(first[0] * second[1] - first[1] * second[0]) > 50)
    (m,) = geometry.triangle_maps(src, dst, np.array([[0, 1, 2]]))
    assert m.dtype == np.float32
    # In float32, with coordinates in the hundreds and slopes up to some tens.
    tolerance = 1e-4 * (1 + np.abs(m[:, :2]).max() * 200)
    np.testing.assert_allclose(mapped(m, src), dst, atol=tolerance)


def test_triangle_maps_of_several_and_of_a_degenerate_one():
    src = np.array([[0, 0], [2, 0], [0, 2], [4, 0]], np.float32)
    dst = np.array([[5, 5], [9, 5], [5, 7], [1, 1]], np.float32)
    maps = geometry.triangle_maps(src, dst, np.array([[0, 1, 2], [2, 1, 0], [0, 1, 3]]))
    np.testing.assert_allclose(maps[0], [[2, 0, 5], [0, 1, 5]], atol=1e-6)
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-6)
    np.testing.assert_allclose(maps[2], [[0, 0, 5], [0, 0, 5]])


@pytest.mark.parametrize("zoom", [0.7, 1.7, 2.6, 4.8, 9.0])
@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_a_block_of_an_enlarged_map_is_that_part_of_the_whole(zoom: float, turn: float):
    rng = np.random.default_rng(3)
    values = cv2.GaussianBlur(rng.normal(size=(40, 40, 2)).astype(np.float32), (0, 0), 3)
    c, s = np.cos(turn) * zoom, np.sin(turn) * zoom
    matrix = np.array([[c, -s, 5.0], [s, c, -3.0]])
    made = geometry.Enlarged(values, matrix, (150, 110))
    whole = made.block(Rect(0, 0, 150, 110))
    assert whole.shape == (110, 150, 2)
    for rect in (Rect(0, 0, 150, 48), Rect(37, 48, 111, 96), Rect(149, 109, 150, 110)):
        np.testing.assert_allclose(made.block(rect), whole[rect.slices()], atol=1e-5)
    # Where it is not the rim that goes on, it is the map at that place, cubic or linear.
    at = np.array([[70.0, 50.0], [81.0, 44.0]])
    cells = geometry.transform(geometry.invert(matrix), at)
    inner = (cells > 3).all(1) & (cells < 36).all(1)
    want = cv2.remap(values, cells[:, :1], cells[:, 1:], cv2.INTER_CUBIC)[:, 0]
    got = np.array([whole[int(y), int(x)] for x, y in at])
    np.testing.assert_allclose(got[inner], want[inner], atol=0.02)


@pytest.mark.parametrize("zoom", [1.0, 2.6, 4.8])
def test_a_map_that_is_fine_enough_is_linear_all_the_way(zoom: float):
    values = cv2.GaussianBlur(
        np.random.default_rng(3).normal(size=(40, 40)).astype(np.float32), (0, 0), 3
    )
    matrix = np.array([[zoom, 0.0, 2.0], [0.0, zoom, -1.0]])
    whole = geometry.Enlarged(values, matrix, (90, 80), fine=True).block(Rect(0, 0, 90, 80))
    want = cv2.warpAffine(values, matrix, (90, 80), borderMode=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(whole, want, atol=0.03)


def test_places_are_affine_to_the_last_pixel():
    matrix = np.array([[5.0, 0.0, 2.0], [0.0, 5.0, -1.0]])
    lookup = geometry.places(np.array([[1.5, 0.2, 3.0], [-0.1, 1.1, 7.0]]), 40, 40)
    made = geometry.enlarged_places(lookup, matrix, (190, 170)).block(Rect(0, 0, 190, 170))
    back = geometry.compose(np.array([[1.5, 0.2, 3.0], [-0.1, 1.1, 7.0]]), geometry.invert(matrix))
    np.testing.assert_allclose(made, geometry.places(back, 190, 170), atol=1e-3)


def test_blocks_reach_all_that_a_mask_reaches_and_leave_out_corners():
    where = np.zeros((64, 64), bool)
    yy, xx = np.mgrid[:64, :64]
    where[(xx - 32) ** 2 + (yy - 32) ** 2 < 20**2] = True
    matrix = np.array([[7.0, 0.0, 30.0], [0.0, 7.0, 10.0]])
    size = (500, 480)
    seen = cv2.warpAffine(where.astype(np.uint8), matrix, size) > 0
    covered = np.zeros(size[::-1], bool)
    for rect in geometry.blocks(where, matrix, size):
        assert not rect.empty
        assert not covered[rect.slices()].any()
        covered[rect.slices()] = True
    assert covered[seen].all()
    assert covered.mean() < 0.85 * (280 + 60) ** 2 / (500 * 480) + 0.15
