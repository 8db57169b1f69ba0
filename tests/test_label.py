"""The visible label: what it says, how it looks, where it goes, and that it is found again."""

from __future__ import annotations

import io
import time
from fractions import Fraction
from itertools import pairwise

import cv2
import numpy as np
import pytest

from material import PHOTO, PORTRAIT
from mien import api, config, media
from mien.cli.options import marks_of
from mien.errors import UsageError
from mien.provenance import Marker, Marks, label
from mien.provenance.placing import PATIENCE, Placer
from mien.types import Consent, Face, Frame, Rect

SELF = Consent("self")
BACKGROUNDS = {
    "white": np.full((64, 64, 3), 255, np.uint8),
    "black": np.zeros((64, 64, 3), np.uint8),
    "busy": np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8),
}


def face(x0, y0, x1, y1):
    return Face(np.array([x0, y0, x1, y1], np.float32), 0.9, np.zeros((5, 2), np.float32))


def background(kind, height, width):
    tile = cv2.resize(BACKGROUNDS[kind], (256, 256), interpolation=cv2.INTER_NEAREST)
    return np.ascontiguousarray(
        np.tile(tile, (-(-height // 256), -(-width // 256), 1))[:height, :width]
    )


def drawn(image, **how):
    """Draw a label; returns where."""
    made = label.render(label.layout(*image.shape[:2], **how))
    region = image[made.rect.slices()]
    region[...] = np.minimum(255, region * (made.keep / 255.0) + made.light).astype(np.uint8)
    return made.rect


def luminance(grey):
    """Relative luminance of an sRGB grey, WCAG 2.2."""
    value = grey / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


# --- what it says ---------------------------------------------------------------------------


def test_six_languages_are_there_and_more():
    assert {"en", "zh", "es", "de", "fr", "ja"} <= set(label.SAID)


def test_chinese_names_ai_and_generation():
    """GB 45438-2025, clause 5.2: 人工智能 or AI, and 生成 or 合成."""
    for language in ("zh", "zh-hant"):
        said = label.SAID[language]
        assert "人工智能" in said or "AI" in said
        assert "生成" in said or "合成" in said


def test_languages_look_different():
    sheets = {}
    for language, said in label.SAID.items():
        image = np.zeros((120, 480, 3), np.uint8)
        drawn(image, language=language)
        sheets.setdefault(image.tobytes(), set()).add(said)
    assert all(len(words) == 1 for words in sheets.values())
    assert len(sheets) >= len(set(label.SAID.values()))


@pytest.mark.parametrize(
    "text", ["take 2", "Größe, naïve, ł, ő", "ŽŠČ", "Ελλάδα", "Їжак", "カナかな"]
)
def test_words_can_be_drawn(text):
    Marks(words=text)
    image = np.zeros((360, 640, 3), np.uint8)
    drawn(image, words=text)
    plain = np.zeros((360, 640, 3), np.uint8)
    drawn(plain)
    assert (image > 200).sum() > (plain > 200).sum()


@pytest.mark.parametrize(
    ("text", "named"), [("喜", "U+559C"), ("hi 🙂", "U+1F642"), ("a\nb", "U+000A")]
)
def test_what_cannot_be_drawn_is_refused(text, named):
    with pytest.raises(UsageError, match=named.replace("+", r"\+")):
        Marks(words=text)


def test_unknown_languages_presets_and_long_words_are_refused():
    with pytest.raises(UsageError, match=r"'xx'.*en, zh"):
        Marks(language="xx")
    with pytest.raises(UsageError, match=r"'huge'.*usual, regulated"):
        Marks(preset="huge")
    with pytest.raises(UsageError, match="60"):
        Marks(words="x" * 61)


# --- how it looks ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (120, 160), (240, 320), (1080, 1920)])
@pytest.mark.parametrize("language", ["en", "zh", "pl"])
def test_it_fits_and_is_legible(size, language):
    for kind in BACKGROUNDS:
        image = background(kind, *size)
        before = image.copy()
        rect = drawn(image, language=language)
        inside = image[rect.slices()].astype(int)
        assert rect.x0 >= 0
        assert rect.y0 >= 0
        assert inside.shape == (rect.y1 - rect.y0, rect.x1 - rect.x0, 3)
        assert inside.max() >= 200
        outside = np.ones(size, bool)
        outside[rect.slices()] = False
        assert (image[outside] == before[outside]).all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_contrast_is_enough_on_any_plain_background(value):
    image = np.full((1080, 1920, 3), value, np.uint8)
    rect = drawn(image)
    grey = image[rect.slices()]
    light, dark = luminance(int(grey.max())), luminance(int(np.median(grey[:3])))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize("size", [(360, 640), (1080, 1920), (1920, 1080), (2160, 3840)])
@pytest.mark.parametrize("language", ["en", "zh", "pl"])
def test_regulated_letters_are_five_percent_high(size, language):
    """Measured on what is drawn: capitals, or in Chinese all letters, in rows that have ink."""
    image = np.zeros((*size, 3), np.uint8)
    rect = drawn(image, preset="regulated", language=language)
    ink = image[rect.slices()][:, :, 0] > 128
    left = np.flatnonzero(ink.any(0))[0]
    capital = ink[:, left : left + max(2, round(0.6 * (rect.y1 - rect.y0) / 2))]  # A, or W
    rows = np.flatnonzero(capital.any(1))
    assert rows[-1] - rows[0] + 1 >= 0.05 * min(size)


def test_it_is_small_otherwise():
    rect = label.layout(1080, 1920).rect
    assert (rect.x1 - rect.x0) * (rect.y1 - rect.y0) < 0.01 * 1080 * 1920


def test_words_stand_beside_and_leave_the_label_where_it_is():
    for place in label.PLACES:
        plain, more = (label.layout(720, 1280, place, words=words) for words in ("", "take 2"))
        first = 0 if place.startswith("top") else -1
        assert more.lines[first] == plain.lines[0] == "AI-generated"
        near = "y0" if place.startswith("top") else "y1"
        assert getattr(more.rect, near) == getattr(plain.rect, near)


def test_long_words_wrap_and_stay_inside():
    for size in ((64, 64), (120, 160), (720, 1280)):
        rect = label.layout(*size, words="w" * 30 + " " + "mm " * 9).rect
        assert rect.x0 >= 0
        assert rect.y0 >= 0
        assert rect.y1 - rect.y0 <= 0.75 * size[0]


# --- where it goes --------------------------------------------------------------------------


def marked_places(marker, boxes, seconds=None, size=(360, 640)):
    """Where the label was in each frame."""
    places = []
    for number, box in enumerate(boxes):
        timing = {} if seconds is None else {"pts": number, "time_base": Fraction(seconds)}
        frame = Frame(np.full((*size, 3), 90, np.uint8), number, **timing)
        marker(frame, [face(*box)] if box else [])
        (rect,) = frame.dirty
        down = "bottom" if rect.y0 > size[0] / 2 else "top"
        middle = (rect.x0 + rect.x1) / 2 / size[1]
        places.append((down, "left" if middle < 0.4 else "right" if middle > 0.6 else "middle"))
    return places


BOTTOM_RIGHT = (430, 200, 620, 355)


def test_a_photo_s_label_is_clear_of_the_face():
    marker = Marker(consent=SELF)
    assert marked_places(marker, [None, BOTTOM_RIGHT, None]) == [
        ("bottom", "right"),
        ("bottom", "left"),
        ("bottom", "right"),
    ]


@pytest.mark.parametrize("preset", ["usual", "regulated"])
def test_no_face_is_touched_where_there_is_room(preset):
    rng = np.random.default_rng(3)
    for _ in range(200):
        width, height = rng.uniform(40, 300), rng.uniform(40, 240)
        x, y = rng.uniform(0, 640 - width), rng.uniform(0, 360 - height)
        rects = {p: label.layout(360, 640, p, preset=preset).rect for p in label.PLACES}
        rect = rects[Placer()(rects, [face(x, y, x + width, y + height)])]
        across = min(rect.x1, x + width) - max(rect.x0, x)
        down = min(rect.y1, y + height) - max(rect.y0, y)
        assert across <= 0 or down <= 0


def test_where_no_place_is_free_the_least_covered_is_taken():
    rects = {"a": Rect(0, 0, 10, 10), "b": Rect(0, 50, 10, 60)}
    assert Placer()(rects, [face(-5, -5, 30, 45)]) == "b"


def test_a_video_s_label_stays_until_a_face_rests_on_it():
    marker = Marker(consent=SELF)
    passing = [None] * 5 + [BOTTOM_RIGHT] * int(PATIENCE * 25 - 1) + [None] * 20
    assert set(marked_places(marker, passing, "1/25")) == {("bottom", "right")}


def test_a_video_s_label_moves_once_and_does_not_come_back():
    marker = Marker(consent=SELF)
    boxes = [None] * 5 + [BOTTOM_RIGHT] * 50 + [None] * 100
    places = marked_places(marker, boxes, "1/25")
    moves = [n for n in range(1, len(places)) if places[n] != places[n - 1]]
    assert len(moves) == 1
    assert places[0] == ("bottom", "right")
    assert places[-1] == ("bottom", "left")
    assert 5 + PATIENCE * 25 <= moves[0] <= 7 + PATIENCE * 25


def test_a_face_that_trembles_at_the_label_s_edge_moves_it_once_at_most():
    rect = label.layout(360, 640).rect
    rng = np.random.default_rng(1)
    boxes = [
        (rect.x0 - 200, 120, rect.x0 + 20 + rng.normal(0, 12), 340 + rng.normal(0, 12))
        for _ in range(250)
    ]
    places = marked_places(Marker(consent=SELF), boxes, "1/25")
    assert sum(a != b for a, b in pairwise(places)) <= 1


def test_a_stream_that_begins_anew_begins_at_the_best_place():
    marker = Marker(consent=SELF)
    marked_places(marker, [BOTTOM_RIGHT] * 30, "1/25")
    assert marked_places(marker, [None], "1/25") == [("bottom", "right")]


def test_what_it_says_can_change_without_a_jump():
    marker = Marker(consent=SELF)
    assert marked_places(marker, [BOTTOM_RIGHT] * 2, "1/25")[-1] == ("bottom", "left")
    other = marker.changed(marks=Marks(words="on air"))
    frame = Frame(np.zeros((360, 640, 3), np.uint8), 2, pts=2, time_base=Fraction(1, 25))
    other(frame)
    assert frame.dirty[0].x0 < 100
    assert other.output_id == marker.output_id
    assert marker.anew().output_id != marker.output_id


# --- and is found again ---------------------------------------------------------------------


def scene(height, width, seed=0):
    """Something like a photo: blurred noise at several sizes, and edges."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for cells in (4, 12, 40, 120):
        coarse = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 40
    image += 120
    for _ in range(12):
        a, b = (tuple(int(v) for v in rng.integers(0, (width, height))) for _ in range(2))
        cv2.rectangle(image, a, b, [float(v) for v in rng.integers(0, 256, 3)], -1)
    return np.clip(image, 0, 255).astype(np.uint8)


def jpeg(image, quality=75):
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def half(image):
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


CASES = [
    ((540, 960), "en", "bottom right", "usual"),
    ((360, 640), "zh", "top left", "usual"),
    ((480, 270), "fr", "bottom middle", "regulated"),
    ((240, 320), "de", "bottom left", "usual"),
    ((360, 640), "ja", "top right", "regulated"),
]


@pytest.mark.parametrize(("size", "language", "place", "preset"), CASES)
def test_it_is_found_after_half_size_and_jpeg(size, language, place, preset):
    image = scene(*size)
    drawn(image, language=language, place=place, preset=preset, words="take 2")
    for seen in (jpeg(image), jpeg(half(image))):
        found = label.find(seen)
        assert found is not None
        assert (found.place, label.SAID[found.language]) == (place, label.SAID[language])


def test_it_is_found_after_h264():
    av = pytest.importorskip("av")
    images = [scene(360, 640, seed) for seed in (1, 1, 1)]
    file = io.BytesIO()
    for image in images:
        drawn(image, language="es")
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25, width=640, height=360, options={"crf": "28"})
        for image in images:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        out.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        last = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)][-1]
    for seen in (last, half(last)):
        found = label.find(seen)
        assert found is not None
        assert (found.place, found.language) == ("bottom right", "es")


def test_it_is_not_found_where_it_is_not():
    for size in ((64, 96), (360, 640)):
        assert label.find(scene(*size, seed=5)) is None
        assert label.find(background("busy", *size)) is None
    assert label.find(np.zeros((360, 640, 3), np.uint8)) is None
    assert label.find(np.zeros((3, 5, 3), np.uint8)) is None


def test_other_words_are_not_taken_for_it():
    image = scene(360, 640)
    cv2.rectangle(image, (460, 330), (636, 356), (40, 40, 40), -1)
    cv2.putText(image, "Channel Four", (470, 349), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255,) * 3, 2)
    assert label.find(image) is None


def test_a_label_that_was_painted_over_is_not_found():
    image = scene(360, 640)
    rect = drawn(image)
    image[rect.slices()] = cv2.GaussianBlur(image[rect.slices()], (0, 0), 6)
    assert label.find(image) is None


# --- options --------------------------------------------------------------------------------


def settings_from(tmp_path, text, environment=None):
    (tmp_path / "mien.toml").write_text(text, "utf-8")
    return config.load(folder=tmp_path, environment=environment or {})


def from_flags(settings, language=None, preset=None, **off):
    off = {"no_label": False, "no_watermark": False, "no_credentials": False, **off}
    return marks_of(settings, language, preset, **off)


def test_settings_say_what_the_label_says(tmp_path):
    settings = settings_from(
        tmp_path,
        '[marks]\nlanguage = "de"\nwords = "Folge 2"\nwatermark = false\nproducer = "001"\n',
    )
    assert from_flags(settings) == Marks(
        language="de", words="Folge 2", watermark_on=False, producer="001"
    )
    assert from_flags(settings, "fr", "regulated", no_label=True) == Marks(
        label_on=False,
        preset="regulated",
        language="fr",
        words="Folge 2",
        watermark_on=False,
        producer="001",
    )


def test_all_marks_are_on_where_nothing_is_said(tmp_path):
    marks = from_flags(settings_from(tmp_path, ""))
    assert marks == Marks()
    assert marks.label_on
    assert marks.watermark_on
    assert marks.credentials_on


def test_the_environment_says_it_too(tmp_path):
    there = {"MIEN_MARKS": "language=ja preset=regulated"}
    marks = from_flags(settings_from(tmp_path, '[marks]\nlanguage = "de"\n', there))
    assert (marks.language, marks.preset) == ("ja", "regulated")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[marks]\nlabell = true\n", r"mien\.toml: marks\.labell: unknown key; known are label,"),
        ('[marks]\npreset = "huge"\n', r"mien\.toml: marks\.preset: .*'usual' or 'regulated'"),
    ],
)
def test_wrong_settings_are_named(tmp_path, text, says):
    with pytest.raises(UsageError, match=says):
        settings_from(tmp_path, text)


def test_a_swapped_picture_says_it(swapper):
    me = api.enrol(PORTRAIT, "synthetic", swapper=swapper)
    marks = Marks(language="zh", preset="regulated")
    made = api.swap_image(media.read_image(PHOTO), me, marks=marks, swapper=swapper)
    found = label.find(made)
    assert found is not None
    assert found.language == "zh"
    assert found.rect.y1 - found.rect.y0 > 0.05 * min(made.shape[:2])


# --- cost -----------------------------------------------------------------------------------


def test_marking_is_cheap_with_faces_in_view():
    marker = Marker(consent=SELF)
    people = [face(300 * n, 200, 300 * n + 200, 440) for n in range(5)]
    spent = []
    for number in range(60):
        frame = Frame(
            np.zeros((1080, 1920, 3), np.uint8), number, pts=number, time_base=Fraction(1, 25)
        )
        begin = time.perf_counter()
        marker._draw(frame, people)
        spent.append(time.perf_counter() - begin)
    assert min(spent) < 0.5e-3  # 0.02 ms on an idle core; the rest is for busy machines
