"""The live engine: capture, swap and outputs apart, the newest frame first, in order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np

from mien.errors import Refused, UsageError
from mien.heap import keep_small
from mien.live.capture import Capture
from mien.live.changing import changed, standing
from mien.live.counting import Ages, Rate, usually
from mien.live.following import CatchUp, tracking_of
from mien.live.journal import Journal, use_of
from mien.live.ladder import Ladder, Step, eased, steps_of
from mien.live.outlet import Outlet
from mien.live.show import Look, Painter
from mien.live.types import Camera, Options, Output, Shown, Statistics
from mien.live.warming import prepare, timed, warm_up
from mien.live.witness import Witness
from mien.media import Shot
from mien.pipeline import Pairs, Stream, Swapper, brisk
from mien.track import TrackOptions
from mien.types import Faces, Frame, Identity, Image

log = logging.getLogger(__name__)


class _Followed(NamedTuple):
    """A frame whose faces are known, to be painted."""

    frame: Frame
    taken: float
    faces: Faces
    pairs: Pairs
    look: Look
    raw: Image | None
    spent: float


class Engine:
    """Camera in, swapped picture out, with a delay that does not grow.

    Use it as a context, or call :meth:`run`. All methods may be called from any thread.

    Example:
        ``with Engine(lambda: open_camera("0"), swapper, look, [output]) as engine:
        engine.change(strength=0.5); engine.wait(10); print(engine.statistics())``
    """

    def __init__(
        self,
        camera: Callable[[], Camera],
        swapper: Swapper,
        look: Look,
        outputs: Sequence[Output] = (),
        options: Options | None = None,
        *,
        tracking: TrackOptions | None = None,
    ) -> None:
        """Prepare the engine; nothing is opened yet.

        Args:
            camera: Opens the camera; called again when it is gone and comes back.
            swapper: The stages.
            look: What is to be seen at first.
            outputs: Where frames go; the first one's ages are the engine's. More may be added.
            options: What stays as it is.
            tracking: How faces are followed.

        Raises:
            UsageError: The swapper enlarges frames.
        """
        if swapper.upscaler is not None:
            raise UsageError("live: frames are not enlarged; leave the upscaler away")
        self.options = options or Options()
        self._look = look
        self._swapper, self._eased = eased(swapper)
        swapper = self._swapper
        self._tracking = tracking_of(tracking, private=self.options.private)
        self._steps = steps_of(swapper, private=self.options.private)
        self._stream = Stream(swapper, options=self._tracking, use=use_of(look))
        self._journal = Journal(self._stream.gate.rules)
        self._painter = Painter(self._stream, self.options.private)
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._outlets = [Outlet(output, self._wake) for output in outputs]
        self._gone: list[Outlet] = []
        self._capture = Capture(camera, self.options, self._stopping)
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._witness: Witness | None = None
        self._ladder = Ladder(len(self._steps), 1 / 30)
        self._size = (0, 0)
        self._fps = 30.0
        self._out, self._work = Rate(), Ages()
        self._following, self._painting = Ages(), Ages()
        self._pending: _Followed | None = None
        self._catch_up = CatchUp()
        self._paints_since: float | None = None
        self._all_followed = False
        self._dropped = self._swapped = self._late = self._missed = 0
        self._faces = 0
        self._index = -1
        self._turns: AbstractContextManager[None] | None = None

    # --- from outside ------------------------------------------------------------------------

    def start(self) -> None:
        """Open the camera, warm up on its first frames, open the outputs, and go.

        Raises:
            MediaError: The camera or an output cannot be opened.
            Refused: The policy does not allow it; see :mod:`mien.policy`.
        """
        keep_small()
        self._journal.begin(self._look)
        self._turns = brisk()
        self._turns.__enter__()
        try:
            camera = self._capture.open()
            self._fps = self.options.fps or camera.fps or 30.0
            self._ladder.interval = 1 / self._fps
            prepare(self._steps, [rule.identity for rule in self._look.plan.rules])
            warm_up(
                *(camera, self._stream, self._steps, self._look), sized=self._sized, fps=self._fps
            )
            if self.options.private:
                self._witness = Witness(self._swapper.embed)
            if self._size != (0, 0):
                for outlet in self._outlets:
                    outlet.start(*self._size, self._fps)
        except BaseException as error:
            self._journal.failed(error)
            self._close()
            raise
        for work in (self._capture.run, self._follow, self._paint):
            thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
            thread.name = f"mien-{work.__name__.strip('_')}"
            thread.start()
            self._threads.append(thread)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the camera, of all outputs, or of the time; whether it came.

        Raises:
            MienError: What ended it, if that was an error.
        """
        ended = self._ended.wait(timeout)
        if self._failure is not None:
            raise self._failure
        return ended

    def end(self) -> None:
        """Ask for the end and return at once; :meth:`wait` and :meth:`run` come back soon."""
        self._stopping.set()
        self._wake()

    def stop(self) -> Statistics:
        """End: what is finished is written, everything is closed.

        Returns:
            Figures of the whole run, in which ``frames_in = frames_out + dropped``.
        """
        self._close()
        return self.statistics(whole=True)

    def run(self) -> Statistics:
        """Start, wait for the end or Ctrl-C, and stop.

        Raises:
            MienError: What ended it, if that was an error.
        """
        self.start()
        try:
            self.wait()
        except KeyboardInterrupt:
            log.info("stopped")
        finally:
            self._close()
        return self.statistics(whole=True)

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def change(self, **what: Any) -> None:
        """Change what is seen, from the next frame on; no frame is dropped for it.

        Args:
            what: Any of ``identity`` (an :class:`mien.types.Identity`; made ready in the caller's
                thread), ``faces`` (``all``, ``largest``, ``left``, ``right`` or a number),
                ``strength`` (0 to 1), ``mask`` (whether the chain's mask networks are used),
                ``mark`` (words added to the label, which cannot be taken away), ``on_miss``
                (``pass``, ``hold``, ``blur`` or ``card``) and ``paused``.

        Raises:
            UsageError: No such key, or no such value; nothing is changed then.
            Refused: The policy does not allow the identity; nothing is changed then.
        """
        identity = what.get("identity")
        if isinstance(identity, Identity):
            self._stream.gate.admit([identity])
            self._stream.watch.permit([identity], "live")
            self._journal.changed(identity, self._look)
            prepare(self._steps, [identity])
        with self._changed:
            look = self._look
            for key, value in what.items():
                look = changed(look, key, value)
            self._look = look

    def add(self, output: Output) -> None:
        """Open another output and feed it from the next frame on.

        Raises:
            MediaError: It cannot be opened.
        """
        outlet = Outlet(output, self._wake)
        if self._size != (0, 0):
            outlet.start(*self._size, self._fps)
        with self._changed:
            self._outlets.append(outlet)
            self._changed.notify_all()

    def remove(self, output: Output) -> None:
        """Close an output; the engine goes on without, even if there is none left."""
        with self._changed:
            found = [o for o in self._outlets if o.output is output]
            self._outlets = [o for o in self._outlets if o.output is not output]
        for outlet in found:
            outlet.stop()
            self._gone.append(outlet)
            self._journal.recorded(outlet)

    @property
    def look(self) -> Look:
        """What is seen at the moment."""
        return self._look

    @property
    def masks(self) -> bool:
        """Whether the chain has mask networks, that ``mask`` could switch."""
        return bool(self._swapper.masks)

    def statistics(self, *, whole: bool = False) -> Statistics:
        """Figures: of the last two seconds, or of the whole run so far."""
        with self._changed:
            outlets = [*self._outlets, *self._gone]
        outputs = [outlet.statistics(whole=whole) for outlet in outlets]
        step = self._ladder.step
        ages = (outputs[0].age_p50, outputs[0].age_p95) if outputs else (0.0, 0.0)
        (work,) = self._work.all(50) if whole else self._work.recent(50)
        taken = self._capture.rate
        providers = dict.fromkeys(p for _, p in self._swapper.models.values())
        return Statistics(
            fps_in=taken.all() if whole else taken.recent(),
            fps_out=self._out.all() if whole else self._out.recent(),
            age_p50=ages[0],
            age_p95=ages[1],
            dropped=self._dropped + self._capture.refused + self._capture.slot.replaced,
            swapped=self._swapped,
            provider="+".join(providers),
            frames_in=taken.count,
            frames_out=self._out.count,
            late=self._late,
            missed=self._missed,
            faces=self._faces,
            step=step,
            step_name=self._steps[step].name,
            steps_down=self._ladder.downs,
            recovered=self._capture.recovered,
            cosine=None if self._witness is None else self._witness.result(),
            work_ms=work,
            outputs=outputs,
            seconds=round(taken.seconds, 3),
        )

    # --- swap --------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Find the faces of frames, one frame ahead of the painting."""
        slot = self._capture.slot
        try:
            while self._await_painter():
                shot = slot.take(0.2)
                if shot is None:
                    if slot.closed:
                        break
                elif self._is_late(shot.time):
                    self._dropped += 1
                else:
                    followed = self._observe(shot)
                    with self._changed:
                        self._pending = followed
                        self._changed.notify_all()
        finally:
            with self._changed:
                self._all_followed = True
                self._changed.notify_all()

    def _paint(self) -> None:
        try:
            while self._await_followed() and self._await_output():
                with self._changed:
                    followed, self._pending = self._pending, None
                    self._paints_since = time.monotonic()
                    self._changed.notify_all()
                if followed is not None:
                    self._one(followed)
                with self._changed:
                    self._paints_since = None
                    self._changed.notify_all()
        finally:
            self._stopping.set()
            self._wake()

    def _is_late(self, taken: float) -> bool:
        """Whether a frame is to be left, since a fresher one is better."""
        now = time.monotonic()
        waited = now - taken - self._capture.freshest()
        return now - taken > self._limit() or self._catch_up(waited * self._fps, now)

    def _limit(self) -> float:
        """Seconds of age from which a frame is not worked on.

        What is expected to be older than ``max_latency`` in the end is left, if a fresher one can
        be had: one as old as frames are on arrival, and one and a half intervals more.
        """
        outlets = [o for o in self._outlets if o.alive]
        encode = min((usually(o.spent.last(20)) for o in outlets), default=0.0)
        expected = usually(self._work.last(20)) + encode
        freshest = self._capture.freshest() + 1.5 / self._fps
        return max(self.options.max_latency - expected, freshest)

    def _await_painter(self) -> bool:
        """Wait until a frame that is followed now is done about when the painter is.

        Earlier it would only grow old. False when all is to end.
        """
        with self._changed:
            while not self._stopping.is_set():
                left = 0.2 if self._pending is not None else 0.0
                if not left and self._paints_since is not None:
                    usual = usually(self._painting.last(9)) - usually(self._following.last(9))
                    left = usual - (time.monotonic() - self._paints_since)
                if left <= 0:
                    return True
                self._changed.wait(min(left, 0.2))
        return False

    def _await_followed(self) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: self._pending or self._all_followed or self._stopping.is_set()
            )
            return self._pending is not None and not self._stopping.is_set()

    def _await_output(self) -> bool:
        """Wait until an output could take a frame, so that none is finished for nothing."""
        with self._changed:
            while not self._stopping.is_set():
                alive = [o for o in self._outlets if o.alive]
                dead = [o for o in self._outlets if not o.alive]
                for outlet in dead:
                    log.warning("%s: taken away: %s", outlet.output.name, outlet.error or "closed")
                if dead:
                    self._outlets = alive
                    self._gone += dead
                    if not alive:
                        self._failure = dead[0].error
                        return False
                if not alive or any(outlet.slot.empty for outlet in alive):
                    return True
                self._changed.wait(0.2)
        return False

    def _observe(self, shot: Shot) -> _Followed:
        began = time.monotonic()
        look = self._standing()
        # Who was chosen keeps the face when they meet others or come back.
        self._stream.identify = look.chosen
        self._index += 1
        frame = timed(self._sized(shot.frame.image), self._index, shot.time)
        raw = frame.image.copy() if self._witness is not None and self._witness.due else None
        faces = self._stream.observe(frame)
        pairs = [] if look.paused else self._stream.assign(faces, look.plan)
        spent = time.monotonic() - began
        self._following.add(spent)
        return _Followed(frame, shot.time, faces, pairs, look, raw, spent)

    def _standing(self) -> Look:
        """What is to be seen, without those whose consent has ended meanwhile."""
        with self._changed:
            self._look, ended = standing(self._look, self._stream.watch)
        for identity in ended:
            self._stream.forget(identity)
            self._painter.forget()
        return self._look

    def _one(self, followed: _Followed) -> None:
        began = time.monotonic()
        frame, taken, faces, pairs, look, raw, spent = followed
        step = self._steps[self._ladder.step]
        masks = step.swapper.masks if look.masks else ()
        self._stream.swapper = replace(step.swapper, masks=masks)
        try:
            done = self._painter(frame, faces, pairs, look, taken=taken, scale=step.scale)
        except Refused:  # a consent ended since the frame was followed; the next one goes without
            self._dropped += 1
            return
        if raw is not None and self._witness is not None:
            found = any(not face.missed for face in faces)
            self._witness.see(raw, done.frame.image, done.known, found=found)
        shown = Shown(look.marker(done.frame, faces), taken, faces, done.swapped)
        with self._changed:
            outlets = list(self._outlets)
        if self._out.count == 0:
            self._open_outputs(outlets, done.frame.image)
        now = time.monotonic()
        for outlet in outlets:
            outlet.slot.put(shown)
        self._out.add()
        self._painting.add(now - began)
        self._work.add(spent + now - began)
        self._swapped += done.swapped > 0
        self._missed += done.missed
        self._faces = len(faces)
        self._late += now - taken > self.options.max_latency
        # Following one frame and painting another go on at a time: the slower of them counts.
        if self.options.step_down and self._ladder(max(spent, now - began), now):
            self._take_step(self._steps[self._ladder.step])

    def _take_step(self, step: Step) -> None:
        log.warning("step %d of %d: %s", self._ladder.step, len(self._steps) - 1, step.name)
        self._eased.half = step.half
        usual = self._tracking
        if step.sparse:
            usual = replace(usual, quick=3 * usual.quick, thorough=3 * usual.thorough)
        self._stream.look(usual)

    def _sized(self, image: Image) -> Image:
        """The picture in the size of the first one: a camera may come back with another."""
        if self._size == (0, 0):
            self._size = (image.shape[1], image.shape[0])
        if self._size == (image.shape[1], image.shape[0]):
            return image
        return np.asarray(cv2.resize(image, self._size, interpolation=cv2.INTER_AREA), np.uint8)

    def _open_outputs(self, outlets: list[Outlet], image: Image) -> None:
        """Open those that could not be opened at the start, when no size was known."""
        for outlet in outlets:
            if not outlet.started:
                outlet.start(image.shape[1], image.shape[0], self._fps)

    # --- start and end -----------------------------------------------------------------------

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failure = self._failure or error
            self._stopping.set()
            self._capture.slot.close()
            self._wake()
        if work == self._paint or self._failure is not None:
            self._ended.set()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _close(self) -> None:
        self._stopping.set()
        self._wake()
        self._capture.close()
        for thread in self._threads:
            thread.join(10)
        self._threads.clear()
        self._capture.slot.close()
        if self._pending is not None:  # followed, and not painted any more
            self._pending = None
            self._dropped += 1
        for outlet in self._outlets:
            outlet.stop()
        if self._witness is not None:
            self._witness.close()
        self._ended.set()
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.__exit__(None, None, None)
        figures = {"frames": self._out.count, "swapped": self._swapped}
        self._journal.end(self._look, self._outlets, figures, self._failure)
