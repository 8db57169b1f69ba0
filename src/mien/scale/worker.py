"""What an actor does: warm models, one part or one photo after the other."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import ray

from mien import __version__, api, config, media, parts, pipeline, policy
from mien.api.plans import by_person
from mien.errors import MediaError, MienError
from mien.provenance import Marker
from mien.scale import carried
from mien.scale.carried import Words
from mien.types import SwapPlan

VIDEO: Final = ".video"
"""Suffix of copies of videos."""


def scratch(session: str) -> Path:
    """The folder of all workers of one pool on this machine.

    Args:
        session: Of the pool; a word nobody can guess.
    """
    return Path(tempfile.gettempdir()) / f"mien-{session}"


class Worker:
    """One actor's models and scratch folder. Errors of mien are answers, not exceptions."""

    def __init__(self, session: str) -> None:
        """Take up work; nothing is loaded yet.

        Args:
            session: Of the driver; a word nobody can guess, the same for all its workers.
        """
        self._shared = scratch(session)
        self._own = self._shared / uuid.uuid4().hex
        self._swapper: pipeline.Swapper | None = None
        self._work: _Work | None = None

    def about(self) -> Words:
        """Where it is, and which cores it may use."""
        return {
            "node": ray.get_runtime_context().get_node_id(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
            "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        }

    def warm(self, settings: str, cores: Sequence[int]) -> Words:
        """Load the models.

        Args:
            settings: Of the chain, as JSON.
            cores: On which all threads are to stay; empty for any.
        """
        return _answer(lambda: self._warm(settings, cores))

    def paint(self, what: Mapping[str, Any], part: tuple[int, int, int | None]) -> Words:
        """Paint one part of a video.

        Args:
            what: Of :func:`mien.scale.videos.paint_parts`.
            part: Number, first tick, and the tick before which it ends.
        """
        return _answer(lambda: self._paint(what, parts.Part(*part)))

    def swap_photo(
        self,
        what: Mapping[str, Any],
        marker: Mapping[str, Any],
        names: tuple[str, str],
        data: np.ndarray,
    ) -> Words:
        """Swap one photo.

        Args:
            what: Of :func:`mien.scale.folders.swap_photos`.
            marker: Of this photo.
            names: Of the photo, and of what is made.
            data: The photo's file, ``(N,)`` uint8.
        """
        return _answer(lambda: self._swap_photo(what, carried.to_marker(marker), names, data))

    def leave(self) -> None:
        """Remove what was kept on this machine's disk."""
        shutil.rmtree(self._shared, ignore_errors=True)

    # --- what is done ------------------------------------------------------------------------

    def _warm(self, settings: str, cores: Sequence[int]) -> Words:
        chain = config.Settings.model_validate_json(settings)
        if cores and hasattr(os, "sched_setaffinity"):
            for thread in Path("/proc/self/task").iterdir():  # Ray's own threads, too
                os.sched_setaffinity(int(thread.name), cores)
        if chain.threads:
            cv2.setNumThreads(chain.threads)
        self._swapper = api.chain_of(chain)
        return {"models": {stage: name for stage, (name, _) in self._swapper.models.items()}}

    def _paint(self, what: Mapping[str, Any], part: parts.Part) -> Words:
        assert self._swapper is not None
        work = self._work_of(what)
        report = parts.paint(
            work.job(),
            part,
            Path(what["output"]),
            self._swapper,
            work.plan,
            carried.to_marker(what["marker"]),
            options=carried.to_options(what["options"]),
            rules=work.rules,
            use=work.use,
        )
        if report.interrupted:
            raise MediaError(f"{what['output']}: the worker of a part was interrupted")
        made = work.job().path(part)
        data = np.frombuffer(made.read_bytes(), np.uint8)
        made.unlink()
        return {"data": data, "frames": report.frames_out, "seconds": report.seconds,
                "stages": report.stages}  # fmt: skip

    def _work_of(self, what: Mapping[str, Any]) -> _Work:
        """What lasts from part to part of a job."""
        if self._work is None or self._work.key != what["key"]:
            if self._work is not None:
                shutil.rmtree(self._own, ignore_errors=True)
            for folder in (self._shared, self._own):
                folder.mkdir(mode=0o700, exist_ok=True)
            self._work = _Work(what, self._own)
            if "job" in what:
                _put(self._own / "tracks.npz", [what["tracks"]])
                self._work.target = self._footage(what["footage"])
        return self._work

    def _footage(self, said: Mapping[str, Any]) -> Path:
        """The video: the very file where this machine sees it, else a copy for all its workers."""
        path = Path(said["path"])
        try:
            seen = path.stat()
            if (seen.st_size, seen.st_mtime_ns) == (said["size"], said["changed"]):
                return path
        except OSError:
            pass
        if not said["pieces"]:
            raise MediaError(f"{path}: was changed while it was worked on")
        copy = self._shared / f"{said['key']}{VIDEO}"
        if not copy.exists():
            for old in self._shared.glob(f"*{VIDEO}"):  # of the job before
                old.unlink(missing_ok=True)
            _put(copy, (ray.get(piece) for piece in said["pieces"]))
        return copy

    def _swap_photo(
        self, what: Mapping[str, Any], marker: Marker, names: tuple[str, str], data: np.ndarray
    ) -> Words:
        assert self._swapper is not None
        work = self._work_of(what)
        folder = self._own / "photo"
        folder.mkdir(exist_ok=True)
        target, output = (folder / f"{n}{Path(name).suffix}" for n, name in enumerate(names))
        try:
            _put(target, [data])
            stream = pipeline.Stream(
                self._swapper,
                identify=by_person(work.plan),
                still=True,
                rules=work.rules,
                use=work.use,
            )
            options = carried.to_options(what["options"])
            with media.open_source(target, limits=self._swapper.limits) as source:
                larger = self._size(source)
                size = larger or (source.info.width, source.info.height)
                sink = media.open_sink(
                    output,
                    source,
                    options=options,
                    metadata=marker.metadata(),
                    size=larger,
                )
                try:
                    report = pipeline.run(source, sink, stream, work.plan, marker)
                    if report.swapped:
                        sink.close()
                finally:
                    sink.abort()
            made = output.read_bytes() if report.swapped else b""
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return {
            "data": np.frombuffer(made, np.uint8),
            "report": asdict(report),
            "size": size,
            "denied": sorted(set(stream.gate.denied.values())),
        }

    def _size(self, source: media.Source) -> tuple[int, int] | None:
        assert self._swapper is not None
        enlarge, info = self._swapper.upscaler, source.info
        if enlarge is None:
            return None
        enlarge.check(info.width, info.height, "the photo")
        return enlarge.size(info.width, info.height)


class _Work:
    """A job as a worker knows it.

    Attributes:
        key: Of the job.
        plan: Whose faces.
        rules: What is allowed.
        use: What it is for, and who asked.
        target: The video, where this machine has it.
    """

    def __init__(self, what: Mapping[str, Any], folder: Path) -> None:
        self.key: str = what["key"]
        self.plan: SwapPlan = carried.to_plan(what["plan"])
        self.rules = carried.to_policy(what["policy"])
        self.use = policy.Use(what["kind"], user=what["policy"]["user"])
        self.target: Path | None = None
        self._said, self._folder = what, folder

    def job(self) -> parts.Job:
        assert self.target is not None
        return carried.to_job(self._said["job"], self._folder, self.target)


def _answer(work: Callable[[], Words]) -> Words:
    """What work gives, or the error of mien that it ended with."""
    try:
        return work()
    except MienError as error:
        return {"error": type(error).__name__, "message": str(error)}


def _put(path: Path, pieces: Iterable[np.ndarray]) -> None:
    """Write a file that appears whole.

    Raises:
        MediaError: The disk is full.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            for piece in pieces:
                piece.tofile(file)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise MediaError(
            f"{socket.gethostname()}: {path}: cannot be written ({error.strerror})"
        ) from error
