"""How faces are followed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class TrackOptions:
    """When to look again, how much to smooth, and what to do about a face that is missed.

    Attributes:
        quick: Frames between quick looks of the detector.
        thorough: Frames between thorough ones.
        beside: Take thorough looks in a thread of their own, so that no frame waits for one; who
            comes in is then found some frames later. At cuts they are waited for.
        mesh_score: A face whose mesh scores less is lost.
        sure: Score of the detector from which somebody new is believed.
        sure_mesh: Score of the mesh that makes up for less: either network alone now and then
            takes a pattern for a face, and what is painted on a wall is worse than what comes
            in a look later.
        keep: Frames for which a lost face keeps its number.
        cut: Mean change of a 32×18 thumbnail, in grey levels, that counts as a cut.
        steady: What takes the tremble out: ``flow`` for :class:`Flow` and :class:`Steady`,
            ``one-euro`` for :class:`OneEuro`, which asks the fits alone, or ``off``.
        tremble: Of :class:`Steady`, in parts of the face's width.
        cutoff: Of :class:`OneEuro`, in hertz.
        beta: Of :class:`OneEuro`, in hertz for each width of the face a second.
        bridge: Missed frames in a row in which a face is shown wholly where it is foreseen.
        fade: Frames in which a face that was found comes in, and one that is lost for longer than
            ``bridge`` goes; 0 shows it at once and wholly, or not at all.
    """

    quick: int = 10
    thorough: int = 24
    beside: bool = False
    mesh_score: float = 0.5
    sure: float = 0.65
    sure_mesh: float = 0.97
    keep: int = 15
    cut: float = 28.0
    steady: Literal["flow", "one-euro", "off"] = "flow"
    tremble: float = 0.005
    cutoff: float = 0.3
    beta: float = 80.0
    bridge: int = 0
    fade: int = 0


LIVE: Final = TrackOptions(keep=60, steady="one-euro", bridge=2, fade=5)
"""For a camera at about 30 frames a second: a number is kept for two seconds, and what steadies
costs a twentieth of what flow costs."""
