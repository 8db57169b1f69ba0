"""What a worker does for a call: enrol a person, swap a picture, look at a file's marks."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from mien import api, config, media, pipeline, policy
from mien.bench import face
from mien.errors import MediaError, MienError, NoFace, UsageError
from mien.pipeline import Stream, Swapper
from mien.provenance import Marker, Marks, credentials, verify
from mien.service import problems
from mien.service.outages import is_full
from mien.service.people import People, Watch
from mien.service.problems import Problem
from mien.service.settings import ServiceSettings
from mien.types import Consent, Frame, Identity, Rule, SwapPlan

log = logging.getLogger(__name__)

Note = tuple[str, dict[str, Any]]
"""For metrics, see :meth:`mien.service.metrics.Metrics.note`."""

Answer = tuple[dict[str, Any], list[Note]]

SUFFIXES: Final = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
"""Formats of results."""

_SPARE: Final = 5.0
"""Seconds by which looking at a file ends before the worker would be ended."""


class Answering:
    """Answers calls with warm models, one at a time.

    Args:
        settings: Of the service.
        chain: Of the models.
        people: Identities.
        watch: Says whose consent has ended.
        swapper: The models, if they are loaded already.

    Attributes:
        swapper: The models of the settings.
        limits: What files may ask for.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        chain: config.Settings,
        people: People,
        watch: Watch,
        swapper: Swapper | None = None,
    ) -> None:
        self._settings, self._chain = settings, chain
        self._people, self._watch = people, watch
        asked = settings.limits
        self.limits = replace(
            chain.limits,
            pixels=min(asked.pixels, chain.limits.pixels),
            frame_pixels=min(asked.frame_pixels, chain.limits.frame_pixels),
            frames=min(asked.frames, chain.limits.frames),
            photo_bytes=min(asked.photo_bytes, chain.limits.photo_bytes),
            video_bytes=min(asked.body_bytes, chain.limits.video_bytes),
        )
        self.swapper = swapper or api.chain_of(chain, limits=self.limits)
        self._others: dict[str, Swapper] = {}

    def __call__(self, kind: str, said: Mapping[str, Any]) -> Answer:
        """Answer a call; what it says of files names them as the request did.

        Args:
            kind: ``enrol``, ``swap`` or ``verify``.
            said: Facts; ``folder`` holds the call's files.

        Raises:
            MienError: The work failed, for a reason that is the caller's to know.
            Problem: There is no such identity; or the server itself is not sound: its disk is full,
                its log cannot be written, its policy not be read.
        """
        folder = Path(said["folder"])
        try:
            rules = policy.load()
        except MienError as error:
            raise Problem(503, "policy", "the policy in force cannot be read") from error
        try:
            return getattr(self, f"_{kind}")(folder, said, rules)  # type: ignore[no-any-return]
        except SQLAlchemyError as error:
            raise problems.database_gone(error) from error
        except MediaError as error:
            raise _told(error, folder) from error
        except MienError as error:
            words = str(error).replace(rules.where, "the policy").replace(f"{folder}/", "")
            words = words.replace("--source-face", "source_face")
            words = words.replace("--target-consent", "target_consent")
            if kind == "swap":
                words = re.sub("^photo ", "source ", words)
            raise type(error)(words) from error

    def about(self) -> dict[str, Any]:
        """What the models are: stage → model and provider; and name and SHA-256 of each file."""
        return {"models": self.swapper.models, "weights": list(self.swapper.weights)}

    def chosen(self, generator: str) -> Swapper:
        """The models with another generator, which the operator allows.

        Raises:
            UsageError: It is not allowed.
        """
        if generator in ("", self._chain.generator):
            return self.swapper
        if generator not in self._settings.generators:
            known = dict.fromkeys((self._chain.generator, *self._settings.generators))
            raise UsageError(f"generator: expected one of {', '.join(known)}")
        if generator not in self._others:
            self._others[generator] = api.chain_of(
                self._chain, generator=generator, limits=self.limits
            )
        return self._others[generator]

    def _enrol(self, folder: Path, said: Mapping[str, Any], rules: policy.Policy) -> Answer:
        me = self._enrolled(folder, said["photos"], said["consent"], said["which"], said["name"])
        row = self._people.add(
            said["tenant"],
            me,
            embedder=self.swapper.models["embed"][0],
            most=self._settings.limits.identities,
        )
        rules.note(
            "enrolled", record=row.id, consent=row.basis, tenant=said["tenant"], key=said["key"]
        )
        return {"id": row.id, "photos": len(me.portraits)}, []

    def _enrolled(
        self, folder: Path, photos: list[str], consent: Consent, which: Any, name: str = ""
    ) -> Identity:
        images = []
        for photo in photos:
            _check_still(folder / photo)
            images.append(media.read_image(folder / photo, max_pixels=self.limits.pixels))
        return api.enrol(
            images, consent, which=which, swapper=self.swapper, name=name or "portrait"
        )

    def _swap(self, folder: Path, said: Mapping[str, Any], rules: policy.Policy) -> Answer:
        swapper = self.chosen(said["generator"])
        target = folder / "target"
        _check_still(target)
        if said["identity"]:
            me = self._people.get(said["tenant"], said["identity"])
        else:
            me = self._enrolled(folder, said["photos"], said["consent"], said["which"])
        plan = SwapPlan((Rule(me, said["faces"]),), blend=said["blend"], color=said["color"])
        marks: Marks = said["marks"]
        marker = Marker(marks, consent=me.consent, target_consent=said["target_consent"])
        use = policy.Use(
            "photo", target_consent=marker.target_consent, marks=marks, user=said["tenant"]
        )
        with (
            media.open_source(target, limits=self.limits) as source,
            rules.begin([me], use, target) as run,
        ):
            assert isinstance(source, media.ImageSource)
            output = folder / f"output{SUFFIXES[said['format'] or _like(source)]}"
            stream = Stream(swapper, still=True, rules=rules, use=use)
            stream.watch = self._watch
            info, enlarge = source.info, swapper.upscaler
            if enlarge is not None:
                enlarge.check(info.width, info.height, "target")
            finish = credentials.signing_of(
                marker, [me], swapper.weights, target, rules.credentials
            )
            sink = media.open_sink(
                output,
                source,
                options=media.SinkOptions(quality=said["quality"]),
                metadata=marker.metadata(),
                overwrite=False,
                size=None if enlarge is None else enlarge.size(info.width, info.height),
                finish=finish,
            )
            try:
                report = pipeline.run(source, sink, stream, plan, marker)
                if not report.swapped:
                    raise NoFace("target: no face that could be swapped was found")
                sink.close()
            except BaseException:
                sink.abort()
                raise
            run.end(
                "made",
                output=output,
                **marker.account,
                faces=report.faces,
                tenant=said["tenant"],
                key=said["key"],
            )
        seconds = {stage: ms / 1000 for stage, ms in report.stages.items()}
        return (
            {"output": output.name, "output_id": marker.output_id, "faces": report.faces},
            [("stages", {"work": "swap", "seconds": seconds}), ("frames", {"count": 1})],
        )

    def _verify(self, folder: Path, said: Mapping[str, Any], rules: policy.Policy) -> Answer:
        found = verify(
            folder / "file",
            signing=rules.credentials,
            seconds=max(1.0, self._settings.limits.call_seconds - _SPARE),
            limits=self.limits,
        ).as_dict()
        del found["file"]
        found["verdict"] = str(found["verdict"]).replace(f"{folder}/", "")
        return found, []


def warm(swapper: Swapper) -> None:
    """Let every model run once, on somebody drawn."""
    picture = face.portrait()
    me = api.enrol(picture, Consent("synthetic"), swapper=swapper)
    stream = Stream(swapper, still=True)
    frame = Frame(picture.copy())
    faces = stream.observe(frame)
    plan = SwapPlan((Rule(me),))
    stream.render(frame, stream.assign(faces, plan), plan, faces=faces)


def _check_still(path: Path) -> None:
    """Refuse what is no photo before anything else looks at it.

    Raises:
        UsageError: It is a video.
        MediaError: It is neither.
    """
    if media.kind_of(path) != "image":
        raise UsageError(
            f"{path.name}: is not a JPEG, PNG, WebP or BMP image; videos are swapped by jobs"
        )


def _told(error: MediaError, folder: Path) -> Exception:
    """What is wrong with a file of the request; or with the server, whose files stay unnamed."""
    words = str(error)
    if is_full(error) or words.startswith(f"{folder}/output"):
        return problems.no_space()
    if str(folder) not in words and not words.startswith("target"):
        log.error("%s", error)
        return Problem(503, "storage", "a file of the server cannot be read or written")
    return type(error)(words.replace(f"{folder}/", ""))


def _like(source: media.ImageSource) -> str:
    """The format of the target, or PNG where results cannot have that."""
    return source.still.format if source.still.format in SUFFIXES else "png"
