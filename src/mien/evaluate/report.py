"""From samples to figures: the report, its table, and what became better and worse."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mien.errors import MediaError, UsageError
from mien.evaluate.measuring import Samples
from mien.evaluate.targets import Target
from mien.quality import MEASURES, TONES, tone

VERSION: Final = 1
"""Of report.json; a report of another one cannot be compared with."""

Figures = dict[str, float | None]
"""Measure → figure, None where nothing could be measured."""


def figures(samples: Iterable[Samples]) -> Figures:
    """The figures of some swaps together; see ``docs/quality.md`` for how they are averaged."""
    several = list(samples)

    def every(key: str) -> list[float]:
        return [value for s in several for value in s.values.get(key, ())]

    def mean(key: str) -> float | None:
        values = every(key)
        return float(np.mean(values)) if values else None

    def median(key: str) -> float | None:
        values = every(key)
        return float(np.median(values)) if values else None

    def ratio(key: str) -> float | None:
        below = sum(every(f"{key}_original"))
        return sum(every(f"{key}_swapped")) / below if below > 0 else None

    def share(part: str, whole: str) -> float | None:
        count = sum(getattr(s, whole) for s in several)
        return 100 * sum(getattr(s, part) for s in several) / count if count else None

    means = ("margin", "nearer", "rank1", "pose", "expression", "eyes", "mouth", "lighting")
    found = {key: mean(key) for key in means} | {
        "blinks": share("kept", "blinks"),
        "flicker": ratio("flicker"),
        "flicker_own": ratio("flicker_own"),
        "seam": ratio("seam"),
        "sharpness": median("sharpness"),
        "sharpness_painted": median("sharpness_painted"),
        "lost": share("lost", "faces"),
        "lost_to_45": share("lost_to_45", "faces_to_45"),
        "undetected": share("undetected", "detectable"),
    }
    return {key: _rounded(found[key]) for key in MEASURES} | {
        "to_portrait": _rounded(mean("to_portrait")),
        "to_target": _rounded(mean("to_target")),
        "flicker_median": _rounded(_median_ratio(several, "flicker")),
    }


def about(target: Target, angle: float) -> dict[str, Any]:
    """What a report says of a target; ``angle`` is its typology angle in degrees."""
    size = max(float((f.box[2:] - f.box[:2]).max()) for f in target.faces.values())
    return {
        "name": target.path.stem,
        "file": str(target.path),
        "frames": target.frames,
        "seen": len(target.faces),
        "gaps": target.gaps,
        "measured": len(target.places),
        "blinks": len(target.blinks),
        "face_px": round(size),
        "typology_angle": round(angle, 1),
        "tone": tone(angle),
    }


def _median_ratio(samples: Sequence[Samples], key: str) -> float | None:
    """The ratio of a typical place, which the few worst places do not move."""
    ratios = [
        swapped / original
        for s in samples
        for original, swapped in zip(
            s.values.get(f"{key}_original", ()), s.values.get(f"{key}_swapped", ()), strict=True
        )
        if original > 0
    ]
    return float(np.median(ratios)) if ratios else None


def summary(
    samples: dict[tuple[int, int], Samples], targets: Sequence[dict[str, Any]], identities: int
) -> dict[str, Any]:
    """All that a report says of one generator.

    Args:
        samples: By number of identity and of target.
        targets: As the report lists them, with their skin tone groups.
        identities: How many there are.
    """
    tones = {}
    for _, group in TONES:
        of_group = [s for (_, t), s in samples.items() if targets[t]["tone"] == group]
        if of_group:
            tones[group] = figures(of_group)
    return {
        "all": figures(samples.values()),
        "counts": {
            "swaps": len(samples),
            "faces": sum(s.faces for s in samples.values()),
            "blinks": sum(s.blinks for s in samples.values()),
        },
        "by_tone": tones,
        "by_target": [
            figures(s for (_, t), s in samples.items() if t == number)
            for number in range(len(targets))
        ],
        "by_identity": [
            figures(s for (i, _), s in samples.items() if i == number)
            for number in range(identities)
        ],
        "swaps": [
            {"identity": identity, "target": target, "figures": figures([s])}
            for (identity, target), s in samples.items()
        ],
    }


def read(path: Path) -> dict[str, Any]:
    """An earlier report.

    Raises:
        MediaError: It is not there or cannot be read.
        UsageError: It is no report, or one of another version.
    """
    try:
        report = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise MediaError(f"{path}: no such file") from error
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"{path}: is no report; expected a report.json of 'evaluate'") from error
    if not isinstance(report, dict) or report.get("report") != VERSION:
        raise UsageError(
            f"{path}: is no report of version {VERSION}; expected a report.json of 'evaluate'"
        )
    return report


def compare(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """What became better and what worse, a line each; the generator of the same name counts.

    A generator that the earlier report does not have is compared with that report's first.
    """
    lines = []
    same = all(now[k] == then[k] for k in ("frames",)) and all(
        [x["name"] for x in now[k]] == [x["name"] for x in then[k]]
        for k in ("identities", "targets")
    )
    if not same:
        lines.append("caution: the earlier report is of other identities, targets or frames")
    for name, made in now["generators"].items():
        other = name if name in then["generators"] else next(iter(then["generators"]))
        lines.append(f"{name}, against {other} of the earlier report:")
        before = then["generators"][other]["all"]
        better: list[str] = []
        worse: list[str] = []
        for key, measure in MEASURES.items():
            new, old = made["all"].get(key), before.get(key)
            if new is None or old is None:
                continue
            gain = measure.gain(new, old)
            line = f"{measure.title}: {old:.{measure.digits}f} → {new:.{measure.digits}f}"
            if abs(gain) >= measure.step:
                (better if gain > 0 else worse).append(line)
        lines += [f"  better  {line}" for line in better] + [f"  worse   {line}" for line in worse]
        if not better and not worse:
            lines.append("  nothing changed by more than the measures' steps")
    return lines


def table(report: dict[str, Any]) -> list[str]:
    """One line for each measure, one column for each generator."""
    names = list(report["generators"])
    width = max(len(m.title) for m in MEASURES.values())
    columns = [max(9, len(name)) for name in names]
    head = [name.rjust(w) for name, w in zip(names, columns, strict=True)]
    lines = ["  ".join([" " * width, *head, "unit"])]
    for key, measure in MEASURES.items():
        cells = [
            shown(report["generators"][name]["all"][key], measure.digits).rjust(w)
            for name, w in zip(names, columns, strict=True)
        ]
        lines.append("  ".join([measure.title.ljust(width), *cells, measure.unit]))
    return lines


def shown(value: float | None, digits: int) -> str:
    """A figure as people read it; a dash where nothing could be measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
