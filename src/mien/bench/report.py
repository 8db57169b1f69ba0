"""What was measured, for people: tables, a page, a plot, and what changed since an earlier time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from mien.bench.machine import whole
from mien.errors import UsageError

KEY: Final = ("model", "provider", "precision", "fused", "resolution", "faces", "streams")
"""What makes two rows of two reports the same."""

FUSED: Final = {"on": ", fused", "off": ", not fused"}

COLOURS: Final = (
    "#4a6c8c", "#1b7f79", "#d1603d", "#5b5ea6", "#b8860b", "#7a8b3c", "#a3447f", "#777777",
)  # fmt: skip

QUIET: Final = 0.1
"""Share of the processors that others may use without figures being far off."""

NO_FIGURE: Final = "–"


def load(path: Path) -> dict[str, Any]:
    """An earlier report.

    Raises:
        UsageError: The file is not there, or is none.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a report of mien bench ({error})") from error
    if not isinstance(report, dict) or report.get("kind") != "mien bench":
        raise UsageError(f"{path}: is not a report of mien bench; it writes bench.json")
    try:  # all that is read of it later
        change_lines(report, report)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{path}: is a report of mien bench of another form, or damaged ({error!r})"
        ) from error
    return report


def device(report: dict[str, Any], run: dict[str, Any]) -> str:
    """What the models ran on, in words."""
    machine = report["machine"]
    if run["provider"] != "cpu" and machine["gpu"]:
        return str(machine["gpu"])
    name = " ".join(str(machine["processor"]).replace("(R)", "").replace("(TM)", "").split())
    return f"{name}, {whole(machine['cores'])} cores"


def name_of(run: dict[str, Any]) -> str:
    """The model, and whether its weights are random."""
    return f"{run['model']} ({run['label']})" if run["label"] else str(run["model"])


def table(report: dict[str, Any]) -> list[str]:
    """One line for each combination, under a heading."""
    head = ("device", "model", "precision", "fused", "framework", "size", "faces", "streams", "fps",
            "efficiency", "watts", "J/frame", "peak MB", "GPU MB")  # fmt: skip
    rows = []
    for run in report["runs"]:
        power = run["gpu"] or run["cpu_power"] or {}
        rows.append(
            [
                device(report, run),
                name_of(run),
                run["precision"],
                run["fused"] if run["fused"] in FUSED else NO_FIGURE,
                f"ONNX Runtime {report['machine']['onnxruntime']} {run['provider']}",
                run["resolution"],
                str(run["faces"]) if run["faces"] else NO_FIGURE,
                str(run["streams"]),
                speed(run["fps"]),
                f"{run['efficiency']:.0%}",
                shown(power.get("watts"), 1),
                shown(power.get("joules_per_frame"), 2),
                shown(run["peak_mb"], 0),
                shown((run["gpu"] or {}).get("memory_mb"), 0),
            ]
        )
    return aligned(head, rows)


def stages(run: dict[str, Any]) -> list[str]:
    """One line for each stage of a combination, under a heading; milliseconds."""
    head = ("stage", "p50", "p95", "p99", "jitter", "alone", "processor")
    names = sorted(
        dict.fromkeys((*run["stages"], *run["alone"])),
        key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n),
    )
    rows = []
    for name in names:
        beside, alone = run["stages"].get(name, {}), run["alone"].get(name, {})
        rows.append(
            [
                f"  {name}" if name in run["inner"] else name,
                *(shown(beside.get(key), 2) for key in ("p50", "p95", "p99", "jitter")),
                shown(alone.get("ms"), 2),
                shown(alone.get("processor_ms"), 2),
            ]
        )
    if run["interval"]:
        spread = (shown(run["interval"][key], 2) for key in ("p50", "p95", "p99", "jitter"))
        rows.append(["between frames", *spread, "", ""])
    return aligned(head, rows)


ORDER: Final = (
    "decode", "track", "detect", "landmarks", "embed", "generate", "mask", "blend", "fused",
    "enhance", "upscale", "mark", "encode",
)  # fmt: skip
"""Stages as frames meet them; those inside another follow it."""


def starts(report: dict[str, Any]) -> list[str]:
    """Two lines for each chain of models: seconds to each step on the way to the first frame."""
    steps = ("imported", "loaded", "enrolled", "first_frame")
    head = ("model", "provider", "precision", "start", *(s.replace("_", " ") for s in steps))
    rows = {}
    for run in report["runs"]:
        for which, words in (("cold", "first"), ("cached", "later")):
            precision = run["precision"] + FUSED.get(run["fused"], "")
            key = (name_of(run), run["provider"], precision, words)
            rows[key] = [*key, *(shown(run["start"][which][step], 2) for step in steps)]
    return aligned(head, list(rows.values()))


def title(run: dict[str, Any]) -> str:
    """A combination in a line."""
    faces = {0: "", 1: ", 1 face"}.get(run["faces"], f", {run['faces']} faces")
    streams = f", {run['streams']} streams" if run["streams"] > 1 else ""
    chain = f"{name_of(run)}, {run['provider']}, {run['precision']}{FUSED.get(run['fused'], '')}"
    return f"{chain}, {run['resolution']}{faces}{streams}"


def judged(run: dict[str, Any]) -> str:
    """How near a combination comes to the speed that its stages allow."""
    return (
        f"{speed(run['fps'])} fps of {speed(run['bound_fps'])} possible ({run['efficiency']:.0%}); "
        f"the slowest stage, {run['slowest']}, is {run['slowest_share']:.0%} of all stages' time"
    )


def loaded(run: dict[str, Any]) -> str:
    """Which models did it; ``auto`` may have chosen others than the names say."""
    return "; ".join(f"{stage}: {name}" for stage, name in run["models"].items())


def surroundings(report: dict[str, Any]) -> str:
    """Machine, versions, load and settings in a paragraph."""
    m, load, settings = report["machine"], report["load"], report["settings"]
    gpu = f"{m['gpu']} (driver {m['gpu_driver']}); " if m["gpu"] else ""
    memory = f", {m['memory_gb']:.0f} GB" if m["memory_gb"] else ""
    others = [r["others"] for r in report["runs"] if r["others"] is not None]
    beside = f"; others used up to {max(others):.0%} of the processors" if others else ""
    if others and max(others) > QUIET:
        beside += ", so that all of it is slower than the machine, the efficiency above all"
    footage = f"{settings['input'] or 'Drawn footage'}, {settings['seconds']:g} s"
    encoder = " ".join(w for w in (settings["encoder"], settings["preset"]) if w)
    return (
        f"{m['processor']}, {whole(m['cores'])} cores{memory}; {gpu}{m['system']}; Python "
        f"{m['python']}, mien {m['mien']}, ONNX Runtime {m['onnxruntime']}, OpenCV {m['opencv']}, "
        f"PyAV {m['pyav']}. {footage}, encoded with {encoder or 'the usual encoder'}; "
        f"threads a model: {settings['threads']}, painting at a time: {settings['workers']}; "
        f"medians of {settings['rounds']} rounds. Load average {shown(load['before'], 2)} before, "
        f"{shown(load['after'], 2)} after{beside}."
    )


def summary(report: dict[str, Any]) -> list[str]:
    """The report in lines for a terminal."""
    lines = table(report)
    for run in report["runs"]:
        lines += ["", f"{title(run)}: {judged(run)}; milliseconds", *stages(run)]
        lines += [loaded(run)] if run["models"] else []
    lines += ["", "Seconds from the start of the process", *starts(report)]
    return [*lines, "", surroundings(report)]


def page(report: dict[str, Any], changes: Sequence[str] = ()) -> str:
    """The report in Markdown, from the second level of headings on."""
    parts = [f"## Speed\n\n{surroundings(report)}", "\n".join(table(report)), "![](bench.svg)"]
    for run in report["runs"]:
        models = f" Models: {loaded(run)}." if run["models"] else ""
        parts.append(f"### {title(run)}\n\n{judged(run)}.{models} Milliseconds:")
        parts.append("\n".join(stages(run)))
    parts += ["## Starting\n\nSeconds from the start of the process:", "\n".join(starts(report))]
    if changes:
        parts += ["## Against the earlier report", "\n".join(f"- {line}" for line in changes)]
    return "\n\n".join(parts) + "\n"


def changes(report: dict[str, Any], old: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure that both reports have: the combination, before, now, and now over before."""
    before = {tuple(run[k] for k in KEY): run for run in old["runs"]}
    out = []
    for run in report["runs"]:
        earlier = before.get(tuple(run[k] for k in KEY))
        if earlier is None:
            continue
        then = dict(_figures(earlier))
        for name, value in _figures(run):
            was = then.get(name)
            if was and value is not None:
                out.append({"run": title(run), "figure": name, "before": was, "now": value,
                            "ratio": round(value / was, 3)})  # fmt: skip
    return out


def _figures(run: dict[str, Any]) -> Iterator[tuple[str, float | None]]:
    yield "fps", run["fps"]
    yield "efficiency", run["efficiency"]
    for name, spread in run["stages"].items():
        for key in ("p50", "p95"):
            yield f"{name} {key}, ms", spread[key]
    for name, alone in run["alone"].items():
        yield f"{name} alone, ms", alone["ms"]
    yield "peak memory, MB", run["peak_mb"]
    for what in ("gpu", "cpu_power"):
        for key, value in (run[what] or {}).items():
            yield f"{what} {key}", value
    for which in ("cold", "cached"):
        yield f"{which} start, s", run["start"][which]["first_frame"]


def change_lines(report: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """The same in words, and which combinations only one of the two has."""
    lines = [
        f"{c['run']}: {c['figure']} {c['before']:g} → {c['now']:g} (× {c['ratio']:.2f})"
        for c in changes(report, old)
    ]
    keys = [{tuple(run[k] for k in KEY): title(run) for run in r["runs"]} for r in (report, old)]
    lines += [f"{keys[0][k]}: only in this report" for k in keys[0] if k not in keys[1]]
    lines += [f"{keys[1][k]}: only in the earlier report" for k in keys[1] if k not in keys[0]]
    if report["machine"]["processor"] != old["machine"]["processor"]:
        lines.append(f"the earlier report is of another processor: {old['machine']['processor']}")
    return lines


def speed(fps: float) -> str:
    """Frames a second with three digits or so."""
    return f"{fps:.1f}" if fps >= 10 else f"{fps:.2f}"


def shown(value: float | None, digits: int) -> str:
    """A figure, or a dash."""
    return NO_FIGURE if value is None else f"{value:.{digits}f}"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown whose columns stand below each other in a terminal, too."""
    # A column without any figure says nothing.
    kept = [i for i in range(len(head)) if any(r[i] not in (NO_FIGURE, "") for r in rows)]
    table = [[line[i] for i in kept] for line in (head, *rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(kept))]
    numbers = [
        all(line[i].strip()[:1] in "0123456789" + NO_FIGURE for line in table[1:])
        for i in range(len(kept))
    ]

    def text(cells: Sequence[str]) -> str:
        padded = (
            c.rjust(w) if right else c.ljust(w)
            for c, w, right in zip(cells, widths, numbers, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * (w - 1) + ":" if right else "-" * w for w, right in zip(widths, numbers, strict=True)
    ]
    return [text(table[0]), text(rule), *(text(line) for line in table[1:])]


# --- Plot -------------------------------------------------------------------------------------


def plot(report: dict[str, Any]) -> str:
    """Frames a second and milliseconds of the stages of each combination, as SVG."""
    runs = report["runs"]
    left = 30 + 6.5 * max(len(title(run)) for run in runs)
    bar, gap, span = 18, 10, 560
    names = [n for n in ORDER if any(n in r["alone"] and n not in r["inner"] for r in runs)]
    fastest = max(r["fps"] for r in runs) or 1.0
    longest = max(_sum(r) for r in runs) or 1.0
    block = len(runs) * (bar + gap) + 44
    height = 2 * block + 40
    width = round(left) + span + 90
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(10, 20, "Frames a second; the line is what the stages allow", weight=600),
    ]
    for i, run in enumerate(runs):
        y = 36 + i * (bar + gap)
        out.append(_text(left - 8, y + 13, title(run), anchor="end"))
        scale = span / max(fastest, *(r["bound_fps"] for r in runs))
        out.append(_bar(left, y, run["fps"] * scale, bar, COLOURS[1], f"{speed(run['fps'])} fps"))
        x = left + run["bound_fps"] * scale
        out.append(f'<path d="M{x:.1f} {y - 3}v{bar + 6}" stroke="#333" stroke-width="2"/>')
        out.append(_text(x + 6, y + 13, f"{speed(run['fps'])} ({run['efficiency']:.0%})"))
    top = block + 20
    out.append(_text(10, top, "Milliseconds a frame of each stage, measured alone", weight=600))
    for i, run in enumerate(runs):
        y, x = top + 16 + i * (bar + gap), left
        out.append(_text(left - 8, y + 13, title(run), anchor="end"))
        for name in names:
            ms = run["alone"].get(name, {}).get("ms", 0.0)
            colour = COLOURS[names.index(name) % len(COLOURS)]
            out.append(_bar(x, y, ms * span / longest, bar, colour, f"{name}: {ms:.1f} ms"))
            x += ms * span / longest
        out.append(_text(x + 6, y + 13, f"{_sum(run):.1f}"))
    x = 10.0
    for name in names:
        colour = COLOURS[names.index(name) % len(COLOURS)]
        out.append(_bar(x, height - 22, 12, 12, colour, name))
        out.append(_text(x + 17, height - 12, name))
        x += 24 + 7 * len(name) + 12
    return "\n".join([*out, "</svg>"]) + "\n"


def _sum(run: dict[str, Any]) -> float:
    return float(sum(a["ms"] for n, a in run["alone"].items() if n not in run["inner"]))


def _bar(  # noqa: PLR0917
    x: float, y: float, width: float, height: float, colour: str, words: str
) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="{height}" '
        f'fill="{colour}"><title>{escape(words)}</title></rect>'
    )


def _text(x: float, y: float, words: str, *, anchor: str = "start", weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" fill="#222">'
        f"{escape(words)}</text>"
    )
