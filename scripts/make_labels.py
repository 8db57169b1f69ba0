"""Make the letters that the visible label is drawn with, from a font that may be passed on.

The outlines of some letters of Noto Sans Bold and Noto Sans CJK Bold (SIL Open Font License 1.1)
go into src/mien/provenance/letters.npz as polygons, so that a label is sharp at any size and no
font is needed where mien runs. Which letters: those of all translations, and of European
languages, Vietnamese and kana for words that users add.

    pip install fonttools
    apt-get install fonts-noto-core fonts-noto-cjk
    python scripts/make_labels.py /usr/share/fonts/truetype/noto/NotoSans-Bold.ttf \
        /usr/share/fonts/opentype/noto/NotoSansCJK-Bold.ttc
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from fontTools.pens.basePen import decomposeQuadraticSegment
from fontTools.pens.recordingPen import DecomposingRecordingPen
from fontTools.ttLib import TTCollection, TTFont

from mien.provenance.label import SAID
from mien.provenance.letters import LETTERS

RANGES = (
    (0x20, 0x7E),  # Basic Latin
    (0xA0, 0x17F),  # Latin-1, Latin Extended-A
    (0x218, 0x21B),  # Romanian
    (0x384, 0x3CE),  # Greek
    (0x400, 0x45F),  # Cyrillic
    (0x490, 0x491),
    (0x1E00, 0x1EFF),  # Vietnamese and others
    (0x2010, 0x2026),  # punctuation
    (0x20AC, 0x20AC),
    (0x3001, 0x3002),
    (0x3041, 0x3096),  # hiragana
    (0x30A1, 0x30FC),  # katakana
)
FLAT = 2.5
"""In thousandths of the em: how far a polygon may be from its curve."""

ASIAN = 0x3000
CAPITAL = 733
"""Height of capitals as saved, in thousandths of an em of Noto Sans CJK."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("european", type=Path, help="NotoSans-Bold.ttf")
    parser.add_argument("asian", type=Path, help="NotoSansCJK-Bold.ttc")
    parser.add_argument("--output", type=Path, default=LETTERS)
    given = parser.parse_args()
    asian, european = TTCollection(given.asian).fonts[0], TTFont(given.european)
    codes = {code for low, high in RANGES for code in range(low, high + 1)}
    codes |= {ord(letter) for text in SAID.values() for letter in text}
    names, advances, contours, points = [], [], [], []
    for code in sorted(codes):
        drawn = outline(european if code < ASIAN else asian, code)
        if drawn is None:
            continue
        advance, polygons = drawn
        names.append(chr(code))
        advances.append(advance)
        contours.append([len(p) for p in polygons])
        points += polygons
    counts = np.array([len(c) for c in contours], np.uint8)
    lengths = np.array([n for c in contours for n in c], np.uint16)
    every = np.concatenate(points) if points else np.zeros((0, 2))
    steps = np.diff(every, axis=0, prepend=0).astype(np.int16)  # small numbers, which pack well
    write(
        given.output,
        {
            "names": np.frombuffer("\n".join(names).encode(), np.uint8),
            "advances": np.array(advances, np.int16),
            "counts": counts,
            "lengths": lengths,
            "steps": np.ascontiguousarray(steps.T),
        },
    )
    print(f"{given.output}: {len(names)} letters, {given.output.stat().st_size / 1000:.0f} kB")


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz file that is the same from run to run: it carries no time of day."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED)


def outline(font: TTFont, code: int) -> tuple[int, list[np.ndarray]] | None:
    """Advance and polygons of a letter; the baseline is at 0, and y grows downwards."""
    name = font.getBestCmap().get(code)
    if name is None:
        return None
    glyphs = font.getGlyphSet()
    scale = CAPITAL / font["OS/2"].sCapHeight
    pen = DecomposingRecordingPen(glyphs)
    glyphs[name].draw(pen)
    polygons: list[list[np.ndarray]] = []
    for step, arguments in pen.value:
        at = [np.array(point, float) * (scale, -scale) for point in arguments]
        if step == "moveTo":
            polygons.append([at[0]])
        elif step == "lineTo":
            polygons[-1].append(at[0])
        elif step == "curveTo":
            polygons[-1] += curve(polygons[-1][-1], *at)
        elif step == "qCurveTo":  # TrueType: between two controls a point on the curve is implied
            for pair in decomposeQuadraticSegment(at):
                control, end = np.array(pair)
                start = polygons[-1][-1]
                cubic = (start + 2 * control) / 3, (end + 2 * control) / 3
                polygons[-1] += curve(start, *cubic, end)
        elif step not in ("closePath", "endPath"):
            raise SystemExit(f"U+{code:04X}: did not expect {step} in an outline")
    whole = [np.rint(np.array(p)).astype(int) for p in polygons]
    return round(glyphs[name].width * scale), [p for p in whole if len(p) > 2]


def curve(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
    """Points of a cubic Bézier curve but the first; enough of them to be flat between.

    How many that is: Wang's formula, n = sqrt(3 * 2 / 8 * max |second difference| / flat)
    (Goldman, "Pyramid Algorithms", 2003, section 5.6.3).
    """
    bend = max(np.abs(a - 2 * b + c).max(), np.abs(b - 2 * c + d).max())
    pieces = max(1, int(np.ceil(np.sqrt(0.75 * np.sqrt(2) * bend / FLAT))))
    t = np.arange(1, pieces + 1)[:, None] / pieces
    return list((1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d)


if __name__ == "__main__":
    main()
