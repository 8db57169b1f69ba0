"""One piece of work on a job: whose faces, on what it rests, and its files."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from mien import media, parts, policy
from mien.api.plans import consent_to, people_of
from mien.pipeline import Report, Swapper
from mien.provenance import Marker, Marks
from mien.service.database import File, Part
from mien.service.examining import examine, suffix_of
from mien.service.executing.leases import Holding
from mien.service.executing.outages import Away, came_of_full, disk_full, storing
from mien.service.files import Stored
from mien.service.jobs import Jobs, Lost, Task
from mien.service.people import People, Watch
from mien.service.settings import ServiceSettings
from mien.types import Consent, Rule, SwapPlan

TYPES: Final = {
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".zip": "application/zip",
}


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


class Piece:
    """One piece of work, and what all kinds of work share.

    Args:
        jobs: Rows.
        people: Identities.
        models: Of this worker.
        settings: Of the service.
        task: What was claimed.
        holding: Its lease.
        folder: Scratch folder of the job.
        surely: Writes to the database, and waits for it where it is away.

    Attributes:
        job: Its row, as it was when it was claimed.
        asked: As the request said it.
        options: Of the encoder.
    """

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
        self.jobs, self.people, self.settings, self.task = jobs, people, settings, task
        self.holding, self.folder, self.surely = holding, folder, surely
        self.models = models
        self.job, self.asked = task.job, task.job.asked
        consent = self.asked.get("target_consent")
        note = self.asked.get("target_note", "")
        self._target_consent = None if consent is None else Consent(consent, note)
        self._marks = Marks(**self.asked.get("marks", {}))
        self.options = media.SinkOptions(quality=self.asked.get("quality"))

    def swapper(self) -> Swapper:
        return self.models.chosen(self.asked.get("generator", ""))

    def plan(self) -> SwapPlan:
        """Whose faces; read anew for each piece, as consent may be withdrawn.

        Raises:
            Refused: It was.
            Problem: There is no such identity any more.
        """
        known: dict[str, Any] = {}
        for rule in self.asked["rules"]:
            name = rule["identity"]
            known[name] = known.get(name) or self.people.get(self.job.tenant, name)
        return SwapPlan(tuple(Rule(known[r["identity"]], r["faces"]) for r in self.asked["rules"]))

    def permitted(self, plan: SwapPlan, kind: policy.Kind) -> tuple[policy.Policy, policy.Use]:
        """The policy, and the use that it permits.

        Raises:
            Refused: It does not.
        """
        rules = policy.load()
        use = policy.Use(
            kind,
            target_consent=self._target_consent,
            marks=self._marks,
            user=self.job.tenant,
        )
        rules.permit(people_of(plan), use)
        return rules, use

    @contextlib.contextmanager
    def working(self, name: str) -> Iterator[Path]:
        """A folder for this piece of work alone, gone at the end.

        Raises:
            Away: The disk is full.
        """
        with self.spacious():
            folder = self.folder / f"{name}-{secrets.token_hex(4)}"
            folder.mkdir()
            try:
                with self.spacious():  # is seen before the folder is gone
                    yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def spacious(self) -> Iterator[None]:
        """Tell a full disk from whatever else goes wrong with files.

        Raises:
            Away: It is full.
        """
        try:
            yield
        except Exception as error:
            if not isinstance(error, Away) and came_of_full(error, self.folder):
                raise disk_full() from error
            raise

    def marker(self, plan: SwapPlan) -> Marker:
        return Marker(
            self._marks,
            consent=consent_to(plan),
            target_consent=self._target_consent,
            output_id=self.job.output_id,
        )

    # --- files -----------------------------------------------------------------------------------

    def cached(self, path: Path, stored: str) -> Path:
        """A file of the store in the scratch folder; several workers may want it at one time.

        Raises:
            Away: The store cannot be reached.
        """
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            try:
                with storing():
                    self.jobs.files.get(stored, hidden)
                hidden.replace(path)
            finally:
                hidden.unlink(missing_ok=True)
        return path

    def row(self, file: str) -> File:
        with self.jobs.database(write=False) as rows:
            row = rows.get(File, file)
        if row is None:
            raise Lost
        return row

    def put(self, path: Path, kind: str, name: str) -> tuple[File, Stored]:
        """Put a file into the store, where it does not count yet.

        Raises:
            Away: The store cannot be reached, or is full.
        """
        made: list[File] = []
        job = self.job
        self.surely(
            lambda: made.append(self.jobs.announce(job.tenant, job.id, kind, name, path.suffix))
        )
        (file,) = made
        file.media_type = TYPES.get(path.suffix, "")
        self.holding.check()
        try:
            with storing():
                return file, self.jobs.files.put(file.path, path)
        except BaseException:
            self.drop(file)
            raise

    def drop(self, file: File) -> None:
        with contextlib.suppress(SQLAlchemyError):  # it expires anyway
            self.jobs.discard(file)

    @contextlib.contextmanager
    def or_drop(self, *files: File) -> Iterator[None]:
        """Let go of files that were put there for nothing."""
        try:
            yield
        except BaseException:
            for file in files:
                self.drop(file)
            raise

    def target(self, number: int, file: str) -> Path:
        name = str(self.asked["targets"][number]["name"])
        suffix = Path(name).suffix.lower()
        safe = suffix if suffix.isascii() and suffix[1:].isalnum() and len(suffix) < 8 else ".bin"
        return self.cached(self.folder / f"target-{number}{safe}", self.row(file).path)

    def examine(self, target: Path, work: Path) -> None:
        examine(
            target,
            work,
            self.models.limits,
            self.settings.limits.seconds,
            format=self.asked.get("format"),
            start=self.asked.get("start"),
            end=self.asked.get("end"),
        )

    def suffix(self, target: Path) -> str:
        return suffix_of(target, media.kind_of(target), self.asked.get("format"))

    def done(self) -> list[tuple[Part, str]]:
        """Parts that are done, and where their files are in the store."""
        with self.jobs.database(write=False) as rows:
            query = select(Part, File.path).join(File, File.id == Part.file)
            each = rows.execute(query.where(Part.job == self.job.id).order_by(Part.number))
            return [(part, path) for part, path in each]
