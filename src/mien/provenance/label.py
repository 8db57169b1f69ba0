"""The visible label: its words in several languages, how it is drawn, where, and how it is found.

It is rendered once for a size of picture. What is looked for afterwards is what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, Literal, NamedTuple

import cv2
import numpy as np

from mien.errors import UsageError
from mien.provenance.letters import CAPITAL, OVER, draw, measure, strange
from mien.types import Floats, Image, Rect

Preset = Literal["usual", "regulated"]

SAID: Final = {
    "en": "AI-generated",
    "zh": "AI生成",
    "zh-hant": "AI生成",
    "es": "Generado por IA",
    "de": "KI-generiert",
    "fr": "Généré par IA",
    "ja": "AIで生成",
    "ko": "AI 생성",
    "pt": "Gerado por IA",
    "it": "Generato con IA",
    "nl": "AI-gegenereerd",
    "pl": "Wygenerowane przez AI",
    "ru": "Создано ИИ",
    "uk": "Створено ШІ",
}
"""Language → what the label says: that it is generated, and by AI. GB 45438-2025, clause 5.2,
wants both, in Chinese 人工智能 or AI and 生成 or 合成."""

SHARE: Final[dict[Preset, float]] = {"usual": 0.022, "regulated": 0.052}
"""Preset → height of capital letters, of the picture's shorter side."""

LEAST: Final = 9.0
"""Pixels: capitals are no smaller, but where the label would be wider than the picture."""

PLACES: Final = (
    "bottom right", "bottom left", "top right", "top left", "bottom middle", "top middle",
)  # fmt: skip
"""Where a label may be, the best first. All are at an edge, as GB 45438-2025 wants it."""

_PAD, _MARGIN, _LEADING = 0.5, 0.6, 0.45  # in heights of a capital
_DARK, _LIGHT = 0.62, 0.96  # how dark the plate is, and how white the letters


def check(language: str, words: str = "") -> None:
    """Make sure that a label can be drawn.

    Raises:
        UsageError: There is no such translation, or a letter that cannot be drawn.
    """
    if language not in SAID:
        raise UsageError(f"label language {language!r} is unknown; known are {', '.join(SAID)}")
    if bad := strange(words):
        named = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in bad)
        raise UsageError(
            f"label words {words!r}: cannot draw {named}; European letters and kana can be drawn"
        )


class Layout(NamedTuple):
    """What the label says at one place in pictures of one size, and where that is.

    Attributes:
        rect: The plate.
        capital: Height of capitals in pixels.
        lines: From top to bottom.
        side: ``left``, ``middle`` or ``right``, where lines are aligned.
    """

    rect: Rect
    capital: float
    lines: tuple[str, ...]
    side: str


class Drawn(NamedTuple):
    """A rendered label, to be put into a picture as ``region * keep / 255 + light``.

    Attributes:
        rect: Where it goes.
        keep: ``(h, w, 3)`` uint8, what is left of the picture.
        light: ``(h, w, 3)`` uint8, what is added.
    """

    rect: Rect
    keep: Image
    light: Image


def layout(
    height: int,
    width: int,
    place: str = PLACES[0],
    *,
    preset: Preset = "usual",
    language: str = "en",
    words: str = "",
) -> Layout:
    """Lay out the label for pictures of one size.

    Args:
        height: Of the picture in pixels.
        width: The same.
        place: One of :data:`PLACES`.
        preset: How large.
        language: A key of :data:`SAID`.
        words: Said on lines of their own, at the side that is away from the edge; what is too
            long for half of the picture is cut.
    """
    said, capital = _fitted(language, SHARE[preset], height, width)
    lines = (*said, *_wrapped(words, capital, height, width))
    down, side = place.split()
    if down == "bottom":  # what it says first is next to the edge, wherever that is
        lines = (*lines[len(said) :], *said)
    wide, tall = _size(lines, capital, _pad(capital))
    rect = _put(height, width, (min(wide, width), min(tall, height)), place, capital)
    return Layout(rect, capital, lines, side)


def render(label: Layout) -> Drawn:
    """Render white letters on a translucent dark plate.

    On a white picture the plate is a grey of which the letters stand out by 5.8 to 1; WCAG 2.2
    asks for 4.5 to 1 (success criterion 1.4.3).
    """
    rect, capital, lines, side = label
    ink = _plate(lines, capital, side, _pad(capital))
    ink = ink[: rect.y1 - rect.y0, : rect.x1 - rect.x0]
    white = ink.astype(np.float32) * (_LIGHT / 255)
    return Drawn(rect, _three((1 - white) * (1 - _DARK)), _three(white))


def _pad(capital: float) -> int:
    return max(1, round(_PAD * capital))


def _size(lines: tuple[str, ...], capital: float, pad: int) -> tuple[int, int]:
    """Width and height of lines of text with so many pixels around."""
    inks = [measure(line) for line in lines]
    em = capital / CAPITAL
    wide = max(r.x1 - r.x0 for r in inks) * em
    tall = sum(r.y1 - r.y0 for r in inks) * em + _LEADING * capital * (len(lines) - 1)
    return int(np.ceil(wide)) + 2 * pad, int(np.ceil(tall)) + 2 * pad


def _plate(lines: tuple[str, ...], capital: float, side: str, pad: int) -> Image:
    """Lines of text, aligned at a side, with so many pixels around; 255 is ink, ``(h, w)``."""
    em = capital / CAPITAL
    wide, tall = _size(lines, capital, pad)
    plane = np.zeros((tall * OVER, wide * OVER), np.uint8)
    y = float(pad)
    for line in lines:
        ink = measure(line)
        free = wide - 2 * pad - (ink.x1 - ink.x0) * em
        x = pad + {"left": 0.0, "middle": 0.5, "right": 1.0}[side] * free
        draw(plane, line, capital, (x - ink.x0 * em, y - ink.y0 * em))
        y += (ink.y1 - ink.y0) * em + _LEADING * capital
    return np.asarray(cv2.resize(plane, (wide, tall), interpolation=cv2.INTER_AREA), np.uint8)


def _fitted(language: str, share: float, height: int, width: int) -> tuple[tuple[str, ...], float]:
    """The lines of a translation, and the height of capitals with which they fit."""
    text = SAID[language]
    wanted = max(LEAST, share * min(height, width))
    best: tuple[tuple[str, ...], float] = (
        (text,),
        min(wanted, _largest((text,), height, width)),
    )
    if best[1] < wanted:  # a narrow picture: two lines, where that makes letters larger
        for at in range(1, len(text)):
            lines = text[:at].rstrip(), text[at:]
            if text[at - 1] in " -":
                capital = min(wanted, _largest(lines, height, width))
                best = max(best, (lines, capital), key=lambda fit: fit[1])
    return best


def _largest(lines: tuple[str, ...], height: int, width: int) -> float:
    """Height of capitals with which lines just fit into a picture."""
    inks = [measure(line) for line in lines]
    wide = max(r.x1 - r.x0 for r in inks) / CAPITAL + 2 * _PAD + 0.2
    tall = sum(r.y1 - r.y0 for r in inks) / CAPITAL + _LEADING * (len(lines) - 1) + 2 * _PAD + 0.2
    return min(width / wide, height / tall)


def _put(height: int, width: int, size: tuple[int, int], place: str, capital: float) -> Rect:
    """The rectangle of a plate, so many pixels wide and high, at a place."""
    wide, tall = size
    down, across = place.split()
    margin = round(_MARGIN * capital)
    dx, dy = min(margin, (width - wide) // 2), min(margin, (height - tall) // 2)
    x = {"left": dx, "middle": (width - wide) // 2, "right": width - dx - wide}[across]
    y = dy if down == "top" else height - dy - tall
    return Rect(x, y, x + wide, y + tall)


def _wrapped(words: str, capital: float, height: int, width: int) -> list[str]:
    """Lines of words, no wider than most of the picture, and no more than go into half of it."""
    room = (0.8 * width - 2 * _PAD * capital) / capital * CAPITAL
    lines: list[str] = []
    line = ""
    for word in words.split():
        longer = f"{line} {word}".strip()
        if line and measure(longer).x1 > room:
            lines.append(line)
            longer = word
        while measure(longer).x1 > room and len(longer) > 1:
            cut = next(
                (n for n in range(len(longer) - 1, 1, -1)
                 if measure(longer[:n]).x1 <= room),
                1,
            )  # fmt: skip
            lines.append(longer[:cut])
            longer = longer[cut:]
        line = longer
    lines += [line] if line else []
    most = max(0, int((0.5 * height / capital - 2 * _PAD - _MARGIN) / (1.3 + _LEADING)) - 1)
    if 0 < most < len(lines):
        lines[most - 1] += "…"
    return lines[:most]


def _three(plane: Floats) -> Image:
    return np.repeat(np.rint(plane * 255).astype(np.uint8)[:, :, None], 3, axis=2)


class Found(NamedTuple):
    """A label that was found in a picture.

    Attributes:
        place: One of :data:`PLACES`.
        language: In which it speaks; where two look alike, the first of them.
        rect: The letters.
        score: Correlation with what is drawn, up to 1.
    """

    place: str
    language: str
    rect: Rect
    score: float


def find(image: Image) -> Found | None:
    """Look for the label in a picture, which may have been scaled and compressed since.

    The letters of each translation are correlated with the picture where the label would be, in
    every size that it could have; a picture that was cropped at the label's edge is not searched.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.

    Returns:
        The best match, None if there is none that is good enough.
    """
    good = (found for found in candidates(image) if found.score >= needed(found.rect))
    return max(good, key=lambda found: found.score - needed(found.rect), default=None)


def needed(rect: Rect) -> float:
    """Correlation from which letters in a rectangle count as found.

    In few pixels anything may look like letters by chance, which goes with one over the square
    root of their number; docs/marks.md has what was measured.
    """
    pixels = max(1, (rect.x1 - rect.x0) * (rect.y1 - rect.y0))
    return float(0.55 + 2.8 / np.sqrt(pixels))


_STEP = 1.03  # from one size that is tried to the next
_SEEN = 11.0  # capitals in a picture are scaled down to that many pixels before they are compared
_RIM = 0.3  # of the plate around the letters that is compared, in capitals
_LOOSE = 0.5  # how far letters may be from where they should be, in capitals


def candidates(image: Image) -> Iterator[Found]:
    """Yield the best match for every translation, size and place in a picture."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    height, width = grey.shape
    short = min(height, width)
    for lines, language in _searched(narrow=width < 200):
        most = _largest(lines, height, width)
        for capital in _sizes(short):
            if capital > 1.05 * most:
                break
            scale = min(1.0, _SEEN / capital)
            for side in ("left", "middle", "right"):
                template = _template(lines, round(16 * capital * scale) / 16, side)
                for down in ("bottom", "top"):
                    found = _match(grey, template, f"{down} {side}", capital, scale)
                    if found is not None:
                        yield found._replace(language=language)


def _sizes(short: int) -> list[float]:
    """Heights of capitals that are tried for a picture whose shorter side is so long.

    Those of the presets first of all, and larger ones for pictures that were small when they were
    marked, when :data:`LEAST` held.
    """
    least, most = 0.96 * SHARE["usual"] * short, max(1.04 * SHARE["regulated"] * short, LEAST + 1)
    ladder = [least * _STEP**n for n in range(200) if least * _STEP**n <= most]
    return sorted({max(3.5, size) for size in (*ladder, *(s * short for s in SHARE.values()))})


def _searched(*, narrow: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield lines and language of all labels, two lines included where pictures are narrow."""
    seen = set()
    for language, text in SAID.items():
        if text not in seen:
            seen.add(text)
            yield (text,), language
            for at in range(1, len(text) if narrow else 0):
                if text[at - 1] in " -":
                    yield (text[:at].rstrip(), text[at:]), language


@lru_cache(2000)  # a few hundred bytes each, the same from picture to picture
def _template(lines: tuple[str, ...], capital: float, side: str) -> Image:
    """The letters with some of the plate around them, ``(h, w)``."""
    return _plate(lines, capital, side, max(1, round(_RIM * capital)))


def _match(grey: Image, template: Image, place: str, capital: float, scale: float) -> Found | None:
    """Find a template, which is for a picture scaled by ``scale``, near its place."""
    height, width = grey.shape
    tall, wide = template.shape
    rim, pad = max(1, round(_RIM * capital * scale)), _pad(capital)
    plate = round((wide - 2 * rim) / scale) + 2 * pad, round((tall - 2 * rim) / scale) + 2 * pad
    rect, loose = _put(height, width, plate, place, capital), _LOOSE * capital + 2
    inset = pad - rim / scale - loose
    x0, y0 = max(0, round(rect.x0 + inset)), max(0, round(rect.y0 + inset))
    x1, y1 = min(width, round(rect.x1 - inset)), min(height, round(rect.y1 - inset))
    window = grey[y0:y1, x0:x1]
    if scale < 1:
        size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        window = np.asarray(cv2.resize(window, size, interpolation=cv2.INTER_AREA), np.uint8)
    if window.shape[0] < tall or window.shape[1] < wide:
        return None
    scores = cv2.matchTemplate(window, template, cv2.TM_CCOEFF_NORMED)
    _, score, _, (x, y) = cv2.minMaxLoc(scores)
    seen = window[y : y + tall, x : x + wide]
    if not np.isfinite(score) or int(seen.max()) - int(seen.min()) < _CONTRAST:
        return None
    corner = Rect(*(round(v / scale) for v in (x, y, x + wide, y + tall)))
    found = Rect(corner.x0 + x0, corner.y0 + y0, corner.x1 + x0, corner.y1 + y0)
    return Found(place, "", found, float(score))


_CONTRAST = 40  # grey levels between plate and letters; it is 90 where the label was drawn
