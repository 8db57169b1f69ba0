"""The label and the words that every output carries."""

from __future__ import annotations

import json
import time
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from mien import __version__, provenance
from mien.errors import MediaError
from mien.media import open_sink, open_source
from mien.provenance import DIGITAL_SOURCE_TYPE as DST
from mien.provenance import Marked, Marker, Marks, untouched
from mien.types import Consent, Frame, Rect

SELF = Consent("self", "form 12")


def marked(height, width, value, **more):
    frame = Frame(np.full((height, width, 3), value, np.uint8))
    result = Marker(Marks(watermark_on=False), consent=SELF, **more)(frame)
    assert isinstance(result, Marked)
    assert result.frame is frame
    return frame


@pytest.mark.parametrize("size", [(1080, 1920), (720, 1280), (1280, 720), (512, 512), (120, 160)])
@pytest.mark.parametrize("value", [0, 60, 128, 200, 255])
def test_label_is_small_in_the_corner_and_stands_out(size, value):
    frame = marked(*size, value)
    (rect,) = frame.dirty
    height, width = size
    assert rect.x1 > 0.95 * width
    assert rect.y1 > 0.95 * height
    share = (rect.x1 - rect.x0) * (rect.y1 - rect.y0) / (height * width)
    assert share < (0.015 if height > 500 else 0.14)
    inside = frame.image[rect.slices()].astype(int)
    assert inside.max() - np.median(inside) > 90  # letters on the plate
    outside = frame.image.copy()
    outside[rect.slices()] = value
    assert (outside == value).all()


def test_label_scales_with_the_frame():
    def height(frame):
        return frame.dirty[0].y1 - frame.dirty[0].y0

    small, large = (height(marked(*size, 0)) for size in ((540, 960), (1080, 1920)))
    assert large == pytest.approx(2 * small, rel=0.2)


def test_label_fits_a_tiny_picture():
    frame = marked(8, 12, 90)
    assert len(frame.dirty) <= 1


def test_label_can_be_off_and_the_words_stay():
    frame = marked(240, 320, 77, label_on=False)
    assert not frame.dirty
    assert (frame.image == 77).all()
    assert Marker(consent=SELF, label_on=False).metadata()["mien_consent"] == "self"


def test_a_marker_knows_what_its_pictures_could_not_carry(caplog):
    marker = Marker(consent=SELF, output_id="0000002a")
    assert marker.account == {"output_id": "0000002a"}  # nothing is known yet
    for _ in range(3):
        marker(Frame(np.full((120, 300, 3), 90, np.uint8)))
    assert marker.missing == ("watermark",)
    assert marker.account == {"output_id": "0000002a", "marks_missing": ["watermark"]}
    assert marker.changed(marks=Marks(words="take 2")).missing == ("watermark",)
    assert marker.anew().missing == ()  # of another output, of which nothing is known
    marker.anew().fit(300, 120)
    assert caplog.text.count("120 pixels is too small for the invisible watermark") == 1
    marker.fit(200, 160)  # one frame that carries it will do
    assert marker.missing == ()
    off = Marker(Marks(watermark_on=False), consent=SELF)
    off.fit(300, 120)
    assert off.missing == ()
    assert caplog.text.count("too small") == 1


def test_each_frame_size_has_its_label():
    marker = Marker(Marks(words="take 2"), consent=SELF)
    for size in ((240, 320), (480, 640), (240, 320)):
        frame = marker(Frame(np.zeros((*size, 3), np.uint8))).frame
        assert frame.image.any()


def test_words():
    words = provenance.metadata(SELF, Consent("licensed"))
    assert words == {
        "mien_version": __version__,
        "mien_content": "AI-generated",
        "digital_source_type": provenance.DIGITAL_SOURCE_TYPE,
        "AIGC": '{"Label":"1","ContentProducer":"mien","ProduceID":"","ReservedCode1":"",'
        '"ContentPropagator":"","PropagateID":"","ReservedCode2":""}',
        "mien_consent": "self",
        "mien_consent_note": "form 12",
        "mien_target_consent": "licensed",
    }


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_read_back_from_images(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "in.png"), noise)
    assert provenance.read(tmp_path / "in.png") == {}
    check(tmp_path / "in.png", tmp_path / f"out{suffix}")


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv", ".webm"])
def test_read_back_from_videos(tmp_path, suffix):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "in.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=24, width=64, height=48)
        for index in range(3):
            image = np.full((48, 64, 3), 60 * index, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        out.mux(stream.encode(None))
    assert provenance.read(tmp_path / "in.mp4") == {}
    check(tmp_path / "in.mp4", tmp_path / f"out{suffix}")


def check(path, target):
    marker = Marker(consent=SELF, target_consent=Consent("licensed", "ümlaut & 同意"))
    with (
        open_source(path) as source,
        open_sink(target, source, metadata=marker.metadata()) as sink,
    ):
        for frame in source:
            sink.write(marker(frame))
    assert provenance.read(target) == marker.metadata()


def test_read_says_what_it_cannot_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"words, words, words and no film at all")
    with pytest.raises(MediaError, match=r"a\.mp4"):
        provenance.read(tmp_path / "a.mp4")


def test_drawing_the_label_is_cheap():
    marker = Marker(Marks(watermark_on=False), consent=SELF)
    frame = Frame(np.zeros((1080, 1920, 3), np.uint8))
    marker(frame)
    spent = []
    for _ in range(50):
        begin = time.perf_counter()
        marker(frame)
        spent.append(time.perf_counter() - begin)
    assert min(spent) < 0.5e-3  # 0.02 ms on an idle core; the rest is for busy machines


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_the_aigc_field_is_where_tc260_wants_it_in_videos(tmp_path, suffix):
    """One container tag of that name (GB 45438-2025, appendix E), instead of the target's own."""
    av = pytest.importorskip("av")
    options = {"movflags": "use_metadata_tags"}
    with av.open(str(tmp_path / "in.mp4"), "w", options=options) as out:
        out.metadata["AIGC"] = '{"Label":"2","ContentProducer":"somebody"}'
        stream = out.add_stream("libx264", rate=24, width=64, height=48)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
        out.mux(stream.encode(None))
    marker = Marker(Marks(producer="001191110000000000000X00001"), consent=SELF)
    with (
        open_source(tmp_path / "in.mp4") as source,
        open_sink(tmp_path / f"out{suffix}", source, metadata=marker.metadata()) as sink,
    ):
        for frame in source:
            sink.write(marker(frame))
    with av.open(str(tmp_path / f"out{suffix}")) as made:
        fields = [value for key, value in made.metadata.items() if key.upper() == "AIGC"]
    (field,) = fields
    assert json.loads(field) == {
        "Label": "1",
        "ContentProducer": "001191110000000000000X00001",
        "ProduceID": marker.output_id,
        "ReservedCode1": "",
        "ContentPropagator": "",
        "PropagateID": "",
        "ReservedCode2": "",
    }
    assert provenance.read(tmp_path / f"out{suffix}")["AIGC"] == field


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_aigc_field_is_where_tc260_wants_it_in_images(tmp_path, suffix):
    """One XMP property ``AIGC`` in the namespace of TC260-PG-20258A."""
    cv2.imwrite(str(tmp_path / "in.png"), np.zeros((64, 96, 3), np.uint8))
    marker = Marker(consent=SELF)
    with (
        open_source(tmp_path / "in.png") as source,
        open_sink(tmp_path / f"out{suffix}", source, metadata=marker.metadata()) as sink,
    ):
        for frame in source:
            sink.write(marker(frame))
    data = (tmp_path / f"out{suffix}").read_bytes()
    packet = data[data.index(b"<x:xmpmeta") : data.index(b"</x:xmpmeta>") + 12]
    name = "{http://www.tc260.org.cn/ns/AIGC/1.0/}AIGC"
    found = [e.get(name) for e in ElementTree.fromstring(packet).iter() if e.get(name)]
    assert [json.loads(value)["ProduceID"] for value in found] == [marker.output_id]
    assert DST in [v for e in ElementTree.fromstring(packet).iter() for v in e.attrib.values()]


def test_every_output_has_an_id():
    ids = {Marker(consent=SELF).output_id for _ in range(50)}
    assert len(ids) == 50
    assert all(0 <= int(one, 16) < 2**32 and len(one) == 8 for one in ids)
    marker = Marker(consent=SELF, output_id="00c0ffee")
    assert marker.metadata()["mien_output"] == "00c0ffee"


def test_nothing_made_is_nothing_marked_and_nothing_painted_passes_so():
    plain = Frame(np.zeros((48, 64, 3), np.uint8))
    (through,) = untouched([plain])
    assert through.frame is plain
    assert not plain.image.any()
    plain.mark_dirty(Rect(8, 8, 16, 16))
    with pytest.raises(ValueError, match="has to be marked"):
        next(untouched([plain]))
