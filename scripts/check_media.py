"""Check that clips go through mien's source and sink unharmed.

    python scripts/check_media.py CLIP...                  # through source and sink, all checks
    python scripts/check_media.py CLIP... --portrait ME.jpg # the same, changed by real swaps
    python scripts/check_media.py CLIP... --watermark      # the watermark is written as well
    python scripts/check_media.py CLIP --against OUT.mp4   # any input and output: pts and copies

For each clip: frames in and out, every pts, every copied packet of sound and subtitles, planes
outside the changed rectangle before encoding, and PSNR outside it after encoding compared with
a plain re-encode at the same settings. With the watermark, chroma must stay outside the
rectangle and luma may differ by as much as the watermark may change; the PSNR is told but not
judged. The exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from mien import api, pipeline
from mien.media import Marked, SinkOptions, VideoSource, open_sink, open_source
from mien.media.colour import plane_rows
from mien.provenance import Marker, Marks
from mien.provenance.watermark import Watermark, new_output_id
from mien.types import Consent, Frame, Rect, Rule, SwapPlan

TOLERANCE_DB = 0.3


def frames_of(path: Path) -> Iterator[av.VideoFrame]:
    """Decode the first video stream with bare PyAV."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        yield from container.decode(container.streams.video[0])


def times(path: Path) -> list[Fraction]:
    """Presentation times of all frames, exact, in seconds."""
    return [f.pts * f.time_base for f in frames_of(path)]


def copies(path: Path) -> dict[str, list[tuple[str, Fraction]]]:
    """Hash and presentation time of every packet of sound and subtitles, by stream."""
    found: dict[str, list[tuple[str, Fraction]]] = defaultdict(list)
    with av.open(str(path)) as container:
        streams = [s for s in container.streams if s.type in ("audio", "subtitle")]
        names = {s.index: f"{s.type} {n} ({s.codec_context.name})" for n, s in enumerate(streams)}
        for packet in container.demux(streams) if streams else ():
            if packet.size:
                data = bytes(packet)
                if data[0] == 0xFF and data[1] >= 0xF0:  # MPEG-TS: MP4 has no ADTS header
                    data = data[7 if data[1] & 1 else 9 :]
                digest = hashlib.sha256(data).hexdigest()
                time = packet.pts * packet.time_base if packet.pts is not None else Fraction(-1)
                found[names[packet.stream.index]].append((digest, time))
    return dict(found)


LEVELS = 5
"""What the watermark may change, in 8-bit levels, rounding included."""

Change = Callable[[Frame], None]


def dim(frame: Frame) -> None:
    """Change a rectangle as large as a close face, with odd edges.

    It stays, as a face moves as it did before, and changes as much as another skin in another
    light, which is what a swap comes to.
    """
    height, width = frame.image.shape[:2]
    rect = Rect(width // 3 | 1, height // 3 | 1, 3 * width // 5 | 1, 3 * height // 4 | 1)
    frame.image[rect.slices()] = frame.image[rect.slices()] // 4 * 3 + 24
    frame.mark_dirty(rect)


def swaps(portrait: Path) -> Callable[[], Change]:
    """For each clip a function that swaps and labels its frames, as a run does."""
    swapper, consent = pipeline.load(), Consent("synthetic")
    plan = SwapPlan((Rule(api.enrol(portrait, consent, swapper=swapper)),))

    def fresh() -> Change:
        # The watermark has a pass of its own, since it is everywhere.
        stream = pipeline.Stream(swapper)
        mark = Marker(Marks(watermark_on=False), consent=consent)

        def change(frame: Frame) -> None:
            mark(stream.render(frame, stream.assign(stream.observe(frame), plan), plan))

        return change

    return fresh


def stored_rectangles(source: VideoSource, frame: Frame) -> list[Rect]:
    """The changed rectangles in the stored, unrotated picture, chroma-aligned."""
    origin, turned = frame.origin, source.orientation
    return [
        turned.undo_rect(rect, origin.width, origin.height).even(origin.width, origin.height, 4)
        for rect in frame.dirty
    ]


def send(
    clip: Path,
    out: Path,
    options: SinkOptions,
    change: Change | None,
    watermark: Watermark | None = None,
) -> dict[str, Any]:
    """Copy a clip through source and sink, every frame changed."""
    spoilt, rects = 0, []
    with (
        open_source(clip) as source,
        open_sink(out, source, options=options, metadata={}) as sink,
    ):
        for frame in source:
            before = [rows.copy() for rows in plane_rows(frame.origin)] if change else []
            if change:
                change(frame)
                rects.append(stored_rectangles(source, frame))
            veil = watermark.write(frame) if watermark else None
            depth = frame.origin.format.components[0].bits
            sink.write(Marked(frame, veil))
            after = plane_rows(frame.origin)
            if change and not same_outside(before, after, rects[-1], depth, veil is not None):
                spoilt += 1
        return {"damaged": source.damaged, "spoilt": spoilt, "rects": rects}


def same_outside(
    before: list[Any], after: list[Any], rects: list[Rect], depth: int, veiled: bool
) -> bool:
    """Whether all planes are equal outside the rectangles, and not all equal inside.

    With a watermark (``veiled``) luma may differ by as much as it may change.
    """
    width, height = before[0].shape[1], before[0].shape[0]
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        keep = np.ones(old.shape[:2], bool)
        for x0, y0, x1, y1 in rects:
            across, down = -(-width // old.shape[1]), -(-height // old.shape[0])
            keep[y0 // down : -(-y1 // down), x0 // across : -(-x1 // across)] = False
        if veiled and number == 0:
            kind = np.uint8 if depth == 8 else np.uint16
            one, two = (a.reshape(*a.shape[:2], -1).view(kind).astype(int) for a in (old, new))
            if np.abs(one - two)[keep].max() > LEVELS * 2 ** (depth - 8):
                return False
        elif not np.array_equal(old[keep], new[keep]):
            return False
    return not np.array_equal(before[0], after[0])


def psnr_outside(clip: Path, out: Path, rects: list[list[Rect]]) -> float:
    """PSNR of luma outside the rectangles over the whole clip, in dB."""
    total, count, peak = 0.0, 0, 255.0
    for a, b, holes in zip(frames_of(clip), frames_of(out), rects, strict=True):
        wide = a.format.components[0].bits > 8
        peak = float(2 ** a.format.components[0].bits - 1)
        old, new = (_luma(f, wide) for f in (a, b))
        keep = np.ones(old.shape, bool)
        for rect in holes:
            keep[rect.slices()] = False
        error = (old.astype(np.float32) - new)[keep]
        total, count = total + float((error**2).sum()), count + error.size
    return 10 * float(np.log10(peak**2 * count / max(total, 1e-9)))


def _luma(frame: av.VideoFrame, wide: bool) -> Any:
    rows = plane_rows(frame)[0]
    return np.ascontiguousarray(rows).view("<u2")[:, :, 0] if wide else rows[:, :, 0]


def compare(clip: Path, out: Path) -> tuple[str, bool]:
    """Compare pts and copied packets of an input and an output."""
    before, after = times(clip), times(out)
    slack = Fraction(1, 1000) if out.suffix in (".mkv", ".webm") else 0  # they store milliseconds
    equal = len(before) == len(after) and all(
        abs(a - b) <= slack for a, b in zip(before, after, strict=True)
    )
    word = "DIFFER" if not equal else "equal" if before == after else "equal to the millisecond"
    old, new = copies(clip), copies(out)
    packets = sum(map(len, old.values()))
    same_bytes = [[d for d, _ in v] for v in old.values()] == [
        [d for d, _ in v] for v in new.values()
    ]
    moved = max(
        (
            abs(a[1] - b[1])
            for x, y in zip(old.values(), new.values(), strict=False)
            for a, b in zip(x, y, strict=False)
        ),
        default=Fraction(0),
    )
    text = (
        f"frames {len(before)}/{len(after)}, pts {word}, "
        f"{packets} packets in {len(old)} copied streams "
        f"{'identical' if same_bytes else 'DIFFER'}, moved by at most {float(moved) * 1e3:.3f} ms"
    )
    return text, equal and same_bytes and moved < Fraction(1, 500)


def check(
    clip: Path, options: SinkOptions, suffix: str, change: Change, watermark: Watermark | None
) -> bool:
    """Run all checks on one clip and print one line."""
    with tempfile.TemporaryDirectory() as folder:
        changed, plain = Path(folder, f"changed{suffix}"), Path(folder, f"plain{suffix}")
        sent = send(clip, changed, options, change, watermark)
        send(clip, plain, options, None)
        text, good = compare(clip, changed)
        with_change = psnr_outside(clip, changed, sent["rects"])
        without = psnr_outside(clip, plain, sent["rects"])
    good = good and not sent["spoilt"]
    good = good and (watermark is not None or without - with_change <= TOLERANCE_DB)
    same = "identical" if watermark is None else f"identical but luma by up to {LEVELS} levels"
    print(
        f"{'ok  ' if good else 'FAIL'} {clip.name}: {text}, damaged {sent['damaged']}, "
        f"planes outside {'SPOILT' if sent['spoilt'] else same}, "
        f"PSNR outside {with_change:.2f} dB, plain {without:.2f} dB",
        flush=True,
    )
    return good


def main() -> int:
    """Check every clip of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--against", type=Path, help="an output that was made of the one clip")
    parser.add_argument("--portrait", type=Path, help="change the clips by swapping this face in")
    parser.add_argument("--watermark", action="store_true", help="write the watermark as well")
    parser.add_argument("--encoder")
    parser.add_argument("--preset")
    parser.add_argument("--quality", type=int)
    parser.add_argument("--suffix", default=".mp4", help="container of the trial outputs")
    given = parser.parse_args()
    if given.against:
        pairs = [compare(clip, given.against) for clip in given.clips]
        for clip, (text, good) in zip(given.clips, pairs, strict=True):
            print(f"{'ok  ' if good else 'FAIL'} {clip.name}: {text}")
        return 0 if all(good for _, good in pairs) else 1
    options = SinkOptions(given.encoder, given.preset, given.quality)
    fresh = swaps(given.portrait) if given.portrait else lambda: dim
    mark = Watermark(new_output_id()) if given.watermark else None
    results = [check(clip, options, given.suffix, fresh(), mark) for clip in given.clips]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
