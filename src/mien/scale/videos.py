"""Parts of a video, painted by a pool."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray

from mien import identity, media, parts, policy, tracks
from mien.errors import MediaError
from mien.parts import Job, Part
from mien.provenance import Marker
from mien.scale import carried
from mien.scale.carried import Words
from mien.scale.pool import Pool, checked
from mien.types import Identity, SwapPlan

PIECE: Final = 64 << 20
"""Bytes of a video that travel at a time."""

Done = Callable[[Part, Words], None]
"""Called when a part's file is in the job's folder, with ``frames``, ``seconds`` and ``stages``
(milliseconds a frame) of the work on it."""


def paint_parts(  # noqa: PLR0917
    pool: Pool,
    job: Job,
    missing: Sequence[Part],
    output: Path,
    plan: SwapPlan,
    marker: Marker,
    *,
    options: media.SinkOptions,
    rules: policy.Policy | None = None,
    user: str = "",
    shared: bool = True,
    watch: Callable[[], None] | None = None,
    progress: parts.Progress | None = None,
    done: Done | None = None,
) -> None:
    """Paint parts of a video on a pool; each file appears whole in the job's folder.

    It is byte for byte what :func:`mien.parts.paint` makes with as many threads. A part whose
    worker is lost is painted anew by another.

    Args:
        pool: Whose actors do it.
        job: With tracks.
        missing: Those to be painted.
        output: What is made in the end; its name says the container.
        plan: Whose faces; who goes where was decided when faces were followed.
        marker: Of the job.
        options: Of the encoder; where it leaves the threads open, it gets those of an actor.
        rules: What is allowed; None takes the policy in force here, which workers then follow.
        user: Who asked; empty for the user of this machine.
        shared: A worker that sees the very video under the same name reads it there; False
            sends it in any case.
        watch: Called about once a second; what it raises stops the work. None sees to
            identities of this machine's store, whose consent may be withdrawn.
        progress: Called with the number of frames painted so far.
        done: Called after each part.

    Raises:
        MediaError: Reading or writing failed, or a part was lost with several workers.
        Refused: The policy does not allow it, or a consent has ended.
        MienError: What else a worker ended with.
    """
    what = ray.put(
        {
            "key": secrets.token_hex(8),
            "kind": "video",
            "job": carried.of_job(job),
            "tracks": np.fromfile(job.tracks, np.uint8),
            "footage": _footage(job.target, pool, shared=shared),
            "output": str(output),
            "plan": carried.of_plan(plan),
            "marker": carried.of_marker(marker),
            "options": asdict(options_of(options, pool)),
            "policy": carried.of_policy(rules or policy.load(), user or policy.user()),
        }
    )
    with tracks.Reader(job.tracks) as reader:
        frames = dict(_lengths(missing, reader.pts))
    painted = 0
    answers = pool.spread(
        sorted(missing, key=lambda part: -frames[part.number]),  # nobody waits for a long one
        lambda actor, part: actor.paint.remote(what, (part.number, part.first, part.end)),
        watch or watching([rule.identity for rule in plan.rules], "video"),
        most=len(missing),
    )
    with closing(answers):
        for part, answer in answers:
            checked(answer, str(job.target))
            _write(job.path(part), answer.pop("data"))
            painted += frames[part.number]
            if progress is not None:
                progress(painted)
            if done is not None:
                done(part, answer)


def options_of(options: media.SinkOptions, pool: Pool) -> media.SinkOptions:
    """The encoder's options, with an actor's threads where none were said."""
    said = asdict(options)
    return media.SinkOptions(**{**said, "threads": options.threads or pool.threads})


def watching(people: Sequence[Identity], use: policy.Kind) -> Callable[[], None]:
    """Refuses as soon as a consent is withdrawn, or over."""
    watch = identity.Watch()
    return lambda: watch.permit(people, use)


def _lengths(missing: Iterable[Part], pts: Any) -> Iterator[tuple[int, int]]:
    for part in missing:
        end = len(pts) if part.end is None else int(np.searchsorted(pts, part.end))
        yield part.number, end - int(np.searchsorted(pts, part.first))


def _footage(path: Path, pool: Pool, *, shared: bool) -> Words:
    """Where the video is, and its bytes for those who do not see it; those of the last are kept."""
    path = path.absolute()
    there = path.stat()
    said: Words = {
        "path": str(path),
        "size": there.st_size if shared else -1,
        "changed": there.st_mtime_ns,
    }
    said["key"] = hashlib.sha256(repr(said).encode()).hexdigest()
    if pool.footage.get("key") != said["key"]:
        pieces = []
        if not (shared and pool.alone):
            with path.open("rb") as file:
                while len(piece := np.fromfile(file, np.uint8, PIECE)):
                    pieces.append(ray.put(piece))
        pool.footage = said | {"pieces": pieces}
    return pool.footage


def _write(path: Path, data: Any) -> None:
    """Write a part; it appears whole, under its name, and on the disk.

    Raises:
        MediaError: It cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            data.tofile(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise MediaError(f"{path}: cannot be written ({error.strerror})") from error
