"""Readers of what strangers send, as functions of bytes.

A target may raise mien's own errors, which say what is wrong with the input; all else that it
raises, and all that takes too long or too much memory, is a finding.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from mien import audit, config, deny, media, policy, tracks, zoo
from mien.errors import MienError
from mien.live.control import Commands
from mien.media.images import read_still
from mien.media.jpeg import decode_jpeg
from mien.media.limits import Limits, check_container
from mien.media.metadata import read_metadata, read_xmp, xmp
from mien.runtime import guard, onnxfile
from mien.serve import protocol
from mien.types import Face
from mien.zoo import own

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "media"
CORPUS = Path(__file__).with_name("corpus")

SMALL = Limits(
    pixels=1_000_000, frame_pixels=1_000_000, photo_bytes=1 << 22, video_bytes=1 << 22, frames=50,
    streams=8, metadata_bytes=1 << 16, open_seconds=5,
)  # fmt: skip
"""So that an input is done in milliseconds."""

_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        read: Given an input.
        seeds: Inputs to begin with.
        words: Pieces that the format knows, for mutations.
    """

    read: Callable[[bytes], Any]
    seeds: Callable[[], Iterator[bytes]]
    words: tuple[bytes, ...] = ()

    def __call__(self, data: bytes) -> None:
        """Read one input.

        Raises:
            Exception: A finding.
        """
        with suppress(MienError):
            self.read(data)


def in_file(read: Callable[[Path], Any], suffix: str) -> Callable[[bytes], Any]:
    """A reader of files as one of bytes."""

    def from_bytes(data: bytes) -> Any:
        path = Path(_FOLDER.name) / f"input{suffix}"
        path.write_bytes(data)
        return read(path)

    return from_bytes


# Pictures


def photo(path: Path) -> None:
    with suppress(MienError):
        still = read_still(path, max_pixels=SMALL.pixels, max_bytes=SMALL.photo_bytes)
        assert still.image.shape[0] * still.image.shape[1] <= SMALL.pixels
    if media.kind_of(path) == "image":
        read_metadata(path)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    body = kind + data
    return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG that declares a size and has one row of it."""
    head = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(bytes(3 * 64 + 1))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + rest


def pictures() -> Iterator[bytes]:
    y, x = np.mgrid[:24, :32].astype(np.uint8)
    image = np.dstack([x * 8, y * 10, x + y, np.full_like(x, 128)])
    for suffix in (".jpg", ".png", ".webp", ".bmp"):
        for channels in (1, 3, 4):
            shape = image[..., 0] if channels == 1 else image[..., :channels]
            if channels < 4 or suffix in (".png", ".webp"):
                yield cv2.imencode(suffix, shape)[1].tobytes()
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    yield cv2.imencode(".jpg", image[..., :3], progressive)[1].tobytes()
    yield png(32, 1, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp({"software": "mien"})))


JPEG_WORDS = tuple(bytes([0xFF, m]) for m in (*range(0xC0, 0xF0), 0x01, 0xFE, 0xFF))
PICTURE_WORDS = (
    *JPEG_WORDS, b"IHDR", b"IDAT", b"PLTE", b"iCCP", b"eXIf", b"acTL", b"fdAT", b"iTXt",
    b"VP8X", b"VP8L", b"VP8 ", b"ANIM", b"ANMF", b"ALPH", b"\xff\xff\xff\x7f",
)  # fmt: skip


# Videos


def video(path: Path) -> None:
    """The first fifty frames."""
    if media.kind_of(path) != "video":
        return
    with media.open_source(path, limits=SMALL) as source:
        for frame in islice(source, SMALL.frames):
            assert frame.image.shape[0] * frame.image.shape[1] <= SMALL.frame_pixels
    read_metadata(path)


def videos() -> Iterator[bytes]:
    import av

    for suffix, codec in (
        (".mp4", "libx264"), (".mkv", "ffv1"), (".webm", "libvpx-vp9"), (".avi", "mjpeg"),
        (".ts", "mpeg2video"), (".flv", "flv1"), (".mov", "prores_ks"),
    ):  # fmt: skip
        path = Path(_FOLDER.name) / f"seed{suffix}"
        if codec not in av.codecs_available:
            continue
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height = 48, 32
            stream.pix_fmt = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}.get(codec, "yuv420p")
            for shade in range(
                0, 240, 80 if suffix != ".ts" else 4
            ):  # its reader wants some kilobytes
                image = np.full((32, 48, 3), shade, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        yield path.read_bytes()


VIDEO_WORDS = (
    b"moov", b"trak", b"elst", b"stsz", b"stsc", b"stco", b"co64", b"ctts", b"stsd", b"mdat",
    b"moof", b"traf", b"trun", b"cmov", b"dref", b"url ", b"udta", b"meta", b"avc1", b"hvc1",
    b"\x1aE\xdf\xa3", b"RIFF", b"AVI ", b"LIST", b"strh", b"idx1", b"\0\0\1", b"G", b"FLV",
    b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"#EXTM3U", b"ffconcat version 1.0\n",
)  # fmt: skip


# Models


def model(path: Path) -> None:
    guard.inspect(onnxfile.read(path))


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protobuf message: field number → number or bytes."""
    made = b""
    for number, value in fields:
        if isinstance(value, bytes):
            made += varint(number << 3 | 2) + varint(len(value)) + value
        else:
            made += varint(number << 3) + varint(value)
    return made


def varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def models() -> Iterator[bytes]:
    sizes = message((1, 2), (2, 7), (8, b"s"), (9, struct.pack("<2q", 4, 4)))
    weights = message((1, 2), (2, 1), (8, b"w"), (9, struct.pack("<2f", 1, 2)))
    outside = message((1, 2), (2, 1), (8, b"x"), (14, 1),
                      (13, message((1, b"location"), (2, b"../../etc/passwd"))))  # fmt: skip
    value = message(
        (1, b"i"), (2, message((1, message((1, 1), (2, message((1, message((1, 3)))))))))
    )
    made = message((1, b"s"), (2, b"o"), (4, b"ConstantOfShape"))
    tile = message((1, b"w"), (1, b"s"), (2, b"t"), (4, b"Tile"),
                   (5, message((1, b"axis"), (3, 1), (20, 2))))  # fmt: skip
    for extra in ((), ((5, outside),), ((1, tile),)):
        graph = message(
            (1, made), (2, b"g"), (5, sizes), (5, weights), (11, value), (12, value), *extra
        )
        yield message((1, 8), (8, message((1, b""), (2, 17))), (7, graph))


# Words


def card(path: Path) -> None:
    own.read(path, zoo.CARDS)


def cards() -> Iterator[bytes]:
    yield b'like = "inswapper_128"\nfile = "mine.onnx"\nname = "mine"\n'
    yield b'like = "scrfd_2.5g"\nfile = "x.onnx"\nmean = [1, 2.5, 3]\nstd = 2\nsize = 640\n'
    yield (
        b'like = "inswapper_128"\nfile = "y.onnx"\ntemplate = "arcface_112_v2"\n'
        b'sources = ["https://a/b"]\n'
        b"[swap]\nsource_size = 112\n"
    )


def settings(path: Path) -> None:
    config.load(path, environment={})


def settings_seeds() -> Iterator[bytes]:
    yield b'blend = "soft"\nworkers = 2\nmask = ["bisenet_34"]\nquality = 90\n'
    yield b"steady_cutoff = 0.5\n[limits]\npixels = 1000000\nopen_seconds = 1.5\n"


def rules(path: Path) -> None:
    policy.load(path)


def rules_seeds() -> Iterator[bytes]:
    yield b'consent = ["self", "written"]\nlive = false\n[marks]\nlabel_off = ["*"]\n'
    yield b'target_consent = "required"\n[audit]\nmegabytes = 9\n[deny]\nthreshold = 0.5\n'


SIGNER = "A" * 43 + "="


def denied(path: Path) -> None:
    deny.read_signed(path, {"someone": SIGNER})


def denied_seeds() -> Iterator[bytes]:
    said = {"format": deny.FORMAT, "embedder": deny.EMBEDDER, "made": "2026-01-01", "entries": []}
    yield json.dumps(said | {"key": SIGNER, "signature": "A" * 86 + "=="}).encode()


def log(data: bytes) -> None:
    """A log that somebody wrote into: it is read, found wrong, and gone on with."""
    folder = Path(_FOLDER.name) / "log"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    (folder / audit.FILE).write_bytes(data)
    kept = audit.AuditLog(folder)
    kept.verify()
    kept.append("run", output="x")


def log_seeds() -> Iterator[bytes]:
    folder = Path(_FOLDER.name) / "seed-log"
    folder.mkdir(exist_ok=True)
    kept = audit.AuditLog(folder)
    for number in range(3):
        kept.append("run", number=number)
    yield (folder / audit.FILE).read_bytes()


def tracked(path: Path) -> None:
    with tracks.Reader(path) as reader:
        for _ in islice(reader, 300):
            pass


def tracked_seeds() -> Iterator[bytes]:
    path = Path(_FOLDER.name) / "seed.npz"
    head = tracks.Header(64, 48, Fraction(1, 25), 2, 4, {"mien": "1"})
    face = Face(np.ones(4, np.float32), 0.9, np.ones((5, 2), np.float32), track=3)
    face = replace(face, mesh=np.ones((4, 3), np.float32))
    with tracks.Writer(path, head) as writer:
        for pts in (0, 1):
            writer.write(tracks.Seen(pts, [face] * pts, [0] * pts))
    yield path.read_bytes()


TOML_WORDS = (
    b"like", b"file", b"name", b"swap", b"[", b"]", b"[[", b'"""', b"nan", b"inf", b"-",
    b"1979-05-27T07:32:00Z", b"0x", b"1e400", b"\\u0000", b"../", b"{", b"}", b"=", b"true",
    b"9" * 40, b"limits", b"pixels", b"template", b"outputs", b"sources", b"sha256",
)  # fmt: skip


def text(data: bytes) -> None:
    protocol.parse(data.decode("utf-8", "replace"))


def texts() -> Iterator[bytes]:
    yield b'{"type": "hello", "role": "camera", "accepted": true, "token": "x", "metadata": true}'
    yield b'{"type": "ack", "frame": 4294967295}'
    yield b'{"type": "ping", "sent": 1.5}'
    yield b'{"type": "set", "values": {"strength": 0.5, "paused": false, "mark": "x"}}'


def binary(data: bytes) -> None:
    try:
        _, _, jpeg = protocol.unpack(data)
    finally:
        protocol.without_metadata(data)
    decode_jpeg(jpeg, max_pixels=SMALL.pixels)


def binaries() -> Iterator[bytes]:
    jpeg = cv2.imencode(".jpg", np.full((16, 16, 3), 99, np.uint8))[1].tobytes()
    for metadata in (None, {"faces": [{"box": [1, 2, 3, 4]}]}):
        yield protocol.pack(protocol.Header(1, 2, 3, 16, 16), jpeg, metadata)


def control() -> Callable[[bytes], None]:
    """A line of the control socket; what it would do to the engine is left out."""

    def change(**values: Any) -> None:
        if values.get("strength") == "x":
            raise AssertionError("no such value passes")

    look = SimpleNamespace(marker=SimpleNamespace(consent=SimpleNamespace(basis="self")))
    commands = Commands(SimpleNamespace(change=change, look=look), None)  # type: ignore[arg-type]

    def line(data: bytes) -> None:
        if b"identity" in data or b"statistics" in data or b"record" in data:
            return  # opens files that it names, or needs an engine
        json.dumps(commands(data.decode("utf-8", "replace")))

    return line


def lines() -> Iterator[bytes]:
    yield b'{"set": {"strength": 0.5, "faces": "left"}}'
    yield b'{"get": "figures"}'
    yield b'{"set": {"consent": "self"}}'


JSON_WORDS = (
    b'"type"', b'"values"', b"null", b"[[[[", b"{}", b"1e999", b"NaN", b"\\ud800", b'"set"',
    b"-0", b"9" * 40, b'"hello"', b"\xff\xfe", b'"frame"', b"true",
)  # fmt: skip


TARGETS: dict[str, Target] = {
    "photo": Target(in_file(photo, ".img"), pictures, PICTURE_WORDS),
    "video": Target(in_file(video, ".mp4"), videos, VIDEO_WORDS),
    "boxes": Target(in_file(lambda p: check_container(p, SMALL), ".mp4"), videos, VIDEO_WORDS),
    "xmp": Target(read_xmp, lambda: iter([xmp({"software": "mien 1", "consent": "self"})]),
                  (b"<!DOCTYPE", b"<!ENTITY", b"&a;", b"<rdf:Description", b"xmlns:", b"]]>")),
    "onnx": Target(in_file(model, ".onnx"), models,
                   (b"Tile", b"Expand", b"Resize", b"Range", b"OneHot", b"Pad", b"Concat", b"If")),
    "card": Target(in_file(card, ".toml"), cards, TOML_WORDS),
    "settings": Target(in_file(settings, ".toml"), settings_seeds, TOML_WORDS),
    "policy": Target(in_file(rules, ".toml"), rules_seeds, TOML_WORDS),
    "deny": Target(in_file(denied, ".json"), denied_seeds, JSON_WORDS),
    "audit": Target(log, log_seeds, JSON_WORDS),
    "tracks": Target(in_file(tracked, ".npz"), tracked_seeds, (b"PK\1\2", b"PK\3\4", b"PK\5\6")),
    "text": Target(text, texts, JSON_WORDS),
    "binary": Target(binary, binaries, (b"MIEN", *JPEG_WORDS)),
    "control": Target(control(), lines, JSON_WORDS),
}  # fmt: skip
"""Name → reader."""


def corpus(name: str) -> list[Path]:
    """Inputs that once were findings, and a few that reach far."""
    return sorted(p for p in (CORPUS / name).glob("*") if p.is_file())


if __name__ == "__main__":  # one input again: python fuzz/targets.py NAME FILE
    TARGETS[sys.argv[1]](Path(sys.argv[2]).read_bytes())
