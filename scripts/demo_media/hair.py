"""Hair: thousands of strands that grow from the scalp, fall, gather and shine."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from demo_media.head import EYE, SKIN, Head, Pose, smooth, unit
from mien.types import Floats


@dataclass(frozen=True)
class Cut:
    """A way to wear hair.

    Attributes:
        style: ``cropped``, ``short`` or ``long``.
        colour: RGB.
        strands: How many.
        length: Of long hair, decimetres.
        wave: Width of the waves of long hair, decimetres.
        shine: Strength of the highlights.
        part: x of the parting.
    """

    style: str
    colour: tuple[int, int, int]
    strands: int = 30000
    length: float = 1.8
    wave: float = 0
    shine: float = 0.45
    part: float = 0.3


def scalp(points: Floats) -> Floats:
    """0..1, how densely hair grows at ``(N, 3)`` points of a head at rest."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    depth = [-0.6, -0.3, 0.0, 0.18, 0.24, 0.5, 0.56, 0.64, 0.72, 0.80, 0.95, 1.1, 1.4]
    line = [6.72, 6.75, 7.1, 7.48, 7.62, 7.62, 7.36, 7.28, 7.58, 7.9, 8.06, 8.1, 8.1]
    edge = np.interp(z, depth, line) - 0.05 * smooth(0.7, 0.95, z)
    edge += 0.03 * np.sin(23 * x + 1) * (z > 0.7) - 0.02 * np.sin(61 * x + 47 * z)
    wide = 0.10 + 0.08 * smooth(0.6, 0.9, z)
    return smooth(-0.35, 0.75, (y - edge) / wide)


@dataclass(frozen=True)
class Hair:
    """Strands in the head's own space.

    Attributes:
        strands: ``(S, K, 3)``, from the root to the tip.
        layer: ``(S,)`` 0 next to the scalp, 1 on top.
        cut: How it is worn.
    """

    strands: Floats
    layer: Floats
    cut: Cut

    def colours(self, posed: Floats, light: Floats, middle: Floats) -> Floats:
        """``(S, K - 1, 3)`` RGB: Kajiya and Kay, "Rendering fur" (1989), and soft occlusion.

        Args:
            posed: The strands where they are now.
            light: ``(3,)`` towards the light.
            middle: ``(3,)`` of the head, from which hair faces away.
        """
        rng = np.random.default_rng(5)
        count = len(posed)
        tangent = unit(posed[:, 1:] - posed[:, :-1])
        half = unit(light + np.array([0, 0, 1.0]))
        along, shiny = tangent @ light, tangent @ half
        diffuse = np.sqrt(np.clip(1 - along**2, 0, 1))
        gloss = np.sqrt(np.clip(1 - shiny**2, 0, 1))
        away = (posed[:, 1:] + posed[:, :-1]) / 2 - middle
        away[..., 1] *= np.where(away[..., 1] < 0, 0.25, 1)
        lit = 0.35 + 0.65 * np.clip((unit(away) @ light + 0.35) / 1.35, 0, 1)
        t = np.linspace(0, 1, tangent.shape[1])
        open_ = 0.4 + 0.6 * np.clip(0.75 * self.layer[:, None] + 0.35 * t, 0, 1)
        vary = 1 + 0.16 * rng.standard_normal((count, 1))
        tint = np.array(self.cut.colour) * rng.uniform(0.97, 1.03, (count, 1, 3))
        matt = 1.35 * (0.25 + 0.75 * diffuse) * lit * open_ * vary
        spark = self.cut.shine * (0.22 * gloss**40 + 0.10 * gloss**9) * lit**1.5 * open_
        spark *= np.clip(vary, 0.5, 2)
        return np.clip(
            tint * matt[..., None] + np.array([255, 235, 210]) * spark[..., None], 2, 255
        )


def grow(head: Head, cut: Cut, rng: np.random.Generator) -> Hair:
    roots, normals = _roots(head, cut.strands, rng)
    layer = rng.random(len(roots))
    style = {"cropped": _cropped, "short": _short, "long": _long}[cut.style]
    return Hair(style(head, cut, roots, normals, layer, rng), layer, cut)


def _roots(head: Head, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    triangles = head.model.triangles[head.model.kind == SKIN]
    middle = head.fine[triangles].mean(1)
    triangles = triangles[(middle[:, 1] > 6.5) & (scalp(middle) > 0)]
    a, b, c = (head.fine[triangles[:, j]] for j in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = triangles[rng.choice(len(triangles), int(1.3 * count), p=area / area.sum())]
    weights = rng.dirichlet((1, 1, 1), len(chosen))
    roots = np.einsum("nj,njk->nk", weights, head.fine[chosen])
    normals = unit(np.einsum("nj,njk->nk", weights, head.normals[chosen]))
    kept = rng.random(len(roots)) < scalp(roots)
    return roots[kept][:count], normals[kept][:count]


class _Surface:
    """Keeps hair out of the head: nearest vertices above, measured cross-sections below."""

    # Half width and half depth of head, ears and neck at some heights; z of their middle.
    HEIGHT = (5.0, 6.0, 6.35, 6.6, 6.8, 7.0, 7.3, 7.55, 7.75, 8.0, 8.2)
    WIDTH = (0.60, 0.58, 0.54, 0.62, 0.73, 0.80, 0.83, 0.81, 0.76, 0.70, 0.60)
    DEPTH = (0.62, 0.55, 0.46, 0.55, 0.66, 0.74, 0.82, 0.86, 0.87, 0.84, 0.74)

    def __init__(self, head: Head) -> None:
        from scipy.spatial import cKDTree

        used = head.model.vertices(SKIN)
        used = used[head.fine[used, 1] > 7.0]
        x, y, z = np.abs(head.fine[used, 0]), head.fine[used, 1], head.fine[used, 2]
        ears = (z > 0.1) & (z < 0.62) & (y < 7.62) & (x > 0.72)
        self.points, self.normals = head.fine[used[~ears]], head.normals[used[~ears]]
        self.tree = cKDTree(self.points)

    def above(self, points: Floats, off: Floats) -> Floats:
        """Points at least ``off`` outside the nearest part of the surface."""
        distance, near = self.tree.query(points, k=4)
        weight = 1 / (distance + 0.02)
        weight /= weight.sum(1, keepdims=True)
        gap = np.einsum("nkd,nkd->nk", points[:, None] - self.points[near], self.normals[near])
        normal = unit(np.einsum("nk,nkd->nd", weight, self.normals[near]))
        return points + normal * np.maximum(0, off - (gap * weight).sum(1))[:, None]

    def around(self, points: Floats, off: Floats) -> Floats:
        """The same for hanging hair, that is only pushed sideways."""
        out = points.copy()
        high = points[:, 1] > 8.05
        out[high] = self.above(points[high], off[high])
        x, y, z = points[~high].T
        width, depth = (np.interp(y, self.HEIGHT, v) + off[~high] for v in (self.WIDTH, self.DEPTH))
        middle = np.interp(y, [5.5, 6.4, 7.0], [0.10, 0.15, 0.33])
        inside = np.hypot(x / width, (z - middle) / depth)
        grow_ = 1 + 0.7 * (np.maximum(1, 1 / np.maximum(inside, 1e-3)) - 1)
        out[~high, 0], out[~high, 2] = x * grow_, middle + (z - middle) * grow_
        return out


def _gather(strands: Floats, locks: int, much: float, rng: np.random.Generator) -> Floats:
    """Draw strands toward one of their neighbours, the more the nearer to the tip."""
    from scipy.spatial import cKDTree

    leaders = rng.choice(len(strands), locks, replace=False)
    roots = strands[:, 0] + 0.02 * rng.standard_normal(strands[:, 0].shape)
    mine = leaders[cKDTree(strands[leaders, 0]).query(roots)[1]]
    t = np.linspace(0, 1, strands.shape[1])[None, :, None] ** 0.8
    weight = much * t * rng.uniform(0.5, 1, len(strands))[:, None, None]
    return strands * (1 - weight) + strands[mine] * weight


def _cropped(
    head: Head, cut: Cut, roots: Floats, normals: Floats, layer: Floats, rng: np.random.Generator
) -> Floats:
    length = 0.03 + 0.045 * smooth(7.5, 8.3, roots[:, 1]) * (0.6 + 0.4 * layer)
    way, points = unit(normals + 0.5 * rng.standard_normal(roots.shape)), [roots]
    for _ in range(4):
        way = unit(way + 0.9 * rng.standard_normal(roots.shape) + 0.35 * normals)
        points.append(points[-1] + way * (0.4 * length)[:, None])
    return np.stack(points, 1)


def _flat(way: Floats, normals: Floats) -> Floats:
    """Directions without what leads into or out of the surface."""
    return unit(way - (way * normals).sum(1, keepdims=True) * normals)


def _short(
    head: Head, cut: Cut, roots: Floats, normals: Floats, layer: Floats, rng: np.random.Generator
) -> Floats:
    surface, steps = _Surface(head), 9
    x, y, z = roots.T
    zero = np.zeros_like(x)
    top = smooth(7.9, 8.22, y) * smooth(-0.5, 0.1, z)
    front = smooth(0.6, 1.0, z) * top
    length = 0.11 + 0.06 * layer + top * (0.11 + 0.07 * layer) + 0.13 * front
    length *= np.where((z > 0.5) & (y < 7.8), 0.62, 1)
    side = np.where(x > cut.part, 1.0, -1.0)
    over = _flat(np.stack([0.8 * side, zero + 0.1, 0.15 - 0.35 * smooth(0.2, 0.9, z)], 1), normals)
    down = unit(np.stack([-0.08 * np.sign(x), zero - 1, zero - 0.5], 1))
    way = over * top[:, None] + _flat(down, normals) * (1 - top)[:, None]
    ridge = 0.2 * top * (np.abs(x - cut.part) < 0.12)
    lift = 0.16 + 0.75 * front + ridge + 0.25 * layer * top
    way = unit(way + normals * lift[:, None] + 0.12 * rng.standard_normal(roots.shape))
    points = [roots]
    for k in range(steps):
        t = (k + 1) / steps
        still = smooth(7.95, 8.25, points[-1][:, 1]) * (top > 0.3)
        comb = over * still[:, None] + down * (1 - still)[:, None]
        way = way + 0.3 * comb - np.array([0, 0.1, 0]) * t
        way = unit(way + 0.05 * rng.standard_normal(roots.shape))
        off = (0.034 + 0.05 * layer * (0.35 + 0.65 * still)) * min(1, 2.5 * t)
        points.append(surface.above(points[-1] + way * (length / steps)[:, None], off))
    return _gather(np.stack(points, 1), 520, 0.36, rng)


def _long(
    head: Head, cut: Cut, roots: Floats, normals: Floats, layer: Floats, rng: np.random.Generator
) -> Floats:
    surface, steps = _Surface(head), 34
    x, y, z = roots.T
    zero = np.zeros_like(x)
    length = cut.length * (0.93 + 0.10 * layer) + 0.9 * (y - 7.5)
    side = np.where(x > cut.part, 1.0, -1.0)
    top, front = smooth(7.75, 8.15, y), smooth(0.55, 0.85, z)
    over = _flat(np.stack([side, zero - 0.1, -0.3 * front], 1), normals)
    down = _flat(np.stack([0.1 * side, zero - 1, -0.55 * front - 0.1], 1), normals)
    ridge = 0.35 * np.exp(-(((x - cut.part) / 0.16) ** 2)) * top
    way = unit(over * top[:, None] + down * (1 - top)[:, None] + normals * (0.1 + ridge)[:, None])
    off, step, points = 0.012 + 0.105 * layer, (length / steps)[:, None], [roots]
    for k in range(steps):
        t = (k + 1) / steps
        way = unit(way + np.array([0, -0.16, -0.01]))
        away = off * min(1, 5 * t) + 0.03 * smooth(0.35, 1, np.array(t))
        place = surface.around(points[-1] + way * step, away)
        # The face stays free.
        face = smooth(0.5, 0.8, place[:, 2]) * (1 - smooth(7.80, 8.10, place[:, 1]))
        own = np.where(np.abs(place[:, 0]) < 0.35, side, np.where(place[:, 0] > 0, 1, -1))
        missing = np.maximum(0, 0.66 + 0.08 * layer - np.abs(place[:, 0]))
        place[:, 0] += 0.5 * own * missing * face
        place[:, 2] -= 0.05 * face
        way = unit(place - points[-1])
        points.append(points[-1] + way * step)
    out = _gather(np.stack(points, 1), 420, 0.55, rng)
    t = np.linspace(0, 1, steps + 1)
    phase = (5 * x + 4 * z + 0.35 * rng.standard_normal(len(x)))[:, None] + 12 * t
    out[..., 0] += cut.wave * smooth(0.25, 0.7, t) * np.sin(phase)
    out[..., 2] += cut.wave * smooth(0.25, 0.7, t) * np.cos(phase)
    loose = np.where(rng.random(len(x)) < 0.02, 0.035, 0.0)[:, None, None]
    stray = rng.standard_normal((len(x), 1, 3))
    return out + stray * (0.01 * t[:, None] + loose * t[:, None] ** 2)


def lashes(head: Head, pose: Pose, length: float) -> Floats:
    """``(S, 5, 3)`` lashes, before the head turns; they go down with the lids."""
    rng = np.random.default_rng(3)
    base = pose.express(head)
    balls = head.model.base_vertices(EYE)
    out = []
    for side, letter, name in ((1, "l", "Left"), (-1, "r", "Right")):
        centre = head.base[balls[head.base[balls, 0] * side > 0]].mean(0)
        shut = pose.units.get(f"eyeBlink{name}", 0)
        for row, count in ((2, 70), (1, 26)):
            upper = row == 2
            group = head.model.lashes[f"helper-{letter}-eyelashes-{row}"]
            rim = _rim(base[sorted(group)], centre)
            t = (np.arange(count) + rng.uniform(-0.4, 0.4, count)) / count * (len(rim) - 1)
            t = np.clip(t, 0, len(rim) - 1)
            root = np.stack([np.interp(t, range(len(rim)), rim[:, k]) for k in range(3)], 1)
            outward = (root[:, 0] - centre[0]) / head.eyes[side][1]
            lean = 0.65 * outward + 0.12 * rng.standard_normal(count)
            rise = np.full(count, 0.5 - 1.1 * shut if upper else -0.55)
            way = unit(np.stack([lean, rise, np.full(count, 0.75)], 1))
            size = length * (1 if upper else 0.36) * rng.uniform(0.7, 1.15, count)
            size *= 0.75 + 0.35 * np.clip(outward * side, -1, 1)
            u = np.linspace(0, 1, 5)[None, :, None]
            curl = np.array([0, 0.5 if upper else -0.1, 0]) * (0.5 * u**2)
            out.append(root[:, None] + (way[:, None] * u + curl) * size[:, None, None])
    return np.concatenate(out)


def _rim(strip: Floats, centre: Floats) -> Floats:
    """The edge of a strip of lashes that lies on the lid, in order of x."""
    bins = np.linspace(strip[:, 0].min(), strip[:, 0].max(), 13)
    out = []
    for low, high in itertools.pairwise(bins):
        mine = strip[(strip[:, 0] >= low - 1e-6) & (strip[:, 0] <= high + 1e-6)]
        if len(mine):
            out.append(mine[np.linalg.norm(mine - centre, axis=1).argmin()])
    rim = np.array(out)
    rim[1:-1] = (rim[:-2] + 2 * rim[1:-1] + rim[2:]) / 4
    return rim
