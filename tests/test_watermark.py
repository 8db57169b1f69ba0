"""The invisible watermark: its bits, what it outlives, and how it gets into planes."""

from __future__ import annotations

import hashlib
import time
from itertools import islice

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange

from material import MEDIA, PHOTO
from mien.media import Marked, SinkOptions, open_sink, open_source, read_image
from mien.media import veil as veils
from mien.media.colour import Orientation, plane_rows
from mien.provenance import Marker, Marks, coding, watermark
from mien.provenance.watermark import Watermark, new_output_id, read
from mien.types import Consent, Frame

ID = 0xC0FFEE42
SELF = Consent("self")


@pytest.fixture(scope="module")
def photo():
    return read_image(PHOTO)


@pytest.fixture(scope="module")
def marked(photo):
    image = photo.copy()
    Watermark(ID).embed(image)
    return image


def psnr(one, two):
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - two) ** 2))


def jpeg(image, quality=75):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def scaled(image, factor):
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


# --- bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "number"), [(0, 0), (1, ID), (15, 2**32 - 1)])
def test_a_code_is_read_through_noise(version, number):
    rng = np.random.default_rng(7)
    code = coding.encode(version, number)
    assert code.shape == (coding.CODED,)
    assert set(code) == {-1, 1}
    for _ in range(5):
        soft = (code + rng.normal(0, 1, coding.CODED)).astype(np.float32)
        assert ((soft < 0) != (code < 0)).mean() > 0.1  # as many bits are wrong
        message = coding.decode(soft)
        assert (message.version, message.output_id) == (version, number)
        assert message.likeness == pytest.approx(0.71, abs=0.12)


def test_the_code_keeps_its_distance():
    """Free distance 24: two messages differ in at least as many coded bits."""
    rng = np.random.default_rng(3)
    codes = [coding.encode(1, ID ^ 1 << bit) for bit in range(32)]
    codes += [coding.encode(1, int(n)) for n in rng.integers(0, 2**32, 60)]
    apart = [(a != b).sum() for n, a in enumerate(codes) for b in codes[:n]]
    assert min(apart) >= 24


def test_noise_is_no_message():
    rng = np.random.default_rng(4)
    found = [coding.decode(rng.normal(size=coding.CODED).astype(np.float32)) for _ in range(300)]
    found = [message for message in found if message is not None]  # 1 in 4096 passes the check
    assert len(found) < 4
    assert all(coding.false_alarm_log10(message.likeness, 1) > -6 for message in found)


def test_the_bound_on_false_alarms_holds_and_is_near():
    rng = np.random.default_rng(5)
    soft = rng.standard_normal((50_000, coding.CODED), np.float32)
    cosines = soft @ coding.encode(1, ID) / np.linalg.norm(soft, axis=1) / np.sqrt(coding.CODED)
    for level in (0.12, 0.16):
        bound = 10 ** coding.cap_log10(level)
        assert 0.6 * bound < (cosines > level).mean() < 1.2 * bound


def test_false_alarms_count_payloads_and_placements():
    one = coding.false_alarm_log10(0.7, 1)
    assert one == pytest.approx(coding.cap_log10(0.7) + 36 * np.log10(2))
    assert coding.false_alarm_log10(0.7, 1000) == pytest.approx(one + 3)
    assert coding.false_alarm_log10(0.75, 1) < one
    assert coding.false_alarm_log10(0.1, 10) == coding.false_alarm_log10(-0.9, 1) == 0


def test_the_pattern_is_for_ever():
    """What is marked today is read by later versions: neither layout nor code may change."""
    layout = watermark._layout()
    words = layout.signs.astype("<i1").tobytes() + layout.owner.astype("<i2").tobytes()
    words += coding.encode(1, ID).astype("<i1").tobytes()
    assert hashlib.sha256(words).hexdigest()[:16] == "972f5f6c8dfe20ed"


def test_ids():
    ids = {new_output_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(0 < n < 2**32 for n in ids)
    for number in (-1, 2**32):
        with pytest.raises(ValueError, match=r"output id of 0\.\.2\^32-1"):
            Watermark(number)
    with pytest.raises(ValueError, match=r"version of 0\.\.15, not 16"):
        Watermark(1, version=16)


# --- pictures ---------------------------------------------------------------------------------


def test_it_is_faint(photo, marked):
    assert psnr(photo, marked) > 42
    change = marked.astype(int) - photo
    assert 1 <= np.abs(change).max() <= 4
    assert abs(change.mean()) < 0.05
    inner = (photo.min(-1) > 8) & (photo.max(-1) < 247)
    assert (np.ptp(change, axis=-1)[inner] == 0).all()  # brightness alone


def test_flat_pictures_change_least():
    flat = np.full((480, 640, 3), 128, np.uint8)
    after = flat.copy()
    Watermark(ID).embed(after)
    assert np.abs(after.astype(int) - flat).max() <= 2
    assert psnr(flat, after) > 47
    assert read(after).output_id == ID


def test_it_is_read_back(marked):
    found = read(marked)
    assert (found.output_id, found.version, found.frames) == (ID, watermark.VERSION, 1)
    assert found.false_alarm_log10 < -20
    assert found.region == (0, 0, 1, 1)
    assert not found.turned
    assert found.confidence > 0.999999


@pytest.mark.parametrize(
    "attack",
    [
        jpeg,
        lambda image: cv2.resize(scaled(image, 0.5), image.shape[1::-1]),
        lambda image: jpeg(cv2.GaussianBlur(scaled(image, 0.83), (0, 0), 0.8)),
        lambda image: cv2.convertScaleAbs(image, alpha=0.85, beta=20),
        lambda image: np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, 2),
        lambda image: cv2.resize(image, (700, 700)),
    ],
    ids=["jpeg 75", "half", "screenshot", "contrast", "grey", "stretched"],
)
def test_it_outlives(marked, attack):
    assert read(attack(marked), search=False).output_id == ID


@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.07, 0.03), (0.1, 0.1)])
def test_a_crop_is_put_back_into_its_place(marked, corner):
    height, width = marked.shape[:2]
    x, y = round(corner[0] * width), round(corner[1] * height)
    part = jpeg(marked[y : y + round(0.9 * height), x : x + round(0.9 * width)])
    assert read(part, search=False) is None
    found = read(part)
    assert found.output_id == ID
    assert found.region == pytest.approx(
        (x / width, y / height, x / width + 0.9, y / height + 0.9), abs=0.006
    )


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_mirrored_and_turned(marked, turns, mirror):
    image = marked[:, ::-1] if mirror else marked
    found = read(np.ascontiguousarray(np.rot90(image, turns)), search=False)
    assert found.output_id == ID


def test_unmarked_pictures_say_nothing(photo):
    for image in (photo, np.zeros_like(photo), np.full_like(photo, 255)):
        assert read(np.ascontiguousarray(image)) is None


def test_unmarked_footage_says_nothing(footage):
    paths = sorted((footage / "portraits").glob("*.jpg"))[::3]
    assert paths
    for path in paths:
        assert read(read_image(path), search=False) is None


def test_real_photos_after_jpeg(footage):
    paths = sorted((footage / "portraits").glob("*.jpg"))[::2]
    missed = []
    for path in paths:
        image = read_image(path)
        before = image.copy()
        Watermark(ID).embed(image)
        assert psnr(image, before) > 42
        found = read(jpeg(image), search=False)
        if found is None or found.output_id != ID:
            missed.append(path.name)
    assert not missed


def test_too_small_a_picture_is_left_alone():
    image = np.random.default_rng(0).integers(0, 255, (watermark.SMALLEST - 1, 300, 3), np.uint8)
    before = image.copy()
    Watermark(ID).embed(image)
    assert (image == before).all()
    assert read(image) is None
    assert Watermark(ID).veil(image).shape == (watermark.ROWS, watermark.COLUMNS)
    tall = np.ascontiguousarray(image.transpose(1, 0, 2))
    assert Watermark(ID).veil(tall).shape == (watermark.COLUMNS, watermark.ROWS)


def test_the_veil_takes_luma_as_well(photo):
    luma = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    one, two = Watermark(ID).veil(photo), Watermark(ID).veil(luma)
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.98


def test_it_is_cheap():
    image = cv2.resize(read_image(PHOTO), (1920, 1080))
    mark, spent = Watermark(ID), []
    mark.embed(image)
    for _ in range(25):
        begin = time.perf_counter()
        mark.embed(image)
        spent.append(time.perf_counter() - begin)
    assert min(spent) < 8e-3  # 3.5 ms on an idle core; the rest is for busy machines


# --- frames and planes ------------------------------------------------------------------------


def test_the_marker_writes_pixels_or_leaves_it_to_the_sink(photo):
    marker = Marker(Marks(label_on=False), consent=SELF, output_id="c0ffee42")
    still = marker(Frame(photo.copy()))
    assert still.veil is None
    assert read(still.frame.image).output_id == ID
    decoded = av.VideoFrame.from_ndarray(photo, "rgb24").reformat(format="yuv420p")
    moving = marker(Frame(photo.copy(), origin=decoded))
    assert moving.veil.shape == (watermark.ROWS, watermark.COLUMNS)
    assert (moving.frame.image == photo).all()
    off = Marker(Marks(label_on=False, watermark_on=False), consent=SELF)
    for origin in (None, decoded):
        untouched = off(Frame(photo.copy(), origin=origin))
        assert untouched.veil is None
        assert (untouched.frame.image == photo).all()


def frames(path, count=None):
    with open_source(path) as source:
        return [frame.image for frame in islice(source, count)]


def test_a_clip_is_read_after_crf_28(tmp_path):
    marker = Marker(consent=SELF, output_id="c0ffee42")
    clip = MEDIA / "clip.mp4"
    options = SinkOptions(quality=28)
    with (
        open_source(clip, end=2) as source,
        open_sink(tmp_path / "out.mp4", source, options=options, metadata={}) as sink,
    ):
        for frame in source:
            sink.write(marker(frame))
    images = frames(tmp_path / "out.mp4")
    found = read(iter(images))
    assert (found.output_id, found.frames) == (ID, 50)
    part = [np.ascontiguousarray(image[30:462, 20:596]) for image in images[:25]]
    assert read(part).output_id == ID


def test_no_more_frames_are_read_than_needed():
    image, taken = scaled(read_image(PHOTO), 0.4), []

    def film():
        for number in range(10_000):
            taken.append(number)
            yield image

    assert read(film(), search=False) is None
    assert len(taken) == watermark.WINDOW * (2 * watermark.WINDOWS - 1)
    Watermark(ID).embed(image)
    taken.clear()
    assert read(film()).output_id == ID
    assert len(taken) == watermark.WINDOW
    assert read([]) is None


def planes_of(frame):
    return [rows.copy() for rows in plane_rows(frame)]


FORMATS = ["yuv420p", "yuvj420p", "yuv420p10le", "yuv444p12le", "nv12", "gray", "yuva420p"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("turns", [0, 1])
def test_luma_takes_the_veil_and_chroma_does_not(photo, name, turns):
    orientation = Orientation(turns=turns)
    stored = np.ascontiguousarray(orientation.undo(photo))
    frame = av.VideoFrame.from_ndarray(stored, "rgb24").reformat(format=name)
    before = planes_of(frame)
    assert veils.fits(frame.format)
    veils.add_to_luma(frame, Watermark(ID).veil(photo), orientation)
    after = planes_of(frame)
    for old, new in zip(before[1:], after[1:], strict=True):
        assert (old == new).all()
    unit = 2 ** (frame.format.components[0].bits - 8)
    kind = np.uint8 if unit == 1 else np.uint16
    old, new = (planes[0].view(kind).astype(int) for planes in (before, after))
    assert unit <= np.abs(new - old).max() <= 4 * unit
    shown = orientation.apply(np.ascontiguousarray(frame.reformat(format="rgb24").to_ndarray()))
    assert read(shown, search=False).output_id == ID


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("full", [False, True])
def test_samples_stay_within_their_range(name, full):
    """Black and white stay, and so does what a careless camera left beyond them."""
    frame = av.VideoFrame(640, 480, name)
    frame.color_range = ColorRange.JPEG if full else ColorRange.MPEG
    kind, unit = (np.uint8, 1) if name == "yuv420p" else (np.uint16, 4)
    black, white = (0, 256 * unit - 1) if full else (16 * unit, 235 * unit)
    values = [black, white] if full else [black, white, 3 * unit, 250 * unit]
    luma = plane_rows(frame)[0].view(kind)[:, :, 0]
    for number, value in enumerate(values):
        luma[number * 100 : (number + 1) * 100] = value
    luma[400:] = 120 * unit
    veil = np.where(np.arange(96 * 144).reshape(96, 144) % 2, 2.5, -2.5).astype(np.float32)
    veils.add_to_luma(frame, veil, Orientation())
    after = plane_rows(frame)[0].view(kind)[:, :, 0].astype(int)
    assert after[:90].min() == black
    assert after[110:190].max() == white
    if not full:
        assert after[210:290].min() == 3 * unit  # lighter is allowed, darker not
        assert after[310:390].max() == 250 * unit
    assert after[420:].min() < 120 * unit < after[420:].max()


def film(path, codec, pixels, rotation=None, options=None):
    image = cv2.resize(read_image(PHOTO), (480, 320))
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=24, width=480, height=320, options=options or {})
        stream.pix_fmt = pixels
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("codec", "pixels", "rotation"),
    [
        ("libx264", "yuv420p", None),
        ("libx264", "yuv420p", 90),
        ("libx264", "yuv420p10le", None),
        ("libx264", "yuvj420p", None),
        ("ffv1", "gray", None),
        ("ffv1", "bgr0", None),
    ],
)
def test_every_kind_of_video_carries_it(tmp_path, codec, pixels, rotation):
    path = film(tmp_path / "in.mkv", codec, pixels, rotation)
    marker = Marker(Marks(label_on=False), consent=SELF, output_id="c0ffee42")
    options = SinkOptions(codec, quality=None if codec == "ffv1" else 10)
    with (
        open_source(path) as source,
        open_sink(tmp_path / "out.mkv", source, options=options, metadata={}) as sink,
    ):
        for frame in source:
            sink.write(marker(frame))
    assert read(frames(tmp_path / "out.mkv"), search=False).output_id == ID


def test_without_it_the_planes_are_as_they_were(tmp_path):
    """With every mark off, nothing of a frame is touched on its way to the encoder."""
    path = film(tmp_path / "in.mkv", "libx264", "yuv420p")
    off = Marker(Marks(label_on=False, watermark_on=False), consent=SELF)
    on = Marker(Marks(label_on=False), consent=SELF)
    for marker, same in ((off, True), (on, False)):
        with (
            open_source(path) as source,
            open_sink(tmp_path / f"{same}.mkv", source, metadata={}) as sink,
        ):
            for frame in source:
                before = planes_of(frame.origin)
                sink.write(marker(frame))
                after = planes_of(frame.origin)
                assert (before[0] == after[0]).all() == same
                assert np.abs(before[0].astype(int) - after[0]).max() <= 4
                assert all((a == b).all() for a, b in zip(before[1:], after[1:], strict=True))


def test_a_larger_picture_than_was_decoded(tmp_path):
    path = film(tmp_path / "in.mkv", "libx264", "yuv420p")
    mark = Watermark(ID)
    with (
        open_source(path) as source,
        open_sink(tmp_path / "out.mkv", source, metadata={}, size=(960, 640)) as sink,
    ):
        for frame in source:
            frame.image = frame.image.repeat(2, 0).repeat(2, 1)
            sink.write(Marked(frame, mark.write(frame)))
    assert read(frames(tmp_path / "out.mkv"), search=False).output_id == ID
