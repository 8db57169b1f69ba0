"""The report as one page of HTML, with plots as inline SVG; it needs nothing from elsewhere."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from typing import Any, Final

from mien.evaluate.report import shown
from mien.quality import MEASURES, TONES

COLOURS: Final = ("#1b7f79", "#d1603d", "#5b5ea6", "#b8860b", "#7a8b3c", "#a3447f", "#4a6c8c")

STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 74rem; padding: 0 1rem;
  color: #222; background: #fff; }
table { border-collapse: collapse; margin: .6rem 0 1.6rem; font-size: 14px; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th { font-weight: 600; background: #f5f5f5; }
th:first-child, td:first-child, td.unit { text-align: left; }
td.unit { color: #777; } td.best { font-weight: 700; }
.scroll { overflow-x: auto; } .plots { display: flex; flex-wrap: wrap; gap: 1rem; }
svg { background: #fff; } svg text { font: 12px system-ui, sans-serif; fill: #333; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; } img { max-width: 100%; }
"""


def html_of(report: dict[str, Any], changes: Sequence[str], sheet: bytes | None) -> str:
    """The whole page.

    Args:
        report: As in ``report.json``.
        changes: Lines about an earlier report; may be empty.
        sheet: The contact sheet as a JPEG file, None to leave it out.
    """
    parts = [
        "<!doctype html>\n<html lang=en><meta charset=utf-8><title>mien: quality of swaps</title>",
        f"<style>{STYLE}</style>",
        "<h1>Quality of swaps</h1>",
        f"<p>{len(report['identities'])} identities on {len(report['targets'])} targets, up to "
        f"{report['frames']} frames of each; mien {escape(report['mien'])}. What each figure "
        "means, its formula and its limits: <code>docs/quality.md</code> of mien.</p>",
        _summary(report),
    ]
    if changes:
        parts.append(
            f"<h2>Against the earlier report</h2><pre>{escape(chr(10).join(changes))}</pre>"
        )
    if len(report["generators"]) > 1:
        parts += ["<h2>Identity against light</h2>", _trades(report)]
    parts += [
        "<h2>Each measure by target</h2>",
        "<p>A dot is a target, the upright line all of them; names show under the pointer.</p>",
        '<div class="plots">',
        *(_strips(report, key) for key in MEASURES),
        "</div>",
        "<h2>Lighting error by skin tone of the target</h2>",
        _tones(report),
        "<h2>Targets</h2>",
        _targets(report),
        *(_by_target(report, name) for name in report["generators"]),
        "<h2>Identities</h2>",
        _identities(report),
    ]
    if sheet is not None:
        data = base64.b64encode(sheet).decode()
        parts.append(
            "<h2>Contact sheet</h2><p>These faces are AI-generated. First column: the original."
            f'</p><img alt="contact sheet" src="data:image/jpeg;base64,{data}">'
        )
    return "\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already; one that begins with ``<td`` brings its own tag."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "\n".join(
        "<tr>" + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{top}</tr>\n{body}</table></div>'


def _summary(report: dict[str, Any]) -> str:
    made = report["generators"]
    rows = []
    for key, measure in MEASURES.items():
        values = [made[name]["all"][key] for name in made]
        known = [v for v in values if v is not None]
        best = known[0] if known else None
        for value in known:
            if best is not None and measure.gain(value, best) > 0:
                best = value
        cells = [
            f'<td class="best">{shown(v, measure.digits)}</td>'
            if v is not None and v == best and len(known) > 1
            else shown(v, measure.digits)
            for v in values
        ]
        wanted = {"more": "more is better", "less": "less is better", "one": "1 is best"}
        unit = f'<td class="unit">{escape(measure.unit)}; {wanted[measure.better]}</td>'
        rows.append([escape(measure.title), *cells, unit])
    return _table(["", *(escape(n) for n in made), ""], rows)


def _tones(report: dict[str, Any]) -> str:
    made = report["generators"]
    rows = []
    for _, tone in TONES:
        count = sum(t["tone"] == tone for t in report["targets"])
        if count:
            cells = [shown(made[n]["by_tone"][tone]["lighting"], 2) for n in made]
            rows.append([tone, str(count), *cells])
    return _table(["group (typology angle)", "targets", *(escape(n) for n in made)], rows)


def _targets(report: dict[str, Any]) -> str:
    rows = [
        [
            escape(t["name"]),
            *(str(t[k]) for k in ("frames", "seen", "gaps", "measured", "blinks", "face_px")),
            f"{t['tone']} ({t['typology_angle']:.0f}°)",
        ]
        for t in report["targets"]
    ]
    head = ("", "frames", "face seen", "lost between", "measured", "blinks", "face, px", "skin")
    return _table(head, rows)


def _by_target(report: dict[str, Any], name: str) -> str:
    rows = [
        [escape(t["name"]), *(shown(f[key], m.digits) for key, m in MEASURES.items())]
        for t, f in zip(report["targets"], report["generators"][name]["by_target"], strict=True)
    ]
    return f"<h3>{escape(name)}</h3>" + _table(["", *MEASURES], rows)


def _identities(report: dict[str, Any]) -> str:
    made = report["generators"]
    rows = []
    for number, person in enumerate(report["identities"]):
        cells = []
        for name in made:
            figures = made[name]["by_identity"][number]
            cells += [shown(figures["margin"], 3), shown(figures["rank1"], 0)]
        rows.append([escape(person["name"]), *cells])
    head = [f"{escape(n)}: {what}" for n in made for what in ("nearer by", "found, %")]
    return _table(["", *head], rows)


# --- Plots ------------------------------------------------------------------------------------


def colour_of(report: dict[str, Any], name: str) -> str:
    """One colour for each generator; those that differ in settings alone share it."""
    kinds = list(dict.fromkeys(n.partition(":")[0] for n in report["generators"]))
    return COLOURS[kinds.index(name.partition(":")[0]) % len(COLOURS)]


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that holds the values; it does not cross zero for room alone."""
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or max(abs(high) * 0.1, 0.1)
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers on an axis."""
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(k * unit for k in (1, 2, 5, 10) if k * unit >= rough)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _trades(report: dict[str, Any]) -> str:
    plots = [_scatter(report, key, "lighting") for key in ("margin", "nearer", "rank1")]
    return '<div class="plots">' + "\n".join(plots) + "</div>"


def _scatter(report: dict[str, Any], up: str, along: str) -> str:
    """One measure over another, a point for each generator; settings of one are joined."""
    made = report["generators"]
    points = {
        name: (figures["all"][along], figures["all"][up])
        for name, figures in made.items()
        if figures["all"][along] is not None and figures["all"][up] is not None
    }
    if not points:
        return ""
    width, height, left, bottom = 400, 300, 66, 40
    x0, x1 = _scale([p[0] for p in points.values()])
    y0, y1 = _scale([p[1] for p in points.values()])

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = left + (width - left - 16) * (point[0] - x0) / (x1 - x0)
        return x, 12 + (height - bottom - 12) * (1 - (point[1] - y0) / (y1 - y0))

    out = [f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">']
    for x in _ticks(x0, x1):
        px, _ = place((x, y0))
        out.append(f'<path d="M{px:.1f} 12V{height - bottom}" stroke="#e4e4e4"/>'
                   f'<text x="{px:.1f}" y="{height - bottom + 15}" text-anchor="middle">{x:.4g}'
                   "</text>")  # fmt: skip
    for y in _ticks(y0, y1):
        _, py = place((x0, y))
        out.append(
            f'<path d="M{left} {py:.1f}H{width - 16}" stroke="#e4e4e4"/>'
            f'<text x="{left - 5}" y="{py + 4:.1f}" text-anchor="end">{y:.4g}</text>'
        )
    for kind in dict.fromkeys(n.partition(":")[0] for n in points):
        line = [place(p) for n, p in points.items() if n.partition(":")[0] == kind]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in line)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour_of(report, kind)}"/>')
    for name, point in points.items():
        x, y = place(point)
        end = x > width * 0.65
        out.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour_of(report, name)}"/>'
            f'<text x="{x + (-8 if end else 8):.1f}" y="{y - 6:.1f}" '
            f'text-anchor="{"end" if end else "start"}">{escape(name)}</text>'
        )
    out.append(
        f'<text x="{(left + width) / 2}" y="{height - 6}" text-anchor="middle">'
        f"{escape(MEASURES[along].title)}, {escape(MEASURES[along].unit)}</text>"
        f'<text transform="translate(13 {(height - bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(MEASURES[up].title)}, {escape(MEASURES[up].unit)}</text>'
        "</svg>"
    )
    return "".join(out)


def _strips(report: dict[str, Any], key: str) -> str:
    """A row of dots for each generator, one dot for each target."""
    made, measure = report["generators"], MEASURES[key]
    values = [f[key] for g in made.values() for f in (*g["by_target"], g["all"])]
    known = [v for v in values if v is not None]
    if not known:
        return ""
    low, high = _scale(known)
    width, left, row = 400, 150, 22
    height = 46 + row * len(made)

    def x_of(value: float) -> float:
        return left + (width - left - 14) * (value - low) / (high - low)

    out = [
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<text x="4" y="14" font-weight="600">{escape(measure.title)} '
        f"({escape(measure.unit)})</text>"
    ]
    for n, (name, figures) in enumerate(made.items()):
        y, colour = 34 + row * n, colour_of(report, name)
        label = name if len(name) < 23 else f"…{name[-21:]}"
        out.append(
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(label)}</text>'
            f'<path d="M{left} {y}H{width - 14}" stroke="#e4e4e4"/>'
        )
        for target, of_target in zip(report["targets"], figures["by_target"], strict=True):
            value = of_target[key]
            if value is not None:
                title = f"{target['name']}: {shown(value, measure.digits)}"
                out.append(
                    f'<circle cx="{x_of(value):.1f}" cy="{y}" r="4" fill="{colour}" '
                    f'fill-opacity="0.45"><title>{escape(title)}</title></circle>'
                )
        if figures["all"][key] is not None:
            x = x_of(figures["all"][key])
            out.append(f'<path d="M{x:.1f} {y - 8}V{y + 8}" stroke="{colour}" stroke-width="3"/>')
    out += [
        f'<text x="{x_of(v):.1f}" y="{height - 4}" text-anchor="middle">{v:.4g}</text>'
        for v in _ticks(low, high)
    ]
    return "".join(out) + "</svg>"
