"""Files and messages from strangers: refused in one sentence, in bounded time and memory."""

import ast
import http.server
import json
import os
import random
import resource
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from material import PHOTO, PORTRAIT, environment, mien, noise, write_clip
from mien import config, media
from mien.errors import MediaError, MienError, UsageError
from mien.media.images import SCANS
from mien.media.jpeg import decode_jpeg
from mien.media.limits import FORMATS, Limits, check_container
from mien.media.metadata import read_metadata, read_xmp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "fuzz"))
import run as fuzzing  # noqa: E402
import targets  # noqa: E402

SECONDS = 10
"""In which any refusal must come, on a busy machine, too."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("hostile") / "clip.mp4", noise())


# What was found, and what is like it


@pytest.mark.parametrize("name", targets.TARGETS)
def test_corpus(name):
    """Each input that once was a finding is answered with an error of mien's own, quickly."""
    for path in targets.corpus(name):
        began = time.monotonic()
        targets.TARGETS[name](path.read_bytes())
        assert time.monotonic() - began < SECONDS, path


@pytest.mark.parametrize("name", targets.TARGETS)
def test_seeds_and_their_mutations(name):
    target, dice = targets.TARGETS[name], random.Random(1)
    seeds = list(target.seeds())
    assert seeds
    for seed in seeds:
        target(seed)
    for _ in range(40):
        target(fuzzing.mutated(dice.choice(seeds), target.words, seeds, dice))


def test_a_seed_is_read_to_its_end():
    """The seeds are good inputs: a reader that refuses everything would find nothing."""
    for name in (
        "photo",
        "video",
        "onnx",
        "card",
        "settings",
        "policy",
        "text",
        "binary",
        "tracks",
    ):
        for seed in targets.TARGETS[name].seeds():
            try:
                targets.TARGETS[name].read(seed)
            except MienError as error:
                if name == "onnx" and "outside the model's folder" in str(error):
                    continue
                if name == "onnx" and "Tile" in str(error):
                    continue
                raise


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["text", "control", "deny", "xmp"]), st.binary(max_size=300))
def test_any_bytes(name, data):
    targets.TARGETS[name](data)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "set", "get", "values", "frame"]), inner)
        ),
        max_leaves=8,
    )
)
def test_any_json(value):
    words = json.dumps(value).encode()
    for name in ("text", "control", "deny", "audit"):
        targets.TARGETS[name](words)


# Pictures


def bmp(width, height):
    head = struct.pack("<2sIIIIiiHHIIIIII", b"BM", 90, 0, 54, 40, width, height, 1, 24, *[0] * 6)
    return head + bytes(36)


def webp(width, height):
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + (10).to_bytes(4, "little") + canvas
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def jpeg(width, height, *before):
    """A JPEG's header and an end; ``before`` stands before the frame's."""
    frame = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\3" + b"\1\x22\0" * 3
    return b"\xff\xd8" + b"".join(before) + frame + b"\xff\xda\0\x08\1\1\0\0\x3f\0\0\xff\xd9"


BOMBS = {
    "bomb.png": targets.png(60_000, 60_000),
    "bomb.jpg": jpeg(65_500, 65_500, b"\xff\xe0\0\x04ab"),
    "bomb.webp": webp(16_383, 16_383),
    "bomb.bmp": bmp(60_000, 60_000),
    "turned.bmp": bmp(60_000, -60_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_that_declares_too_much(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(BOMBS[name])
    with pytest.raises(MediaError, match=rf"{name}: .* megapixels, the limit is 100"):
        media.read_image(path)


def test_a_size_cannot_be_hidden(tmp_path):
    """Markers without a length: a reader that takes the next two bytes for one reads past."""
    path = tmp_path / "hidden.jpg"
    path.write_bytes(jpeg(65_500, 65_500, b"\xff\xe0\0\x04ab", b"\xff\x01", b"\xff\xd0"))
    with pytest.raises(MediaError, match="megapixels"):
        media.read_image(path)
    old = b"BM" + struct.pack("<IIIIHHHH", 64, 0, 26, 12, 65_535, 65_535, 1, 24) + bytes(38)
    path.write_bytes(old)
    with pytest.raises(MediaError, match="megapixels"):
        media.read_image(path)


def test_a_jpeg_of_endless_passes(tmp_path):
    image = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    data = image[1].tobytes()
    scan = data[data.rindex(b"\xff\xda") : -2]
    path = tmp_path / "passes.jpg"
    path.write_bytes(data[:-2] + scan * SCANS + b"\xff\xd9")
    with pytest.raises(MediaError, match=rf"passes.jpg: .*more than {SCANS} passes"):
        media.read_image(path)
    with pytest.raises(MediaError, match="too many passes"):
        decode_jpeg(path.read_bytes(), max_pixels=10**6)
    assert decode_jpeg(data, max_pixels=10**6).shape == (64, 64, 3)


def test_a_photo_of_too_many_bytes(tmp_path):
    path = tmp_path / "long.jpg"
    path.write_bytes(PHOTO.read_bytes())
    with path.open("r+b") as file:
        file.truncate(600 << 20)  # sparse: it takes no room
    with pytest.raises(MediaError, match=r"long.jpg: has 629145600 bytes, the limit is 536870912"):
        media.read_image(path)
    with pytest.raises(MediaError, match="the limit is"):
        read_metadata(path)


def test_metadata_that_unfolds():
    """Entities within entities, a file of the system, and a tree too deep to hold."""
    steps = "".join(
        f'<!ENTITY {b} "{f"&{a};" * 30}">' for a, b in zip("abcdefg", "bcdefgh", strict=1)
    )
    laugh = f'<!DOCTYPE x [<!ENTITY a "{"a" * 1000}">{steps}]><x>&h;</x>'
    began = time.monotonic()
    assert read_xmp(laugh.encode()) == {}
    assert read_xmp(b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>') == {}
    assert read_xmp(b"<a>" * 1_000_000) == {}
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_png_text_that_unfolds(kind, tmp_path):
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    path = tmp_path / "text.png"
    path.write_bytes(targets.png(8, 1, targets.chunk(kind, b"x\0\0" + packed)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENCV_LOG_LEVEL", "SILENT")
        media.read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


# Videos


def boxes(data, start=0, end=None):
    """Places of an MP4's boxes: kind, start and end of the content."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        yield kind, start + 8, start + size
        start += size


def with_edits(data, count):
    """The clip with an edit list of so many entries, each of which shows all of it."""

    def walk(start, end):
        made = b""
        for kind, first, last in boxes(data, start, end):
            if kind in (b"moov", b"trak", b"edts"):
                body = walk(first, last)
            elif kind == b"elst":
                entry = struct.pack(">Iii", 10_000, 0, 0x10000)
                body = bytes(4) + struct.pack(">I", count) + entry * count
            else:
                body = data[first:last]
            made += struct.pack(">I", len(body) + 8) + kind + body
        return made

    return walk(0, len(data))


def test_edits_that_multiply(clip, tmp_path):
    """12 bytes of an edit list make libav copy an index of any length."""
    path = tmp_path / "edits.mp4"
    path.write_bytes(with_edits(clip.read_bytes(), 100_000))
    with pytest.raises(MediaError, match=r"edits.mp4: has 100000 edits, the limit is 4096"):
        media.open_source(path)
    path.write_bytes(with_edits(clip.read_bytes(), 1))
    media.open_source(path).close()


def test_parts_within_parts(tmp_path):
    path = tmp_path / "deep.mp4"
    data = b""
    for _ in range(40):
        data = struct.pack(">I", len(data) + 8) + b"trak" + data
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + data)
    with pytest.raises(MediaError, match=r"deep.mp4: has parts more than 8 deep"):
        check_container(path, Limits())


def test_a_compressed_index(tmp_path):
    path = tmp_path / "packed.mov"
    body = struct.pack(">I4s", 16, b"cmov") + bytes(8)
    path.write_bytes(
        b"\0\0\0\x10ftypqt  \0\0\0\0" + struct.pack(">I4s", len(body) + 8, b"moov") + body
    )
    with pytest.raises(MediaError, match=r"packed.mov: its index is compressed"):
        media.open_source(path)


def big_video(path, width, height):
    """The clip's own track header and sample entry, with another size."""
    data = bytearray(path)
    at = data.index(b"avc1") + 28
    data[at : at + 4] = struct.pack(">HH", width, height)
    at = data.index(b"tkhd") + 80
    data[at : at + 8] = struct.pack(">II", width << 16, height << 16)
    return bytes(data)


def test_a_video_over_a_limit(clip, tmp_path):
    wide = tmp_path / "wide.mkv"
    with av.open(str(wide), "w") as made:
        stream = made.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p"
        made.mux(stream.encode(av.VideoFrame(320, 240, "yuvj420p")))
        made.mux(stream.encode(None))
    for limits, words in (
        (Limits(frame_pixels=1000), r"wide.mkv: .* limit of 0.001 megapixels"),
        (Limits(video_bytes=10), r"wide.mkv: has \d+ bytes, the limit is 10"),
    ):
        with pytest.raises(MediaError, match=words):
            media.open_source(wide, limits=limits)
    with pytest.raises(MediaError, match=r"clip.mp4: has more than 4 frames \(limits.frames\)"):
        list(media.open_source(clip, limits=Limits(frames=4)))
    with pytest.raises(
        MediaError, match=r"clip.mp4: has \d+ characters of metadata, the limit is 5"
    ):
        media.open_source(clip, limits=Limits(metadata_bytes=5))


@pytest.mark.parametrize("count", [80, 1200])
def test_streams_without_end(count, tmp_path):
    path = tmp_path / "streams.mkv"
    write_streams(path, count)
    began = time.monotonic()
    with pytest.raises(MediaError, match=r"streams.mkv: has .*\b64\b"):
        media.open_source(path)
    assert time.monotonic() - began < SECONDS


def write_streams(path, count):
    """A Matroska file of empty subtitle tracks, and one video track, as bytes (RFC 9559)."""

    def element(number, body):
        size = len(body).to_bytes(8, "big")
        return bytes.fromhex(number) + b"\x01" + size[1:] + body

    head = element("1a45dfa3", element("4282", b"matroska"))
    tracks = b"".join(
        element("ae", element("d7", n.to_bytes(2, "big")) + element("73c5", n.to_bytes(2, "big"))
                + element("83", b"\x11") + element("86", b"S_TEXT/UTF8"))
        for n in range(1, count + 1)
    )  # fmt: skip
    cluster = element("1f43b675", element("e7", b"\0") + element("a3", b"\x81\0\0\x80x"))
    path.write_bytes(head + element("18538067", element("1654ae6b", tracks) + cluster))


def test_much_metadata(clip, tmp_path):
    path = tmp_path / "words.mkv"
    with av.open(str(clip)) as read, av.open(str(path), "w") as made:
        stream = made.add_stream_from_template(read.streams.video[0])
        made.metadata["comment"] = "x" * (2 << 20)
        for packet in read.demux(read.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    with pytest.raises(MediaError, match=r"words.mkv: has 2\d{6} characters of metadata"):
        media.open_source(path)


def test_frames_of_changing_size(tmp_path):
    """Two streams of MPEG-2 of different sizes, one behind the other."""
    data = b""
    for size in ((160, 120), (320, 240)):
        part = tmp_path / "part.mpg"
        with av.open(str(part), "w", format="mpeg2video") as made:
            stream = made.add_stream("mpeg2video", rate=25)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            for picture in noise(3, *size):
                made.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            made.mux(stream.encode(None))
        data += part.read_bytes()
    path = tmp_path / "changing.mpg"
    path.write_bytes(data)
    with (
        media.open_source(path) as source,
        pytest.raises(
            MediaError, match=r"changing.mpg: frame \d+ is 320x240 and the first 160x120"
        ),
    ):
        list(source)
    # Under a limit between the two sizes libav's decoder takes no memory for the larger.
    with pytest.raises(MediaError, match=r"changing.mpg: .*\(limits.frame_pixels\)"):
        media.open_source(path, limits=Limits(frame_pixels=20_000))


# Files that lead elsewhere


@pytest.fixture
def server():
    """A server that notes what is asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    made = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made.server_address[1], asked
    made.shutdown()
    made.server_close()
    thread.join()


LISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{where}\n#EXT-X-ENDLIST\n",
    "spaced.m3u8": "\ufeff\n  #EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{where}\n",
    "list.mp4": "ffconcat version 1.0\nfile '{where}'\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    "<Period><AdaptationSet><Representation><BaseURL>{where}</BaseURL></Representation>"
    "</AdaptationSet></Period></MPD>",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\na=x:{where}\n",
    "list.idx": "# VobSub index file, v7\n# {where}\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_opens_nothing(name, clip, server, tmp_path):
    """Neither the video beside it, nor another of the disk, nor an address."""
    port, asked = server
    for where in (str(clip), f"file:{clip}", f"http://127.0.0.1:{port}/a.ts", "concat:a|b"):
        path = tmp_path / name
        path.write_text(LISTS[name].format(where=where), "utf-8")
        with pytest.raises(MediaError, match=name):
            media.open_source(path)
        with pytest.raises(MediaError, match=name):
            read_metadata(path)
    assert asked == []


def test_a_playlist_from_a_server_names_no_file(clip):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = LISTS["list.m3u8"].format(where=f"file://{clip}").encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.apple.mpegurl")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        where = f"http://127.0.0.1:{made.server_address[1]}/live.m3u8"
        with pytest.raises(MediaError, match=r"live.m3u8"):
            list(media.open_camera(where))
        made.shutdown()
        thread.join()


def test_readers_of_lists_are_not_among_those_used():
    refused = {"hls", "dash", "concat", "image2", "sdp", "rtsp", "lavfi", "tedcaptions", "vobsub",
               "webm_dash_manifest", "imf", "rtp", "sap", "x11grab", "v4l2", "alsa"}  # fmt: skip
    assert not refused & set(FORMATS.split(","))


@pytest.mark.parametrize(
    "name", ["http:x.mp4", "concat:clip.mp4|clip.mp4", "-i", "data:,x", "a?b#c"]
)
def test_a_name_is_a_name(name, clip, tmp_path, monkeypatch):
    """A file may be called like an address: it is opened, and no address."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(clip.read_bytes())
    with media.open_source(Path(name)) as source:
        assert source.info.width == 160


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:9/a.mp4", "concat:a|b", "pipe:0", "file:clip.mp4"]
)
def test_an_address_is_no_file(name):
    with pytest.raises(MediaError, match="no such file"):
        media.open_source(name)


def test_data_in_another_file(clip, server, tmp_path):
    """An MP4 whose samples lie, by its own words, at an address (``dref`` with ``url``)."""
    _, asked = server
    data = bytearray(clip.read_bytes())
    at = data.index(b"dref")
    entry = data.index(b"url ", at)
    assert data[entry + 4 : entry + 8] == b"\0\0\0\1"  # in this file
    data[entry + 7] = 0
    path = tmp_path / "elsewhere.mp4"
    path.write_bytes(bytes(data))
    try:
        with media.open_source(path) as source:
            list(source)
    except MediaError:
        pass
    assert asked == []


def test_what_is_no_file(tmp_path):
    pipe, link = tmp_path / "pipe.jpg", tmp_path / "zero.mp4"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    place = tmp_path / "socket.png"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))
        for path in (pipe, link, place, Path("/dev/zero"), Path("/dev/random")):
            for read in (media.read_image, media.open_source, read_metadata, media.kind_of):
                with pytest.raises(MediaError, match=rf"{path}: is a pipe, a socket or a device"):
                    read(path)
    assert media.list_images(tmp_path) == []
    round_trip = tmp_path / "round.jpg"
    round_trip.symlink_to(round_trip)
    with pytest.raises(MediaError, match=r"round.jpg"):
        media.read_image(round_trip)


def test_a_pipe_does_not_stop_the_command(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    done = mien(
        *("swap", "--consent", "synthetic", "-s", PORTRAIT, "-t", "pipe.mp4", "-o", "out.mp4"),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "pipe.mp4: is a pipe" in done.stderr


def test_an_output_does_not_go_through_a_link(clip, tmp_path):
    """The new file takes the link's place; what the link led to stays as it was."""
    victim, link = tmp_path / "victim", tmp_path / "out.mp4"
    victim.write_bytes(b"somebody's work")
    link.symlink_to(victim)
    with (
        media.open_source(clip) as source,
        media.open_sink(link, source, metadata={}, overwrite=True) as sink,
    ):
        for frame in source:
            sink.write(media.Marked(frame))
    assert victim.read_bytes() == b"somebody's work"
    assert not link.is_symlink()


# Limits are settings


def test_limits_from_the_settings(tmp_path):
    file = tmp_path / "mien.toml"
    file.write_text("[limits]\npixels = 5000\nopen_seconds = 2.5\n")
    found = config.load(file, environment={}).limits
    assert found == Limits(pixels=5000, open_seconds=2.5)
    env = {"MIEN_LIMITS": "frames=9 streams=2"}
    assert config.load(environment=env).limits == Limits(frames=9, streams=2)
    for text, words in (
        ("[limits]\npixel = 1\n", "limits.pixel: unknown key; known are pixels, frame_pixels"),
        ("[limits]\npixels = 0\n", "pixels must be above 0"),
        ("[limits]\nopen_seconds = nan\n", "open_seconds must be above 0"),
        ('[limits]\npixels = "x"\n', "limits.pixels"),
        ("limits = 3\n", "limits"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=words):
            config.load(file, environment={})


def test_limits_reach_the_command(clip, tmp_path):
    arguments = ("swap", "--consent", "synthetic", "-s", PORTRAIT, "-o", "out.mp4", "-t", clip)
    done = mien(*arguments, cwd=tmp_path, env=environment(MIEN_LIMITS="frames=3"))
    assert done.returncode == 1
    assert "has more than 3 frames (limits.frames)" in done.stderr
    assert not list(tmp_path.iterdir())


def test_enlarged_pictures_have_a_limit():
    from types import SimpleNamespace

    from mien.upscale import Upscaler

    card = SimpleNamespace(scale=4, name="four")
    upscaler = Upscaler(None, card, 256, 32, Fraction(4), most=1_000_000)
    upscaler.check(250, 250, "x.jpg")
    with pytest.raises(UsageError, match=r"x.jpg: four would make 1004x1000 of 251x250"):
        upscaler.check(251, 250, "x.jpg")
    with pytest.raises(UsageError, match=r"limits.output_pixels"):
        upscaler.enlarge(np.zeros((300, 300, 3), np.uint8))


def test_every_limit_is_written_down():
    page = (ROOT / "docs" / "limits.md").read_text("utf-8")
    for name in asdict(Limits()):
        assert f"`{name}`" in page, name


def test_a_web_page_cannot_control(tmp_path):
    """Browsers let any page post to a local port; the request's body must not be obeyed."""
    from mien.live.control import ControlSocket

    obeyed = []

    def commands(line):
        obeyed.append(line)
        return {"ok": True}

    body = b'{"set": {"paused": true}}\n'
    for method in (b"POST / HTTP/1.1", b"GET /x HTTP/1.0", b"OPTIONS * HTTP/1.1"):
        with ControlSocket("0", commands) as control:
            with socket.create_connection(("127.0.0.1", control.port), 5) as client:
                client.sendall(method + b"\r\nHost: localhost\r\n\r\n" + body)
                with suppress(ConnectionResetError):
                    assert client.recv(100) == b""
            assert obeyed == []
            with socket.create_connection(("127.0.0.1", control.port), 5) as client:
                client.sendall(body)
                assert client.recv(100) == b'{"ok": true}\n'
        obeyed.clear()


# Nothing that is read can run


PYTHON = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").rglob("*.py"),
                 *(ROOT / "fuzz").glob("*.py"), *(ROOT / "examples").rglob("*.py")])  # fmt: skip

FORBIDDEN_IMPORTS = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "joblib",
}

MAY_HOLD = {"src/mien/scale/serving.py": ["imports pickle"]}
"""What Ray's proxy packed in the same process is read there, by what can make no class of it."""


def called(node):
    """Dotted name of what a call calls."""
    parts, at = [], node.func
    while isinstance(at, ast.Attribute):
        parts.append(at.attr)
        at = at.value
    return ".".join([at.id if isinstance(at, ast.Name) else "", *reversed(parts)])


def dangers(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            yield from (f"imports {n}" for n in names & FORBIDDEN_IMPORTS)
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] in FORBIDDEN_IMPORTS
        ):
            yield f"imports from {node.module}"
        if not isinstance(node, ast.Call):
            continue
        name, keywords = called(node), {k.arg: k.value for k in node.keywords}

        def says(key, value, keywords=keywords):
            return isinstance(keywords.get(key), ast.Constant) and keywords[key].value is value

        if name in (
            "eval",
            "exec",
            "compile",
            "__import__",
            "os.system",
            "os.popen",
            "tempfile.mktemp",
        ):
            yield f"calls {name}"
        if "allow_pickle" in keywords and not says("allow_pickle", False):
            yield "allows pickle"
        if "shell" in keywords and not says("shell", False):
            yield "runs a shell"
        if name.startswith("yaml.") and not name.startswith("yaml.safe_"):
            yield f"{name} may run code"
        if name == "torch.load" and not says("weights_only", True):
            yield "torch.load may run code"
        if name.endswith((".extractall", ".unpack_archive")):
            yield "unpacks names that an archive chooses"


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_is_read_can_run(path):
    assert list(dangers(path)) == MAY_HOLD.get(path.relative_to(ROOT).as_posix(), [])


def test_the_search_finds_what_it_looks_for(tmp_path):
    path = tmp_path / "bad.py"
    for text in ("import pickle", "yaml.load(f)", "eval('1')", "f(allow_pickle=True)",
                 "run('x', shell=True)", "torch.load(f)", "torch.load(f, weights_only=False)",
                 "ZipFile(f).extractall(p)"):  # fmt: skip
        path.write_text(text)
        assert list(dangers(path)), text


# Secrets are their owner's alone


def test_nothing_in_the_home_is_for_others(tmp_path):
    """Everything that mien puts into its folder: a run with an identity, a log, a certificate."""
    home = tmp_path / "home"
    env = environment(MIEN_HOME=str(home))
    old = os.umask(0o022)
    try:
        for arguments in (
            ("identity", "add", "me", PORTRAIT, "--consent", "synthetic"),
            (
                "swap",
                "-s",
                "me",
                "--target-consent",
                "synthetic",
                "-t",
                PHOTO,
                "-o",
                tmp_path / "o.jpg",
            ),
        ):
            done = mien(*arguments, cwd=tmp_path, env=env)
            assert done.returncode == 0, done.stderr
    finally:
        os.umask(old)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    kept = [p for p in home.rglob("*") if not p.is_symlink()]
    assert any(p.name == "people.db" for p in kept)
    for path in kept:
        mode = stat.S_IMODE(path.stat().st_mode)
        public = path.suffix == ".pem" and "PRIVATE" not in path.read_text("utf-8")
        assert public or not mode & 0o077, f"{path} has mode {mode:o}"


@pytest.mark.parametrize(
    "name", ["../out", "a/b", "..", "/etc/passwd", "a\0b", "", ".", "~/x", "C:\\x"]
)
def test_names_do_not_lead_out_of_a_folder(name, tmp_path):
    """Names of models and of people come from outside."""
    from mien import identity, zoo
    from mien.identity import Store
    from mien.zoo import own

    with pytest.raises(ValueError, match="name"):
        own.check_name(name, zoo.CARDS)
    if name != "/etc/passwd":
        with pytest.raises(ValueError, match="file"):
            own.check_file(name)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    assert identity is not None
    store = Store.open(tmp_path / "home")
    with pytest.raises(MienError):
        store.get(name)
    after = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")}
    assert after <= {"home"} | {p.parts[0] for p in before}


def test_fuzzing_finds_what_is_planted(tmp_path, monkeypatch):
    """The fuzzer itself: a reader that breaks on one byte is found, and its input kept."""
    planted = targets.Target(lambda data: data.index(b"Z"), lambda: iter([b"aZa"]))
    monkeypatch.setitem(targets.TARGETS, "planted", planted)
    monkeypatch.setattr(fuzzing, "FOUND", tmp_path)
    with pytest.raises(ValueError, match="not found"):
        fuzzing.by_mutation("planted", 20, 1)
    (kept,) = (p for p in tmp_path.iterdir() if p.name != "planted-running")
    assert b"Z" not in kept.read_bytes()
    again = subprocess.run(
        [sys.executable, ROOT / "fuzz" / "targets.py", "text", kept],
        capture_output=True,
        check=False,
    )
    assert again.returncode == 0


def test_advisories():
    """Unreachable advisories are said and pass; a vulnerability that is mended fails."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("audit", ROOT / "scripts" / "audit_requirements.py")
    audit = module_from_spec(spec)
    spec.loader.exec_module(audit)
    unseen = {"name": "a", "skip_reason": "Dependency not found on PyPI"}
    good = {"name": "b", "version": "1", "vulns": []}
    mended = {"name": "c", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
    open_ = {"name": "d", "version": "1", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
    assert audit.judge({"dependencies": [unseen]}) == (
        0,
        ["advisories could not be reached: none of 1 packages looked up"],
    )
    status, lines = audit.judge({"dependencies": [unseen, good, open_]})
    assert status == 0
    assert lines == ["d 1: CVE-2, not mended yet", "2 of 3 packages looked up", "not looked up: a"]
    status, lines = audit.judge({"dependencies": [good, mended, open_]})
    assert status == 1
    assert lines[0] == "c 1: CVE-1, mended in 2"
