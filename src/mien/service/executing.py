"""One piece of work on a job: its faces followed, a part painted, a picture swapped, all joined.

What is made lies in a scratch folder, which is a cache and may vanish, and counts when it is in the
store. While a piece is worked on a thread renews its lease, and learns that the job was canceled.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import secrets
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mien import media, parts, pipeline, policy, tracks
from mien.api.files import open_part
from mien.api.plans import by_person, consent_to, made_of, people_of
from mien.api.resuming import asked_of
from mien.errors import MediaError, MienError, ModelError, NoFace, ProviderError, UsageError
from mien.pipeline import Report, Stream, Swapper
from mien.provenance import Marker, Marks, credentials
from mien.provenance.watermark import new_output_id
from mien.service import problems
from mien.service.database import File, Part
from mien.service.examining import examine, suffix_of
from mien.service.fetching import Unanswered, fetch, name_of
from mien.service.files import Stored
from mien.service.jobs import Jobs, Lost, Task
from mien.service.people import People, Watch
from mien.service.settings import ServiceSettings
from mien.types import Consent, Rule, SwapPlan

log = logging.getLogger(__name__)

PAUSE: Final = 5.0
"""Seconds between two looks whether disk and store are back."""

BEAT: Final = 1.5
"""Seconds between two heartbeats at most; a canceled job stops within that."""

SPARE: Final = 8 << 20
"""Bytes that have to be free for a disk not to be taken for full."""

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}

TYPES: Final = {
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".zip": "application/zip",
}

_TRANSIENT: Final = (ModelError, ProviderError)
"""Errors of mien that are the machine's and not the caller's."""


Note = Callable[[str, dict[str, Any]], None]


class Stopped(Exception):
    """The worker ends, or the lease is gone."""


class Away(Exception):
    """The store cannot be reached, or a disk is full.

    Attributes:
        problem: As the job says it.
    """

    def __init__(self, status: int, name: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = problems.details(status, name, detail)


def _store_away() -> Away:
    return Away(503, "store", "the store of files cannot be reached; goes on when it is back")


def _disk_full() -> Away:
    return Away(507, "full", "there is no space left; goes on when there is")


@dataclass(frozen=True, slots=True)
class Models:
    """What a worker works with.

    Attributes:
        chosen: Name of a generator, empty for the usual → the models.
        limits: For files.
        watch: Says whose consent has ended.
        paint: Paints a part of a video, here or elsewhere.
    """

    chosen: Callable[[str], Swapper]
    limits: media.Limits
    watch: Watch
    paint: Callable[..., Report] = parts.paint


class Holding:
    """Renews a lease while its work is done, and learns that it is to stop. A context."""

    def __init__(self, jobs: Jobs, task: Task, stop: threading.Event) -> None:
        """Hold what was claimed.

        Args:
            jobs: Whose.
            task: The claim.
            stop: Set when the worker ends.
        """
        self._jobs, self._task, self._stop = jobs, task, stop
        self._frames, self._lost = 0, False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="mien-lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def progress(self, frames: int) -> None:
        """Say how far the work is.

        Raises:
            Stopped: It is to stop.
        """
        self._frames = frames
        self.check()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            Stopped: Not.
        """
        if self._lost or self._stop.is_set():
            raise Stopped

    def _beat(self) -> None:
        while not self._over.wait(min(BEAT, self._jobs.lease / 4)):
            try:
                going = self._jobs.beat(self._task, self._frames)
            except SQLAlchemyError:
                continue  # nobody else can take it while the database is away
            if not going:
                self._lost = True
                return


class Executor:
    """Works on jobs, one piece at a time.

    Args:
        jobs: Rows.
        people: Identities.
        models: Of this worker.
        settings: Of the service.
        name: Of this worker, at most 40 letters.
        stop: Set when the worker ends: then work is given back.
        note: Told what is to be counted, see :meth:`mien.service.metrics.Metrics.note`.
    """

    def __init__(  # noqa: PLR0917
        self,
        jobs: Jobs,
        people: People,
        models: Models,
        settings: ServiceSettings,
        name: str,
        stop: threading.Event,
        *,
        note: Note = lambda _name, _facts: None,
    ) -> None:
        self._jobs, self._people, self._models, self._note = jobs, people, models, note
        self._settings, self._name, self._stop = settings, name, stop
        self.folder = settings.scratch / "jobs"

    # --- what goes on ----------------------------------------------------------------------------

    def work_once(self) -> bool:
        """Do one piece of work; False if there is none.

        Raises:
            SQLAlchemyError: The database is away, and nothing was begun.
        """
        task = self._jobs.claim(self._name)
        if task is None:
            return False
        with Holding(self._jobs, task, self._stop) as holding:
            try:
                if task.job.state == "paused":
                    self._look()
                    self._surely(lambda: self._jobs.resumed(task))
                frames = self._do(task, holding)
                if frames:
                    self._note("frames", {"count": frames})
            except Exception as error:
                with contextlib.suppress(Lost, Stopped):
                    self._surely(partial(self._tell, task, error))
        return True

    def _do(self, task: Task, holding: Holding) -> int:
        """Do it; says how many frames were painted."""
        folder = self.folder / task.job.id
        folder.mkdir(parents=True, exist_ok=True)
        piece = _Piece(self._jobs, self._people, self._models, self._settings, task, holding,
                       folder, self._surely)  # fmt: skip
        if task.stage == "follow":
            piece.follow()
        elif task.part is None:
            piece.join()
            shutil.rmtree(folder, ignore_errors=True)
        elif task.job.plan["kind"] == "video":
            return piece.paint(task.part)
        else:
            piece.swap(task.part)
            return 1
        return 0

    def _tell(self, task: Task, error: Exception) -> None:
        """Say in the rows what became of a piece of work that was not done."""
        if isinstance(error, Lost):
            return
        if isinstance(error, Stopped | SQLAlchemyError):
            self._jobs.released(task)
            return
        self._note("error", {"work": "job", "error": type(error).__name__})
        if isinstance(error, Away) or _is_full(error, self._settings.scratch):
            away = error if isinstance(error, Away) else _disk_full()
            log.warning("job %s: paused: %s", task.job.id, away)
            self._jobs.paused(task, away.problem, PAUSE)
            return
        known = isinstance(error, MienError) and not isinstance(error, _TRANSIENT)
        if known or isinstance(error, problems.Problem):
            problem = self._problem(task, error)
            log.info("job %s: failed: %s", task.job.id, type(error).__name__)
            if task.part is not None and task.job.plan["kind"] == "images":
                self._jobs.painted(task, None, None, 1, problem)
            else:
                self._jobs.failed(task, problem)
            return
        if isinstance(error, Unanswered):
            self._jobs.again(task, problems.details(422, "unreachable", str(error)))
            return
        log.error("job %s: tried again", task.job.id, exc_info=error)
        why = f"the work failed ({type(error).__name__})"
        self._jobs.again(task, problems.details(500, "failed", why))

    def _problem(self, task: Task, error: Exception) -> dict[str, Any]:
        """An error as the caller may read it: files by the caller's names, no folders of ours."""
        problem = error if isinstance(error, problems.Problem) else None
        if problem is None:
            assert isinstance(error, MienError)
            problem = problems.of(error)
        said = problem.as_dict()
        detail = str(said["detail"])
        for number, target in enumerate(task.job.asked["targets"]):
            for path in sorted((self.folder / task.job.id).glob(f"target-{number}.*")):
                detail = detail.replace(str(path), str(target["name"]))
                detail = detail.replace(path.name, str(target["name"]))
        for folder in (self.folder / task.job.id, self._settings.folder):
            detail = detail.replace(f"{folder}/", "")
        said["detail"] = detail
        return said

    def _surely(self, act: Callable[[], None]) -> None:
        """Write to the database, and wait for it where it is away.

        Raises:
            Stopped: The worker ends before.
        """
        while True:
            try:
                act()
            except DBAPIError as error:
                log.warning("the database does not answer (%s)", type(error.orig).__name__)
                if self._stop.wait(0.5):
                    raise Stopped from error
            else:
                return

    def _look(self) -> None:
        """See whether disk and store are back.

        Raises:
            Away: They are not.
        """
        probe = self._settings.scratch / f".probe-{secrets.token_hex(4)}"
        try:
            if shutil.disk_usage(self._settings.scratch).free < SPARE:
                raise _disk_full()
            probe.write_bytes(bytes(1 << 20))
        except OSError as error:
            raise _disk_full() from error
        finally:
            probe.unlink(missing_ok=True)
        path = f"probe/{secrets.token_hex(8)}"
        with storing():
            self._jobs.files.put(path, io.BytesIO(bytes(1 << 20)))
            self._jobs.files.remove(path)

    def sweep(self) -> None:
        """Remove what is in the scratch folder of jobs that are over.

        Raises:
            SQLAlchemyError: The database is away.
        """
        there = [p.name for p in self.folder.iterdir()] if self.folder.is_dir() else []
        alive = self._jobs.alive(there) if there else set()
        for name in set(there) - alive:
            shutil.rmtree(self.folder / name, ignore_errors=True)


class _Piece:
    """One piece of work."""

    def __init__(  # noqa: PLR0917
        self,
        jobs: Jobs,
        people: People,
        models: Models,
        settings: ServiceSettings,
        task: Task,
        holding: Holding,
        folder: Path,
        surely: Callable[[Callable[[], None]], None],
    ) -> None:
        self._jobs, self._people, self._settings, self._task = jobs, people, settings, task
        self._holding, self._folder, self._surely = holding, folder, surely
        self._models = models
        self._job, self._asked = task.job, task.job.asked
        consent = self._asked.get("target_consent")
        note = self._asked.get("target_note", "")
        self._target_consent = None if consent is None else Consent(consent, note)
        self._marks = Marks(**self._asked.get("marks", {}))
        self._options = media.SinkOptions(quality=self._asked.get("quality"))

    def _swapper(self) -> Swapper:
        return self._models.chosen(self._asked.get("generator", ""))

    def _plan(self) -> SwapPlan:
        """Whose faces; read anew for each piece, as consent may be withdrawn.

        Raises:
            Refused: It was.
            Problem: There is no such identity any more.
        """
        known: dict[str, Any] = {}
        for rule in self._asked["rules"]:
            name = rule["identity"]
            known[name] = known.get(name) or self._people.get(self._job.tenant, name)
        return SwapPlan(tuple(Rule(known[r["identity"]], r["faces"]) for r in self._asked["rules"]))

    def _permitted(self, plan: SwapPlan, kind: policy.Kind) -> tuple[policy.Policy, policy.Use]:
        """The policy, and the use that it permits.

        Raises:
            Refused: It does not.
        """
        rules = policy.load()
        use = policy.Use(
            kind,
            target_consent=self._target_consent,
            marks=self._marks,
            user=self._job.tenant,
        )
        rules.permit(people_of(plan), use)
        return rules, use

    def _marker(self, plan: SwapPlan) -> Marker:
        return Marker(
            self._marks,
            consent=consent_to(plan),
            target_consent=self._target_consent,
            output_id=self._job.output_id,
        )

    # --- files -----------------------------------------------------------------------------------

    def _cached(self, path: Path, stored: str) -> Path:
        """A file of the store in the scratch folder; several workers may want it at one time.

        Raises:
            Away: The store cannot be reached.
        """
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            try:
                with storing():
                    self._jobs.files.get(stored, hidden)
                hidden.replace(path)
            finally:
                hidden.unlink(missing_ok=True)
        return path

    def _row(self, file: str) -> File:
        with self._jobs.database(write=False) as rows:
            row = rows.get(File, file)
        if row is None:
            raise Lost
        return row

    def _put(self, path: Path, kind: str, name: str) -> tuple[File, Stored]:
        """Put a file into the store, where it does not count yet.

        Raises:
            Away: The store cannot be reached, or is full.
        """
        made: list[File] = []
        job = self._job
        self._surely(
            lambda: made.append(self._jobs.announce(job.tenant, job.id, kind, name, path.suffix))
        )
        (file,) = made
        file.media_type = TYPES.get(path.suffix, "")
        self._holding.check()
        try:
            with storing():
                return file, self._jobs.files.put(file.path, path)
        except BaseException:
            self._drop(file)
            raise

    def _drop(self, file: File) -> None:
        with contextlib.suppress(SQLAlchemyError):  # it expires anyway
            self._jobs.discard(file)

    @contextlib.contextmanager
    def _or_drop(self, *files: File) -> Iterator[None]:
        """Let go of files that were put there for nothing."""
        try:
            yield
        except BaseException:
            for file in files:
                self._drop(file)
            raise

    def _target(self, number: int, file: str) -> Path:
        name = str(self._asked["targets"][number]["name"])
        suffix = Path(name).suffix.lower()
        safe = suffix if suffix.isascii() and suffix[1:].isalnum() and len(suffix) < 8 else ".bin"
        return self._cached(self._folder / f"target-{number}{safe}", self._row(file).path)

    # --- the first stage -------------------------------------------------------------------------

    def follow(self) -> None:
        """Fetch what lies elsewhere; of a video find and follow all faces, and cut it."""
        fetched: list[tuple[File, Stored]] = []
        ids: list[str] = []
        for number, target in enumerate(self._asked["targets"]):
            self._holding.check()
            if target["file"]:
                ids.append(str(target["file"]))
                continue
            found = self._fetched(number, str(target["url"]))
            fetched.append(found)
            ids.append(found[0].id)
        with self._or_drop(*(file for file, _ in fetched)):
            paths = [self._target(number, file) for number, file in enumerate(ids)]
            for path in paths:
                if path.stat().st_size > self._settings.limits.body_bytes:
                    raise UsageError(f"{path}: is too large")
            kinds = {media.kind_of(path) for path in paths}
            if kinds == {"image"}:
                self._begin_pictures(ids, fetched)
            elif len(paths) == 1:
                self._follow_video(paths[0], ids, fetched)
            else:
                raise UsageError("targets: expected one video, or pictures alone")

    def _fetched(self, number: int, url: str) -> tuple[File, Stored]:
        path = self._folder / f".fetched-{number}-{secrets.token_hex(4)}"
        try:
            fetch(
                url,
                path,
                prefixes=self._settings.url_prefixes,
                inner=self._settings.inner_addresses,
                most=self._settings.limits.body_bytes,
                progress=self._holding.check,
                options=self._settings.files_options if _same_store(self._settings, url) else {},
            )
            return self._put(path, "upload", name_of(url))
        finally:
            path.unlink(missing_ok=True)

    def _begin_pictures(self, ids: list[str], fetched: list[tuple[File, Stored]]) -> None:
        most = self._settings.limits.photos
        if len(ids) > most:
            raise UsageError(f"targets: at most {most} pictures")
        self._permitted(self._plan(), "photo")
        found: dict[str, Any] = {"kind": "images", "targets": ids}
        spans = [(number, None) for number in range(len(ids))]
        self._surely(
            lambda: self._jobs.followed(self._task, found, spans, fetched, frames=0, total=len(ids))
        )

    def _follow_video(
        self, target: Path, ids: list[str], fetched: list[tuple[File, Stored]]
    ) -> None:
        plan, swapper = self._plan(), self._swapper()
        rules, use = self._permitted(plan, "video")
        work = self._folder / f"follow-{secrets.token_hex(4)}"
        work.mkdir()
        try:
            output = work / f"output{self._suffix(target)}"
            start, end = self._asked.get("start"), self._asked.get("end")
            self._examine(target, work)
            with open_part(target, start, end, self._models.limits) as source:
                info = source.info
            if swapper.upscaler is not None:
                swapper.upscaler.check(info.width, info.height, str(target))
            output_id = f"{new_output_id():08x}"
            begun = parts.begin(
                work / "job",
                target,
                {},
                output_id=output_id,
                start=start,
                end=end,
                seconds=self._settings.part_seconds,
            )
            run = rules.begin(people_of(plan), use, target)
            stream = Stream(swapper, identify=by_person(plan, still=False), rules=rules, use=use)
            stream.watch = self._models.watch
            with media.open_source(target, start=begun.start, end=begun.end) as source:
                assert isinstance(source, media.VideoSource)
                if self._asked.get("tracks"):
                    given = self._cached(work / "given.npz", self._row(self._asked["tracks"]).path)
                    report = parts.take(given, begun.tracks, parts.by_plan(stream, plan))
                else:
                    decide = parts.by_plan(stream, plan)
                    report = parts.follow(
                        source, begun.tracks, stream, decide, self._holding.progress
                    )
            if not report.swapped:
                run.end("copied")
                raise NoFace(f"{target}: no face that could be swapped was found")
            with tracks.Reader(begun.tracks) as reader:
                every = begun.parts(int(reader.pts[0]))
            frames = report.frames_in
            file, stored = self._put(begun.tracks, "tracks", "tracks.npz")
            found = {
                "kind": "video",
                "targets": ids,
                "tracks": file.id,
                "run": run.id,
                "output_id": output_id,
                "suffix": output.suffix,
                "start": _text(begun.start),
                "end": _text(begun.end),
                "time_base": str(begun.time_base),
                "cuts": list(begun.cuts),
                "frames": frames,
                "swapped": report.swapped,
                "faces": report.faces,
                "damaged": report.damaged,
                "asked": asked_of(plan, swapper, self._marker(plan), self._options, output),
            }
            with self._or_drop(file):
                self._surely(
                    lambda: self._jobs.followed(
                        self._task,
                        found,
                        [(part.first, part.end) for part in every],
                        [*fetched, (file, stored)],
                        frames=frames,
                        total=2 * frames,
                    )
                )
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _examine(self, target: Path, work: Path) -> None:
        examine(
            target,
            work,
            self._models.limits,
            self._settings.limits.seconds,
            format=self._asked.get("format"),
            start=self._asked.get("start"),
            end=self._asked.get("end"),
        )

    def _suffix(self, target: Path) -> str:
        return suffix_of(target, media.kind_of(target), self._asked.get("format"))

    # --- the second stage ------------------------------------------------------------------------

    def _begun(self, plan: SwapPlan, swapper: Swapper) -> tuple[parts.Job, Path]:
        """The job as it was followed, and what its result is called; its tracks are there.

        Raises:
            Lost: It was followed by other models, and begins anew.
        """
        found = self._job.plan
        made = self._folder / str(found["output_id"])
        made.mkdir(exist_ok=True)
        output = made / f"output{found['suffix']}"
        asked = asked_of(plan, swapper, self._marker(plan), self._options, output)
        if asked != found["asked"]:
            log.warning("job %s: begins anew, with other models", self._job.id)
            self._surely(lambda: self._jobs.begin_anew(self._task))
            raise Lost
        base = _fraction(found["time_base"])
        assert base is not None
        job = parts.Job(
            made,
            self._target(0, found["targets"][0]),
            _fraction(found["start"]),
            _fraction(found["end"]),
            base,
            tuple(found["cuts"]),
            str(found["output_id"]),
        )
        self._cached(job.tracks, self._row(found["tracks"]).path)
        return job, output

    def paint(self, part: Part) -> int:
        """Paint and encode one part of a video; says how many frames it has."""
        plan, swapper = self._plan(), self._swapper()
        rules, use = self._permitted(plan, "video")
        job, output = self._begun(plan, swapper)
        here = parts.Part(part.number, part.first, part.end)
        path = job.path(here)
        if not path.is_file():  # else it was painted here, and did not get into the store
            self._models.paint(
                job,
                here,
                output,
                swapper,
                plan,
                self._marker(plan),
                options=self._options,
                progress=self._holding.progress,
                rules=rules,
                use=use,
                watch=self._models.watch,
            )
        with tracks.Reader(job.tracks) as reader:
            pts = reader.pts
            until = len(pts) if part.end is None else int(pts.searchsorted(part.end))
            frames = until - int(pts.searchsorted(part.first))
        file, stored = self._put(path, "part", path.name)
        with self._or_drop(file):
            self._surely(lambda: self._jobs.painted(self._task, file, stored, frames))
        return frames

    def swap(self, part: Part) -> None:
        """Swap one picture."""
        plan, swapper = self._plan(), self._swapper()
        rules, use = self._permitted(plan, "photo")
        target = self._target(part.number, self._job.plan["targets"][part.number])
        work = self._folder / f"swap-{secrets.token_hex(4)}"
        work.mkdir()
        try:
            output = work / f"output{self._suffix(target)}"
            marker = self._marker(plan)
            with (
                media.open_source(target, limits=self._models.limits) as source,
                rules.begin(people_of(plan), use, target) as run,
            ):
                info, enlarge = source.info, swapper.upscaler
                if enlarge is not None:
                    enlarge.check(info.width, info.height, str(target))
                identify = by_person(plan)
                stream = Stream(swapper, identify=identify, still=True, rules=rules, use=use)
                stream.watch = self._models.watch
                sink = media.open_sink(
                    output,
                    source,
                    options=self._options,
                    metadata=marker.metadata(),
                    size=None if enlarge is None else enlarge.size(info.width, info.height),
                    finish=credentials.signing_of(
                        marker, people_of(plan), swapper.weights, target, rules.credentials
                    ),
                )
                try:
                    report = pipeline.run(source, sink, stream, plan, marker)
                    if not report.swapped:
                        raise NoFace(f"{target}: no face that could be swapped was found")
                    sink.close()
                except BaseException:
                    sink.abort()
                    raise
                run.end("made", output=output, tenant=self._job.tenant, key=self._job.key,
                        **made_of(report, marker))  # fmt: skip
            self._holding.check()
            name = Path(str(self._asked["targets"][part.number]["name"])).stem + output.suffix
            file, stored = self._put(output, "part", name)
            with self._or_drop(file):
                self._surely(lambda: self._jobs.painted(self._task, file, stored, 1))
        finally:
            shutil.rmtree(work, ignore_errors=True)

    # --- the third stage -------------------------------------------------------------------------

    def join(self) -> None:
        """Put all parts together, and sign what they make."""
        work = self._folder / f"join-{secrets.token_hex(4)}"
        work.mkdir()
        try:
            if self._job.plan["kind"] == "video":
                output, name = self._joined(work)
            else:
                output, name = self._gathered(work)
            file, stored = self._put(output, "result", name)
            with self._or_drop(file):
                self._surely(lambda: self._jobs.joined(self._task, file, stored))
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _joined(self, work: Path) -> tuple[Path, str]:
        plan, swapper = self._plan(), self._swapper()
        rules, _ = self._permitted(plan, "video")
        job, output = self._begun(plan, swapper)
        marker, output = self._marker(plan), work / output.name
        every: list[parts.Part] = []
        for row, stored in self._done():
            part = parts.Part(row.number, row.first, row.end)
            self._holding.check()
            self._cached(job.path(part), stored)
            every.append(part)
        parts.join(
            job,
            output,
            every,
            swapper,
            options=self._options,
            metadata=marker.metadata(),
            finish=credentials.signing_of(
                marker, people_of(plan), swapper.weights, job.target, rules.credentials
            ),
        )
        self._holding.check()
        found = self._job.plan
        policy.Run(rules, str(found["run"])).end(
            "made",
            output=output,
            output_id=marker.output_id,
            frames=found["frames"],
            swapped=found["swapped"],
            tenant=self._job.tenant,
            key=self._job.key,
        )
        return output, Path(str(self._asked["targets"][0]["name"])).stem + output.suffix

    def _done(self) -> list[tuple[Part, str]]:
        """Parts that are done, and where their files are in the store."""
        from sqlalchemy import select  # noqa: PLC0415

        with self._jobs.database(write=False) as rows:
            query = select(Part, File.path).join(File, File.id == Part.file)
            each = rows.execute(query.where(Part.job == self._job.id).order_by(Part.number))
            return [(part, path) for part, path in each]

    def _gathered(self, work: Path) -> tuple[Path, str]:
        """One picture as it is, several in a ZIP, under the names of the targets."""
        made = self._done()
        if not made:
            with self._jobs.database(write=False) as rows:
                first = rows.get(Part, (self._job.id, 0))
            said = (first and first.problem) or {}
            raise problems.Problem(
                int(said.get("status", 422)),
                str(said.get("type", "urn:mien:problem:failed")).rpartition(":")[2],
                str(said.get("detail", "no picture could be swapped")),
            )
        names: dict[str, Path] = {}
        for row, stored in made:
            suffix = Path(stored).suffix
            stem = Path(str(self._asked["targets"][row.number]["name"])).stem or "picture"
            name = f"{stem}{suffix}"
            if name in names:
                name = f"{stem}-{row.number + 1}{suffix}"
            names[name] = self._cached(work / f"{row.number}{suffix}", stored)
        if len(self._asked["targets"]) == 1:
            ((name, path),) = names.items()
            return path, name
        output = work / "output.zip"
        with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
            for name, path in names.items():
                archive.write(path, name)
        return output, f"{self._asked['name'] or self._job.id}.zip"


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """Tell a store that is away, or full, from a file that cannot be read.

    Raises:
        Away: It is.
    """
    try:
        yield
    except MediaError as error:
        if _has_errno(error, _FULL):
            raise _disk_full() from error
        if isinstance(error.__cause__, FileNotFoundError):
            raise RuntimeError("a file of the job is not in the store any more") from error
        raise _store_away() from error


def _has_errno(error: BaseException | None, numbers: set[int]) -> bool:
    seen = 0
    while error is not None and seen < 20:
        if getattr(error, "errno", None) in numbers:
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def _is_full(error: Exception, folder: Path) -> bool:
    """Whether an error came of a full disk; not all that fails then says so."""
    if _has_errno(error, _FULL):
        return True
    if isinstance(error, NoFace | UsageError):
        return False
    try:
        return shutil.disk_usage(folder).free < SPARE
    except OSError:
        return True


def _same_store(settings: ServiceSettings, url: str) -> bool:
    """Whether the operator's options of the store are for this address, too."""
    return url.partition("://")[0] == settings.files_url.partition("://")[0]


def _text(value: Fraction | None) -> str | None:
    return None if value is None else str(value)


def _fraction(text: Any) -> Fraction | None:
    return None if text is None else Fraction(text)


def facts(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller may know of what the first stage found."""
    return {k: found[k] for k in ("frames", "swapped", "faces", "damaged") if k in found}
