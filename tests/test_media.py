"""Sources and sinks: what goes in comes out, but for the rectangles that were changed."""

from __future__ import annotations

import gc
import os
import struct
import subprocess
import sys
import weakref
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from mien import media
from mien.errors import MediaError
from mien.media import Marked, SinkOptions, open_sink, open_source, read_image
from mien.media.colour import Converter, Orientation, matrix_of, plane_rows, range_of
from mien.types import Rect

ROOT = Path(__file__).parent.parent
FOOTAGE = Path(os.environ.get("MIEN_TEST_MEDIA", ROOT.parent / "shared" / "media"))
CLIPS = sorted((FOOTAGE / "clips").glob("*.mp4"))
LIBX265 = {"x265-params": "log-level=none"}


def picture(width, height, index):
    """A gradient on which a patch walks."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y + 3 * index) % 256], -1)
    left = 5 * index % (width // 2)
    image[height // 4 : height // 2, left : left + 20] = (200, 120, 90)
    return image.astype(np.uint8)


def make_clip(
    path,
    codec="libx264",
    size=(160, 120),
    count=24,
    pixels="yuv420p",
    base=Fraction(1, 24),
    pts=None,
    audio=0,
    subtitle=None,
    rotation=None,
    tags=None,
    options=None,
):
    """Write a small clip with PyAV; returns its path."""
    os.environ.setdefault("SVT_LOG", "1")
    pts = pts or list(range(count))
    with av.open(str(path), "w") as out:
        video = out.add_stream(
            codec, rate=24, width=size[0], height=size[1], time_base=base, options=options or {}
        )
        video.pix_fmt = pixels
        for name, value in (tags or {}).items():
            setattr(video.codec_context, name, value)
        if rotation is not None:
            video.set_display_rotation(rotation)
        sounds = [out.add_stream("aac", rate=48000) for _ in range(audio)]
        for sound, language in zip(sounds, ("eng", "deu"), strict=False):
            sound.metadata["language"] = language
        words = out.add_mux_stream(subtitle) if subtitle else None
        for index, time in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(picture(*size, index), "rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = time, base
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for number, sound in enumerate(sounds):
            for at in range(0, 2000 * count - 1024, 1024):
                wave = np.sin(2 * np.pi * 220 * (number + 1) * np.arange(at, at + 1024) / 48000)
                chunk = np.stack([0.2 * wave] * 2).astype(np.float32)
                sample = av.AudioFrame.from_ndarray(chunk, "fltp", "stereo")
                sample.sample_rate, sample.pts, sample.time_base = 48000, at, Fraction(1, 48000)
                out.mux(sound.encode(sample))
            out.mux(sound.encode(None))
        for number in range(3 if words else 0):
            text = b"line %d" % number
            if subtitle == "mov_text":
                text = len(text).to_bytes(2, "big") + text
            packet = av.Packet(text)
            packet.stream, packet.time_base = words, Fraction(1, 1000)
            packet.pts = packet.dts = 250 * number
            packet.duration = 200
            out.mux(packet)
    return path


def frames_of(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def times(path):
    return [f.pts * f.time_base for f in frames_of(path)]


def packets(path):
    """Bytes and exact time of each packet of sound and subtitles."""
    with av.open(str(path)) as container:
        streams = [s for s in container.streams if s.type in ("audio", "subtitle")]
        return [
            [(bytes(p), p.pts * p.time_base) for p in again.demux(again.streams[s.index]) if p.size]
            for s in streams
            for again in [av.open(str(path))]
        ]


def paint(frame, rect, colour=(250, 10, 60)):
    frame.image[rect.slices()] = colour
    frame.mark_dirty(rect)


def copy(source_path, target, *, change=None, **more):
    """Send a file through source and sink; returns how many frames went, and how many damaged."""
    options = more.pop("options", None)
    with (
        open_source(source_path, **more) as source,
        open_sink(target, source, options=options, metadata={"mien_version": "0"}) as sink,
    ):
        count = 0
        for frame in source:
            if change:
                change(frame)
            sink.write(Marked(frame))
            count += 1
        return count, source.damaged


# --- images ---------------------------------------------------------------------------------


def write_bytes(path, data):
    path.write_bytes(data)
    return path


def bgr(width=40, height=30):
    return np.ascontiguousarray(picture(width, height, 0)[:, :, ::-1])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_reads_rgb(tmp_path, suffix):
    image = np.zeros((30, 40, 3), np.uint8)
    image[:, :20] = (255, 0, 0)
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), image[:, :, ::-1])
    read = read_image(path)
    assert read.shape == (30, 40, 3)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    assert np.abs(read[15, 5].astype(int) - (255, 0, 0)).max() < 12


@pytest.mark.parametrize(
    "array",
    [
        np.full((8, 9), 77, np.uint8),
        np.full((8, 9), 77 * 257, np.uint16),
        np.full((8, 9, 4), 77, np.uint8),
        np.full((8, 9, 3), 77 * 257, np.uint16),
    ],
    ids=["grey", "grey16", "alpha", "16bit"],
)
def test_any_png_becomes_rgb(tmp_path, array):
    cv2.imwrite(str(tmp_path / "a.png"), array)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.full((8, 9, 3), 77, np.uint8))


def exif(orientation):
    return np.frombuffer(
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"
        + struct.pack("<HH", orientation, 0)
        + b"\0\0\0\0",
        np.uint8,
    )


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_honoured(tmp_path, orientation, turns):
    _, data = cv2.imencodeWithMetadata(
        ".jpg", bgr(), [cv2.IMAGE_METADATA_EXIF], [exif(orientation)], []
    )
    path = write_bytes(tmp_path / "a.jpg", data.tobytes())
    expected = np.rot90(picture(40, 30, 0), turns)
    assert np.abs(read_image(path).astype(int) - expected).mean() < 12


def png_header(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + struct.pack(">I", 0)
        + b"IEND\xaeB`\x82"
    )


def encoded(suffix):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    return cv2.imencode(suffix, noise)[1].tobytes()


BAD_IMAGES = {
    "bomb.png": (png_header(60000, 60000), "megapixels"),
    "half.png": (encoded(".png")[:4000], "damaged or cut off"),
    "half.jpg": (encoded(".jpg")[:3000], "damaged or cut off"),
    "head.jpg": (encoded(".jpg")[:100], "damaged or cut off"),
    "half.webp": (encoded(".webp")[:1000], "damaged or cut off"),
    "garbage.jpg": (b"\xff\xd8\xff\xe0" + bytes(range(256)) * 9, "damaged"),
    "zero.png": (b"", "zero bytes"),
    "text.jpg": (b"just words, no picture at all, and more words", "is not a JPEG"),
    "empty.png": (png_header(0, 5), "no pixels"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image_is_an_error_that_names_file_and_cause(tmp_path, name):
    data, cause = BAD_IMAGES[name]
    with pytest.raises(MediaError, match=cause) as error:
        read_image(write_bytes(tmp_path / name, data))
    assert str(tmp_path / name) in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(MediaError, match="no such file"):
        read_image(tmp_path / "none.jpg")
    for open_it in (read_image, open_source, media.read_metadata):
        with pytest.raises(MediaError, match="is a folder"):
            open_it(tmp_path)
    with pytest.raises(MediaError, match="no such folder"):
        media.list_images(tmp_path / "none")


def test_kind_and_folder_listing_go_by_content(tmp_path):
    write_bytes(tmp_path / "b.dat", encoded(".png"))
    write_bytes(tmp_path / "a.png", b"words")
    write_bytes(tmp_path / "c.jpg", encoded(".jpg"))
    write_bytes(tmp_path / ".hidden.jpg", encoded(".jpg"))
    write_bytes(tmp_path / "zero.jpg", b"")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in media.list_images(tmp_path)] == ["b.dat", "c.jpg"]
    assert media.kind_of(tmp_path / "a.png") == "video"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_image_goes_through_and_carries_words(tmp_path, suffix):
    path = write_bytes(tmp_path / "in.png", encoded(".png"))
    target = tmp_path / f"out{suffix}"
    words = {"mien_version": "1", "mien_consent_note": 'a "quoted" <note> & ümlaut 同意'}
    with open_source(path) as source, open_sink(target, source, metadata=words) as sink:
        assert (source.info.kind, source.info.width, source.info.height) == ("image", 80, 60)
        for frame in source:
            paint(frame, Rect(10, 10, 30, 30))
            sink.write(Marked(frame))
    assert media.read_metadata(target) == words
    out, before = read_image(target), read_image(path)
    assert np.abs(out[20, 20].astype(int) - (250, 10, 60)).max() < 20
    if suffix == ".png":
        assert np.array_equal(out[40:], before[40:])


def test_alpha_and_colour_profile_are_kept(tmp_path):
    profile = np.frombuffer(bytes(16) + b"RGB " + bytes(108), np.uint8)
    bgra = np.dstack([bgr(), np.full((30, 40), 99, np.uint8)])
    _, data = cv2.imencodeWithMetadata(".webp", bgra, [cv2.IMAGE_METADATA_ICCP], [profile], [])
    path = write_bytes(tmp_path / "in.webp", data.tobytes())
    assert copy(path, tmp_path / "out.webp") == (1, 0)
    out, kinds, chunks = cv2.imreadWithMetadata(str(tmp_path / "out.webp"), flags=-1)
    assert np.array_equal(out[:, :, 3], bgra[:, :, 3])
    kept = np.asarray(chunks[list(kinds).index(cv2.IMAGE_METADATA_ICCP)]).ravel()
    assert np.array_equal(kept, profile)


def test_an_image_sink_takes_one_picture(tmp_path):
    path = write_bytes(tmp_path / "in.png", encoded(".png"))
    with open_source(path) as source:
        frame = next(iter(source))
        sink = open_sink(tmp_path / "out.png", source, metadata={})
        with pytest.raises(MediaError, match="no picture"):
            sink.close()
        sink = open_sink(tmp_path / "out.png", source, metadata={})
        sink.write(Marked(frame))
        with pytest.raises(MediaError, match="holds one picture"):
            sink.write(Marked(frame))
        assert not sink.abort()
    assert [p.name for p in tmp_path.iterdir()] == ["in.png"]


# --- video: what is kept ----------------------------------------------------------------------

VARIABLE = [3000 * i + i % 5 * 611 + 7 * i * i for i in range(24)]
KINDS = {
    "h264.mp4": {},
    "hevc.mp4": {"codec": "libx265", "options": LIBX265},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "10"}},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "variable.mp4": {"base": Fraction(1, 90000), "pts": VARIABLE},
    "late.mp4": {"base": Fraction(1, 15360), "pts": [640 * i + 5123 for i in range(24)]},
    "ntsc.mov": {"base": Fraction(1001, 30000)},
    "tenbit.mp4": {"pixels": "yuv420p10le"},
    "422.mp4": {"pixels": "yuv422p"},
    "444.mkv": {"pixels": "yuv444p"},
    "full.mp4": {"pixels": "yuvj420p"},
    "odd.webm": {"codec": "libvpx-vp9", "size": (161, 121)},
    "odd444.mkv": {"pixels": "yuv444p", "size": (161, 121)},
    "grey.mkv": {"codec": "ffv1", "pixels": "gray"},
    "packed.mov": {"codec": "rawvideo", "pixels": "yuyv422"},
    "quarter.mkv": {"codec": "ffv1", "pixels": "yuv410p"},
    "two.mp4": {"audio": 2},
    "subtitle.mkv": {"audio": 1, "subtitle": "subrip"},
    "subtitle.mp4": {"audio": 1, "subtitle": "mov_text"},
    "stream.ts": {"audio": 1},
    "turned90.mp4": {"rotation": 90},
    "turned180.mov": {"rotation": 180},
    "turned270.mkv": {"rotation": -90},
}


@pytest.mark.parametrize("name", KINDS)
def test_kept_but_for_the_rectangles(tmp_path, name):
    path = make_clip(tmp_path / name, **KINDS[name])
    pixels = KINDS[name].get("pixels")
    options = SinkOptions(encoder="ffv1") if pixels in ("yuv410p", "gray") else None
    target = tmp_path / f"out{path.suffix if path.suffix != '.ts' else '.mp4'}"
    rect = Rect(41, 31, 81, 71)

    with (
        open_source(path) as source,
        open_sink(target, source, options=options, metadata={}) as sink,
    ):
        for frame in source:
            before = [rows.copy() for rows in plane_rows(frame.origin)]
            paint(frame, rect)
            sink.write(Marked(frame))
            height, width = before[0].shape[:2]
            stored = source.orientation.undo_rect(rect, width, height).even(width, height, 4)
            for old, new in zip(before, plane_rows(frame.origin), strict=True):
                across, down = -(-width // old.shape[1]), -(-height // old.shape[0])
                kept = np.ones(old.shape[:2], bool)
                kept[
                    stored.y0 // down : -(-stored.y1 // down),
                    stored.x0 // across : -(-stored.x1 // across),
                ] = False
                assert np.array_equal(old[kept], new[kept])
                assert kept.mean() > 0.7
            assert not np.array_equal(before[0], plane_rows(frame.origin)[0])

    milliseconds = target.suffix in (".mkv", ".webm")  # all that Matroska stores
    expected = times(path)
    assert [round(t * 1000) for t in times(target)] == [round(t * 1000) for t in expected]
    assert milliseconds or times(target) == expected
    if path.suffix != ".ts":  # there every packet begins with a header that MP4 must not have
        assert packets(target) == packets(path)
    with open_source(path) as a, open_source(target) as b:
        assert (a.info.width, a.info.height) == (b.info.width, b.info.height)
        assert float(a.info.fps) == pytest.approx(float(b.info.fps), rel=0.05)
        assert a.matrix == b.matrix
        red = next(iter(b)).image[51, 61].astype(int)
        if pixels != "gray":
            assert np.abs(red - (250, 10, 60)).max() < 40


def test_several_tracks_keep_language_and_container_words(tmp_path):
    path = make_clip(tmp_path / "in.mp4", audio=2)
    copy(path, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert [s.metadata["language"] for s in out.streams.audio] == ["eng", "deu"]
        assert out.metadata["mien_version"] == "0"


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotated_video_is_shown_upright(tmp_path, rotation):
    path = make_clip(tmp_path / "in.mp4", rotation=rotation, count=2)
    with open_source(path) as source:
        frame = next(iter(source))
    stored = Converter().image(frame.origin)
    assert np.array_equal(frame.image, np.rot90(stored, rotation // 90))
    assert frame.image.flags.c_contiguous
    assert frame.origin.rotation % 360 == rotation % 360


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_orientation_maps_rectangles_as_it_maps_pixels(flip, turns):
    stored = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    orientation, rect = Orientation(flip, turns), Rect(1, 2, 4, 4)
    shown = orientation.apply(stored)
    assert np.array_equal(orientation.undo(shown), stored)
    there = orientation.redo_rect(rect, 7, 5)
    assert orientation.undo_rect(there, 7, 5) == rect
    part = np.ascontiguousarray(stored[rect.slices()])
    assert np.array_equal(shown[there.slices()], orientation.apply(part))


COLOURS = {  # weights of red and blue: ITU-R BT.601, BT.709, BT.2020
    5: (0.299, 0.114),
    1: (0.2126, 0.0722),
    9: (0.2627, 0.0593),
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", COLOURS)
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le"])
def test_colours_follow_matrix_and_range(pixels, matrix, full):
    kr, kb = COLOURS[matrix]
    depth = 10 if "10" in pixels else 8
    red, green, blue = 200 / 255, 60 / 255, 90 / 255
    y = kr * red + (1 - kr - kb) * green + kb * blue
    u, v = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
    unit = 2 ** (depth - 8)
    top = 2**depth - 1
    codes = (
        (y * top, u * top + 128 * unit, v * top + 128 * unit)
        if full
        else ((16 + 219 * y) * unit, (128 + 224 * u) * unit, (128 + 224 * v) * unit)
    )
    frame = av.VideoFrame(64, 48, pixels)
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    kind = "<u2" if depth > 8 else np.uint8
    for rows, code in zip(plane_rows(frame), codes, strict=True):
        rows[...] = np.full((*rows.shape[:2], 1), round(code), kind).view(np.uint8)

    converter = Converter()
    image = converter.image(frame)
    assert np.abs(image[20, 30].astype(int) - (200, 60, 90)).max() <= 4

    # White differs from the colour by known codes, so it must come out as white.
    image[8:40, 8:40] = 255
    converter.write_back(image, frame, [Rect(8, 8, 40, 40)])
    after = [rows.view(kind)[:, :, 0].astype(int) for rows in plane_rows(frame)]
    white = top if full else 235 * unit
    assert abs(after[0][20, 20] - white) <= 3 * unit
    assert abs(after[1][10, 10] - 128 * unit) <= 3 * unit
    assert abs(after[2][10, 10] - 128 * unit) <= 3 * unit


@pytest.mark.parametrize("size", [(160, 120), (161, 121)])
@pytest.mark.parametrize(
    "pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv410p", "gray", "yuva420p"]
)
def test_pixels_that_did_not_change_are_not_written(pixels, size):
    frame = av.VideoFrame.from_ndarray(picture(*size, 3), "rgb24").reformat(format=pixels)
    before = [rows.copy() for rows in plane_rows(frame)]
    converter = Converter()
    image = converter.image(frame)
    converter.write_back(image, frame, [Rect(21, 33, 97, 88), Rect(100, 90, *size)])
    assert all(map(np.array_equal, before, plane_rows(frame)))


def test_whiter_than_white_does_not_shine_through():
    frame = av.VideoFrame(64, 48, "yuv420p")
    for rows, code in zip(plane_rows(frame), (254, 128, 128), strict=True):
        rows[...] = code
    converter = Converter()
    image = converter.image(frame)
    image[:, :32] = 0
    converter.write_back(image, frame, [Rect(0, 0, 40, 48)])
    luma = plane_rows(frame)[0]
    assert luma[10, 10] <= 19
    assert luma[10, 36] == 254


def test_unsaid_matrix_goes_by_size():
    assert matrix_of(av.VideoFrame(640, 480, "yuv420p")).name == "ITU601"
    assert matrix_of(av.VideoFrame(1280, 720, "yuv420p")).name == "ITU709"
    assert range_of(av.VideoFrame(64, 48, "yuv420p")).name == "MPEG"
    assert range_of(av.VideoFrame(64, 48, "yuvj420p")).name == "JPEG"


def test_colour_tags_are_kept(tmp_path):
    tags = {"colorspace": 9, "color_primaries": 9, "color_trc": 16, "color_range": 1}
    path = make_clip(tmp_path / "in.mp4", pixels="yuv420p10le", tags=tags)
    copy(path, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as out:
        context = out.streams.video[0].codec_context
        assert {name: getattr(context, name) for name in tags} == tags
        assert context.pix_fmt == "yuv420p10le"


@pytest.mark.parametrize(
    ("pixels", "wanted"), [("yuv420p10le", "yuv420p"), ("yuv420p", "yuv444p"), ("yuvj420p", None)]
)
def test_pixel_format_may_change_without_changing_colours(tmp_path, pixels, wanted):
    path = make_clip(tmp_path / "in.mp4", pixels=pixels)
    options = SinkOptions("libx264" if wanted else "libsvtav1", pixel_format=wanted)
    copy(path, tmp_path / "out.mp4", options=options)
    with open_source(path) as a, open_source(tmp_path / "out.mp4") as b:
        assert b.info.pixel_format == (wanted or "yuv420p")
        difference = next(iter(a)).image.astype(int) - next(iter(b)).image
    assert np.abs(difference).mean() < 4


def test_trim_keeps_frames_and_sound_in_step(tmp_path):
    path = make_clip(tmp_path / "in.mp4", audio=1, count=48)
    assert copy(path, tmp_path / "out.mp4", start=0.5, end=1.5) == (24, 0)
    assert times(tmp_path / "out.mp4") == [Fraction(i, 24) for i in range(24)]
    whole = dict(packets(path)[0])
    kept = packets(tmp_path / "out.mp4")[0]
    assert 45 <= len(kept) <= 48
    for data, time in kept:
        assert abs(whole[data] - Fraction(1, 2) - time) < Fraction(1, 40000)
    with open_source(path, start=0.5, end=1.5) as source:
        assert source.info.frames == 24
        assert source.info.duration == pytest.approx(1.0, abs=0.05)


def test_a_closed_file_lets_go_of_its_decoder(tmp_path):
    path = make_clip(tmp_path / "in.mp4")
    gc.disable()
    try:
        source = open_source(path)
        next(iter(source))  # not read to its end
        known = weakref.ref(source)
        source.close()
        del source
        assert known() is None
    finally:
        gc.enable()


# --- video: what is refused, and what is left behind ------------------------------------------


def leftovers(folder, *known):
    return sorted(p.name for p in folder.iterdir() if p.name not in known)


def test_only_marked_frames_leave(tmp_path):
    path = make_clip(tmp_path / "in.mp4", count=3)
    image = write_bytes(tmp_path / "in.png", encoded(".png"))
    for one, out in ((path, "out.mp4"), (image, "out.png")):
        with (
            open_source(one) as source,
            pytest.raises(TypeError, match="what provenance marked"),
            open_sink(tmp_path / out, source, metadata={}) as sink,
        ):
            sink.write(next(iter(source)))
    assert leftovers(tmp_path, "in.mp4", "in.png") == []


def bad_video(folder, name):
    good = make_clip(folder / "good.mp4", audio=1).read_bytes()
    contents = {
        "text.mp4": b"these are words, not a film\n" * 9,
        "zero.mp4": b"",
        "cut.mp4": good[: len(good) // 2],
        "sound.mp4": None,
    }
    if contents[name] is not None:
        return write_bytes(folder / name, contents[name])
    with av.open(str(folder / name), "w") as out:
        sound = out.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate, frame.pts = 48000, 0
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return folder / name


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("text.mp4", "not an image or a video"),
        ("zero.mp4", "zero bytes"),
        ("cut.mp4", "cut off"),
        ("sound.mp4", "no video stream"),
    ],
)
def test_bad_video_is_an_error_that_names_file_and_cause(tmp_path, name, cause):
    path = bad_video(tmp_path, name)
    with pytest.raises(MediaError, match=cause) as error:
        open_source(path)
    assert str(path) in str(error.value)


def test_cut_off_video_with_its_index_in_front(tmp_path):
    path = make_clip(tmp_path / "in.mp4", audio=1)
    fast = tmp_path / "fast.mp4"
    with av.open(str(path)) as a, av.open(str(fast), "w", options={"movflags": "faststart"}) as b:
        stream = b.add_stream_from_template(a.streams.video[0], opaque=True)
        for packet in a.demux(a.streams.video[0]):
            if packet.size:
                packet.stream = stream
                b.mux(packet)
    data = fast.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")
    with pytest.raises(MediaError, match="is cut off"):
        open_source(write_bytes(tmp_path / "cut.mp4", data[:-200]))


def test_too_large_video_is_refused(tmp_path):
    with pytest.raises(MediaError, match="megapixels"):
        open_source(make_clip(tmp_path / "in.mp4"), limits=media.Limits(frame_pixels=1000))


def test_nothing_in_the_wanted_range(tmp_path):
    with pytest.raises(MediaError, match="no frame lies between 50 s and the end"):
        open_source(make_clip(tmp_path / "in.mp4"), start=50)


REFUSED = {
    "exists": ("out.mp4", None, "exists already"),
    "same": ("in.mp4", None, "is the input"),
    "folder": ("folder.mp4", None, "is a folder"),
    "no folder": ("none/out.mp4", None, "does not exist"),
    "suffix": ("out.avi", None, "'.avi' does not name"),
    "image": ("out.png", None, "'.png' does not name"),
    "codec": ("new.webm", None, "a .webm file cannot hold audio in aac; .*mkv can"),
    "video codec": ("new.webm", SinkOptions("libx264"), "cannot hold video in libx264"),
    "encoder": ("new.mp4", SinkOptions("nope"), "no video encoder 'nope'"),
    "not video": ("new.mp4", SinkOptions("aac"), "no video encoder 'aac'"),
    "format": ("new.mp4", SinkOptions(pixel_format="pal8"), "libx264 cannot encode pal8"),
    "setting": ("new.mp4", SinkOptions("libvpx-vp9", preset="warp"), "refuses .*cpu-used=warp"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_work_begins(tmp_path, case):
    name, options, cause = REFUSED[case]
    path = make_clip(tmp_path / "in.mp4", audio=1, count=3)
    write_bytes(tmp_path / "out.mp4", b"precious")
    (tmp_path / "folder.mp4").mkdir()
    with open_source(path) as source, pytest.raises(MediaError, match=cause) as error:
        open_sink(tmp_path / name, source, options=options, metadata={})
    assert str(tmp_path / name) in str(error.value)
    assert leftovers(tmp_path, "in.mp4", "folder.mp4") == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"precious"


def test_subtitles_that_do_not_fit_name_a_container_that_does(tmp_path):
    path = make_clip(tmp_path / "in.mkv", subtitle="subrip", count=3)
    with open_source(path) as source, pytest.raises(MediaError, match=r"subtitle in .*\.mkv can"):
        open_sink(tmp_path / "out.mp4", source, metadata={})
    path = make_clip(tmp_path / "in.mp4", subtitle="mov_text", count=3)
    with open_source(path) as source, pytest.raises(MediaError, match=r"mov_text; .*\.mp4"):
        open_sink(tmp_path / "out.mkv", source, metadata={})
    assert leftovers(tmp_path) == ["in.mkv", "in.mp4"]


def test_overwrite_replaces_only_when_done(tmp_path):
    path = make_clip(tmp_path / "in.mp4", count=3)
    target = write_bytes(tmp_path / "out.mp4", b"old")
    with (
        open_source(path) as source,
        open_sink(target, source, metadata={}, overwrite=True) as sink,
    ):
        for frame in source:
            sink.write(Marked(frame))
        assert target.read_bytes() == b"old"
    assert len(times(target)) == 3


def test_unwritable_folder(tmp_path):
    path = make_clip(tmp_path / "in.mp4", count=3)
    closed = Path("/proc")  # closed to root, too
    if os.geteuid() != 0:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
    with open_source(path) as source, pytest.raises(MediaError, match="cannot be written"):
        open_sink(closed / "out.mp4", source, metadata={})


def test_failure_leaves_nothing(tmp_path):
    path = make_clip(tmp_path / "in.mp4", audio=1)

    def fail(frame):
        if frame.index == 5:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        copy(path, tmp_path / "out.mp4", change=fail)
    assert leftovers(tmp_path) == ["in.mp4"]


@pytest.mark.parametrize("keep", [True, False])
def test_abort_keeps_a_playable_file_or_none(tmp_path, keep):
    path = make_clip(tmp_path / "in.mp4", audio=1)
    with open_source(path) as source:
        sink = open_sink(tmp_path / "out.mp4", source, metadata={})
        for frame in source:
            sink.write(Marked(frame))
            if frame.index == 9:
                break
        assert sink.abort(keep=keep) is keep
    assert leftovers(tmp_path, "in.mp4") == (["out.mp4"] if keep else [])
    if keep:
        assert times(tmp_path / "out.mp4") == times(path)[:10]
        whole, kept = packets(path)[0], packets(tmp_path / "out.mp4")[0]
        assert kept == whole[: len(kept)]
        assert 15 < len(kept) < 25


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from mien import media
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with media.open_source(sys.argv[1]) as source:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    try:
        with media.open_sink(sys.argv[2], source, metadata={}) as sink:
            for frame in source:
                sink.write(media.Marked(frame))
    except media.sink.MediaError as error:
        print(error)
"""


@pytest.mark.parametrize("name", ["in.mp4", "in.png"])
def test_a_file_that_cannot_grow_is_an_error_and_leaves_nothing(tmp_path, name):
    if name == "in.mp4":
        make_clip(tmp_path / name, audio=1)
    else:
        write_bytes(tmp_path / name, encoded(".png"))
    target = tmp_path / f"out{Path(name).suffix}"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / name), str(target)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith(f"{target}: cannot be written")
    assert leftovers(tmp_path) == [name]


@pytest.mark.parametrize("where", [[10], [10, 11, 17], [22], [23], [0]])
def test_damaged_frames_are_counted_and_passed_over(tmp_path, caplog, where):
    path = make_clip(tmp_path / "in.mp4", audio=1, options={"g": "1"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        found = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for number in where:
        at, size = found[number]
        data[at : at + size] = bytes(size)
    broken = write_bytes(tmp_path / "broken.mp4", bytes(data))
    assert copy(broken, tmp_path / "out.mp4") == (24 - len(where), len(where))
    good = [t for i, t in enumerate(times(path)) if i not in where]
    assert times(tmp_path / "out.mp4") == good
    assert sum("damaged frame" in r.message for r in caplog.records) == len(where)


def test_peak_memory_does_not_grow_with_length(tmp_path):
    script = (
        "import sys, resource\n"
        "from mien import media\n"
        "with media.open_source(sys.argv[1]) as s, "
        "media.open_sink(sys.argv[2], s, metadata={}) as k:\n"
        "    for f in s: k.write(media.Marked(f))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for count in (100, 1000):
        path = make_clip(tmp_path / f"{count}.mp4", count=count, audio=1, size=(320, 240))
        command = [sys.executable, "-c", script, str(path), str(tmp_path / f"out{count}.mp4")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 20


# --- real footage -----------------------------------------------------------------------------


@pytest.mark.media
@pytest.mark.skipif(not CLIPS, reason=f"no clips in {FOOTAGE}; set MIEN_TEST_MEDIA")
@pytest.mark.parametrize("clip", CLIPS, ids=lambda p: p.stem)
def test_real_footage_goes_through_unharmed(clip, tmp_path):
    target = tmp_path / "out.mp4"
    with (
        open_source(clip) as source,
        open_sink(target, source, options=SinkOptions(preset="ultrafast"), metadata={}) as sink,
    ):
        for frame in source:
            before = [rows.copy() for rows in plane_rows(frame.origin)]
            rect = Rect(101, 101, 201, 201)
            paint(frame, rect)
            sink.write(Marked(frame))
            for plane, (old, new) in enumerate(zip(before, plane_rows(frame.origin), strict=True)):
                low, high = (100, 202) if plane == 0 else (50, 101)
                old[low:high, low:high] = new[low:high, low:high]
                assert np.array_equal(old, new)
        assert source.damaged == 0
    assert times(target) == times(clip)
    assert packets(target) == packets(clip)
