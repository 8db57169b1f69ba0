"""The motion field on a drawn mesh, where every answer is known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

import synthetic
from mien import geometry, landmarks, motion
from mien.types import Rect

WHOLE = Rect(0, 0, 120, 120)


def cells(field: motion.MotionField) -> np.ndarray:
    """Centres of the grid's cells in pixels of the frame, ``(h, w, 2)``."""
    h, w = field.inside.shape
    r = field.region
    ys, xs = np.mgrid[:h, :w].astype(np.float64)
    x = r.x0 + (xs + 0.5) * (r.x1 - r.x0) / w - 0.5
    y = r.y0 + (ys + 0.5) * (r.y1 - r.y0) / h - 0.5
    return np.stack([x, y], -1)


def polygon(field: motion.MotionField, mesh: np.ndarray, ring: tuple[int, ...]) -> np.ndarray:
    canvas = np.zeros(field.inside.shape, np.uint8)
    p = field.to_grid(mesh[list(ring), :2])
    cv2.fillPoly(canvas, [np.round(p * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    return canvas > 0


# --- topology ---------------------------------------------------------------------------------


def test_sizes():
    topo = motion.topology()
    assert topo.surface == 852
    assert topo.filled == 852 + 14 + 14 + 18  # a ring of n is filled by n - 2
    assert len(topo.triangles) == topo.filled + 2 * 36
    assert set(topo.triangles[: topo.surface].ravel()) == set(range(468))
    assert topo.triangles.max() == 503


def directed(triangles: np.ndarray) -> Counter:
    return Counter(
        (int(t[i]), int(t[(i + 1) % 3])) for t in triangles for i in range(3)
    )  # fmt: skip


@pytest.mark.parametrize("part", ["surface", "filled", "all"])
def test_winding_is_consistent_and_only_the_outer_edge_is_open(part: str):
    """Neighbours that are wound alike run along their shared edge in opposite directions."""
    topo = motion.topology()
    count = {"surface": topo.surface, "filled": topo.filled, "all": len(topo.triangles)}[part]
    edges = directed(topo.triangles[:count])
    assert max(edges.values()) == 1
    open_edges = {e for e in edges if e[::-1] not in edges}
    rings = {
        "surface": (
            landmarks.OVAL, landmarks.LEFT_EYE, landmarks.RIGHT_EYE, landmarks.INNER_LIPS,
        ),
        "filled": (landmarks.OVAL,),
        "all": (tuple(range(468, 504)),),
    }[part]  # fmt: skip
    wanted = {frozenset((r[i - 1], r[i])) for r in rings for i in range(len(r))}
    assert {frozenset(e) for e in open_edges} == wanted


def test_mirror_is_an_involution_that_swaps_the_sides():
    mirror = motion.mirror()
    np.testing.assert_array_equal(mirror[mirror], np.arange(468))
    assert mirror[33] == 263
    assert mirror[61] == 291
    assert mirror[234] == 454
    for vertex in (10, 1, 13, 14, 152, 168):
        assert mirror[vertex] == vertex
    left = [int(mirror[v]) for v in landmarks.LEFT_EYE]
    assert left == list(landmarks.RIGHT_EYE)
    assert {int(mirror[v]) for v in landmarks.OVAL} == set(landmarks.OVAL)


def test_mirror_keeps_neighbours():
    topo = motion.topology()
    edges = {frozenset(e) for e in directed(topo.triangles[: topo.surface])}
    mirror = motion.mirror()
    mirrored = {frozenset(int(mirror[v]) for v in e) for e in edges}
    # A few squares are cut along the other diagonal on one side.
    assert len(edges & mirrored) > 0.95 * len(edges)


def test_the_skirt_goes_around_and_lies_behind():
    mesh = synthetic.mesh((50, 50), 80)
    wide = motion.extended(mesh)
    assert wide.shape == (504, 3)
    np.testing.assert_array_equal(wide[:468], mesh[:468])
    oval = mesh[list(landmarks.OVAL)]
    ring = wide[468:]
    centre = mesh[[33, 263, 1, 61, 291]].mean(0)
    np.testing.assert_allclose(
        (ring - centre)[:, :2], (oval - centre)[:, :2] * motion.SKIRT, rtol=1e-4, atol=1e-3
    )
    assert (ring[:, 2] > oval[:, 2]).all()


# --- the field --------------------------------------------------------------------------------


@pytest.mark.parametrize("pose", [{}, {"roll": 0.8}, {"yaw": 0.5}, {"roll": -2, "yaw": -0.4}])
def test_a_face_onto_itself_stays_where_it_is(pose):
    mesh = synthetic.mesh((62, 57), 90, **pose)
    field = motion.field(mesh, motion.extended(mesh), WHOLE)
    assert np.abs(field.lookup - cells(field)).max() < 0.1
    assert field.visible.min() > 0.99


def test_a_large_face_is_computed_on_a_coarse_grid_with_the_same_answer():
    mesh = synthetic.mesh((410, 300), 500)
    region = motion.region_of(mesh, 800, 600)
    field = motion.field(mesh, motion.extended(mesh), region)
    assert max(field.inside.shape) == motion.GRID
    assert field.lookup.shape == (*field.inside.shape, 2)
    assert np.abs(field.lookup - cells(field)).max() < 0.1
    finer = motion.field(mesh, motion.extended(mesh), region, grid=256)
    assert max(finer.inside.shape) == 256


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0, 31], [0, 1, -12]],
        [[2.5, 0, 0], [0, 2.5, 7]],
        [[0, -1, 200], [1, 0, 3]],
        [[0.6, -0.3, 50], [0.3, 0.6, 20]],
    ],
    ids=["shifted", "scaled", "turned", "all three"],
)
def test_a_moved_portrait_gives_the_moved_map(matrix):
    mesh = synthetic.mesh((60, 60), 90)
    portrait = geometry.transform(matrix, motion.extended(mesh))
    field = motion.field(mesh, portrait, WHOLE)
    wanted = geometry.transform(matrix, cells(field))
    assert np.abs(field.lookup - wanted).max() < 0.1
    assert field.visible.min() > 0.99


def test_an_expression_moves_only_what_moved():
    portrait = synthetic.mesh((60, 60), 90)
    target = portrait.copy()
    lips = [v for ring in (landmarks.INNER_LIPS, landmarks.OUTER_LIPS) for v in ring]
    target[lips, 1] += 4
    field = motion.field(target, motion.extended(portrait), WHOLE)
    away = field.lookup - cells(field)
    x, y = np.round(target[13, :2]).astype(int)
    np.testing.assert_allclose(away[y, x], (0, -4), atol=0.3)
    upper = field.inside[:55] > 0  # eyes and forehead
    assert np.abs(away[:55][upper]).max() < 0.1


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_frame_gives_the_turned_field(turns: int):
    mesh = synthetic.mesh((52, 66), 90)
    portrait = motion.extended(synthetic.mesh((100, 100), 150, yaw=0.3))
    upright = motion.field(mesh, portrait, WHOLE)
    turned = mesh.copy()
    for _ in range(turns):  # np.rot90 takes (x, y) to (y, 119 - x)
        turned[:, 0], turned[:, 1] = turned[:, 1].copy(), 119 - turned[:, 0]
    field = motion.field(turned, portrait, WHOLE)
    same = np.abs(field.lookup - np.rot90(upright.lookup, turns)).max(-1)
    # A pixel on the edge of two triangles may go to either.
    assert np.percentile(same, 99) < 0.1
    assert (field.inside != np.rot90(upright.inside, turns)).mean() < 0.005
    np.testing.assert_allclose(field.visible, np.rot90(upright.visible, turns), atol=0.15)


@pytest.mark.parametrize("height", [30, 60, 110])
@pytest.mark.parametrize("pose", [{}, {"roll": 1.1}, {"yaw": 0.6}])
def test_inside_is_the_face_with_eyes_and_mouth_and_without_holes(height, pose):
    mesh = synthetic.mesh((60, 60), height, **pose)
    field = motion.field(mesh, motion.extended(mesh), WHOLE)
    inside = field.inside > 0
    assert set(np.unique(field.inside)) == {0, 255}
    oval = polygon(field, mesh, landmarks.OVAL)
    grown = cv2.dilate(oval.astype(np.uint8), np.ones((3, 3))) > 0
    shrunk = cv2.erode(oval.astype(np.uint8), np.ones((3, 3))) > 0
    assert (inside | ~shrunk).all()
    if not pose.get("yaw"):  # turned aside, the cheek stands out over the contour's vertices
        assert (grown | ~inside).all()
    for ring in (landmarks.LEFT_EYE, landmarks.RIGHT_EYE, landmarks.INNER_LIPS):
        assert inside[polygon(field, mesh, ring)].all()
    holes = cv2.connectedComponents((~inside).astype(np.uint8), connectivity=4)[0]
    assert holes == 2  # the face and one surrounding


@pytest.mark.parametrize("yaw", [0, 0.7, 1.1, -1.3])
def test_inside_is_what_faces_the_viewer_and_the_skirt_covers_none_of_it(yaw: float):
    mesh = synthetic.mesh((60, 60), 110, yaw=yaw)
    portrait = motion.extended(synthetic.mesh((60, 60), 110))
    field = motion.field(mesh, portrait, WHOLE)
    topo = motion.topology()
    area = geometry.signed_areas(mesh, topo.triangles[: topo.filled])
    facing = np.zeros((120, 120), np.uint8)
    for corners in topo.triangles[: topo.filled][area < 0]:  # clockwise, as y runs down
        cv2.fillConvexPoly(facing, np.round(mesh[corners, :2] * 16).astype(np.int32), 255, 8, 4)
    sure = cv2.erode(facing, np.ones((3, 3))) > 0
    possible = cv2.dilate(facing, np.ones((3, 3))) > 0
    inside = field.inside > 0
    assert sure.sum() > 1000
    assert inside[sure].mean() > 0.995
    assert not inside[~possible].any()
    # What is drawn there comes from the portrait's face, none of it from beyond its contour.
    x, y = np.round(field.lookup[sure]).astype(int).T
    wide = cv2.dilate(polygon(field, portrait, landmarks.OVAL).astype(np.uint8), np.ones((3, 3)))
    assert wide[np.clip(y, 0, 119), np.clip(x, 0, 119)].mean() > 0.99


def at(field: motion.MotionField, mesh: np.ndarray, vertex: int) -> float:
    x, y = np.round(field.to_grid(mesh[vertex])[:2]).astype(int)
    return float(field.visible[y, x])


@pytest.mark.parametrize("side", [-1, 1])
def test_the_far_side_of_a_turned_portrait_is_hidden(side: int):
    target = synthetic.mesh((60, 60), 100)
    portrait = motion.extended(synthetic.mesh((60, 60), 100, yaw=side * 1.1))
    hidden, shown = (447, 227) if side > 0 else (227, 447)
    field = motion.field(target, portrait, WHOLE)
    # Which side turns away follows from the mesh: the one whose triangles shrink or flip.
    assert at(field, target, hidden) < 0.2
    assert at(field, target, shown) > 0.9


def test_a_collapsed_patch_is_hidden_and_the_rest_is_seen():
    target = synthetic.mesh((60, 60), 100)
    portrait = synthetic.mesh((60, 60), 100)
    cheek = np.linalg.norm(target[:468, :2] - target[50, :2], axis=1) < 16
    portrait[np.flatnonzero(cheek)] = portrait[50]
    field = motion.field(target, motion.extended(portrait), WHOLE)
    assert at(field, target, 50) < 0.05
    assert at(field, target, 280) > 0.98
    assert at(field, target, 10) > 0.98


def test_a_patch_turned_over_is_hidden():
    target = synthetic.mesh((60, 60), 100)
    portrait = synthetic.mesh((60, 60), 100)
    cheek = np.flatnonzero(np.linalg.norm(target[:468, :2] - target[50, :2], axis=1) < 16)
    portrait[cheek, 0] = 2 * portrait[50, 0] - portrait[cheek, 0]
    field = motion.field(target, motion.extended(portrait), WHOLE)
    assert at(field, target, 50) < 0.05
    assert at(field, target, 280) > 0.98


def test_a_mirrored_portrait_is_seen_as_a_whole():
    """Wound the other way all over, nothing of it is turned away."""
    target = synthetic.mesh((60, 60), 110)
    portrait = motion.extended(target) * np.array([-1, 1, 1], np.float32)
    assert motion.field(target, portrait, WHOLE).visible.min() > 0.99


def test_a_smaller_portrait_is_seen_as_a_whole():
    """Size alone hides nothing: areas are compared with what is typical of the pair."""
    target = synthetic.mesh((60, 60), 110)
    field = motion.field(target, motion.extended(synthetic.mesh((9, 9), 12)), WHOLE)
    assert field.visible.min() > 0.95


def test_the_near_side_covers_the_far_one():
    """In a strong profile triangles overlap; the map must be that of the nearer."""
    mesh = synthetic.mesh((60, 60), 100, yaw=1.0)
    portrait = motion.extended(synthetic.mesh((100, 100), 100))
    field = motion.field(mesh, portrait, WHOLE)
    nose = np.round(mesh[1, :2]).astype(int)
    off = field.lookup[nose[1], nose[0]] - portrait[1, :2]
    assert np.abs(off).max() < 3


# --- region -----------------------------------------------------------------------------------


def test_region_holds_the_face_and_little_more():
    mesh = synthetic.mesh((200, 150), 100)
    region = motion.region_of(mesh, 400, 300)
    x0, y0, x1, y1 = geometry.bounds(mesh)
    assert region.x0 <= x0
    assert region.y0 <= y0
    assert region.x1 > x1
    assert region.y1 > y1
    assert region.x1 - region.x0 < 1.2 * (x1 - x0)
    assert region.y1 - region.y0 < 1.2 * (y1 - y0)


@pytest.mark.parametrize(
    ("centre", "wanted"),
    [
        ((0, 150), lambda r: r.x0 == 0 and 0 < r.x1 < 60),
        ((400, 150), lambda r: r.x1 == 400 and 340 < r.x0 < 400),
        ((200, 0), lambda r: r.y0 == 0 and 0 < r.y1 < 70),
        ((200, 300), lambda r: r.y1 == 300 and 230 < r.y0 < 300),
        ((-200, 150), lambda r: r.empty),
        ((200, 600), lambda r: r.empty),
    ],
)
def test_region_is_clipped_to_the_frame(centre, wanted):
    assert wanted(motion.region_of(synthetic.mesh(centre, 100), 400, 300))


def test_a_face_half_out_of_view_has_the_field_of_the_whole_one():
    mesh = synthetic.mesh((10, 60), 90)
    portrait = motion.extended(synthetic.mesh((200, 200), 300))
    region = motion.region_of(mesh, 120, 120)
    part = motion.field(mesh, portrait, region)
    moved = mesh + np.array([50, 0, 0], np.float32)
    whole = motion.field(moved, portrait, WHOLE)
    cut = whole.lookup[region.y0 : region.y1, region.x0 + 50 : region.x1 + 50]
    assert region.x0 == 0
    inside = part.inside > 0
    assert np.percentile(np.abs(part.lookup - cut)[inside], 99) < 0.1


def test_grid_coordinates_are_those_of_cell_centres():
    mesh = synthetic.mesh((300, 220), 380)
    region = Rect(100, 20, 500, 420)
    field = motion.field(mesh, motion.extended(mesh), region)
    centres = cells(field)
    h, w = field.inside.shape
    assert field.scale == (w / 400, h / 400)
    np.testing.assert_allclose(field.to_grid(centres[7, 31].astype(np.float32)), (31, 7), atol=1e-3)
    np.testing.assert_allclose(field.to_grid(centres[0, 0].astype(np.float32)), (0, 0), atol=1e-3)


@pytest.mark.media
def test_a_real_mesh_onto_itself(footage: Path):
    from mien import detect, media
    from mien.types import Frame

    image = media.read_image(footage / "portraits" / "lp_d9.jpg")
    frame = Frame(image)
    (face,) = landmarks.load()(frame, detect.load().thorough(image)[:1])
    region = motion.region_of(face.mesh, image.shape[1], image.shape[0])
    field = motion.field(face.mesh, motion.extended(face.mesh), region)
    off = np.abs(field.lookup - cells(field)).max(-1)
    assert np.percentile(off, 99) < 0.5
    assert cv2.connectedComponents((field.inside == 0).astype(np.uint8), connectivity=4)[0] <= 5


# --- cover, through, mirrored, aligned --------------------------------------------------------


def test_a_field_is_a_cover_seen_through():
    target, portrait = synthetic.mesh((60, 58), 90, yaw=0.3), synthetic.mesh((40, 40), 60)
    cover = motion.cover(target, WHOLE)
    assert cover.hit.shape == (120, 120)
    assert cover.mesh.shape == (504, 3)
    one = motion.through(cover, motion.extended(portrait))
    other = motion.field(target, motion.extended(portrait), WHOLE)
    np.testing.assert_array_equal(one.lookup, other.lookup)
    np.testing.assert_array_equal(one.stretch, other.stretch)
    filled = (cover.hit >= 0) & (cover.hit < motion.topology().filled)
    np.testing.assert_array_equal(one.inside > 0, filled)


def test_stretch_is_one_on_a_face_of_any_size_and_less_where_it_is_turned_away():
    target = synthetic.mesh((60, 58), 90)
    cover = motion.cover(target, WHOLE)
    same = motion.through(cover, motion.extended(synthetic.mesh((200, 180), 300)))
    assert np.abs(same.stretch - 1).max() < 0.02
    turned = motion.through(cover, motion.extended(synthetic.mesh((60, 58), 90, yaw=0.6)))
    assert turned.stretch.min() >= -0.5
    assert turned.stretch.max() <= 2
    right, left = (turned.stretch[58, int(target[v, 0])] for v in (454, 234))
    assert abs(right - left) > 0.3


def test_mirrored_is_the_reflection_on_a_symmetric_face():
    mesh = synthetic.mesh((59.5, 59.5), 90)
    cover = motion.cover(mesh, WHOLE)
    lookup = motion.mirrored(cover)
    assert lookup.shape == (60, 60, 2)
    on = cover.hit[::2, ::2] >= 0
    ys, xs = np.nonzero(on)
    np.testing.assert_allclose(lookup[on], np.stack([59 - xs, ys], 1), atol=0.1)
    ys, xs = np.nonzero(~on)
    np.testing.assert_array_equal(lookup[~on], np.stack([xs, ys], 1))


@pytest.mark.parametrize("pose", [{}, {"roll": 0.9}, {"roll": -2.0}])
def test_aligned_is_upright_centred_and_has_its_margin(pose):
    mesh = synthetic.mesh((310, 240), 170, **pose)
    matrix = motion.aligned(mesh)
    seen = geometry.transform(matrix, mesh)
    low, high = seen[:468, :2].min(0), seen[:468, :2].max(0)
    np.testing.assert_allclose((low + high) / 2, 63.5, atol=0.6)
    assert (high - low).max() == pytest.approx(128 / 1.3, rel=0.01)
    assert seen[33, 1] == pytest.approx(seen[263, 1], abs=0.3)
    assert seen[33, 0] < seen[263, 0]
    half = geometry.transform(motion.aligned(mesh, 64), mesh)
    np.testing.assert_allclose(half[:, :2] + 0.5, (seen[:, :2] + 0.5) / 2, atol=0.01)
