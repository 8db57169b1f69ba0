"""Whose face a published generator is to make, in the form that it asks for.

Made once for each identity: a vector of a recogniser, brought into the generator's own space, or
an aligned picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from mien import embed, geometry, runtime, zoo
from mien.errors import ModelError
from mien.landmarks import five_points
from mien.types import Face, Faces, Floats, Frame, Identity, Image, Portrait
from mien.zoo import ModelCard, Swap, pixels

Convert = Callable[[Floats], Floats]
"""``(512,)`` as the recogniser gives it → ``(D,)`` in the generator's own space."""


@dataclass(frozen=True, slots=True)
class VectorSource:
    """The person as a vector.

    Attributes:
        recogniser: Gives vectors with the length that they have.
        convert: Into the generator's space, and to unit length where it wants that.
    """

    recogniser: embed.Embedder
    convert: Convert
    _known: WeakKeyDictionary[Identity, tuple[Floats, Floats]] = field(
        default_factory=WeakKeyDictionary
    )

    def __call__(
        self, frame: Frame, faces: Faces, identities: Sequence[Identity], strength: float
    ) -> Floats:
        """What goes into the generator, ``(N, D)`` float32.

        Other strengths than 1 mix in the vector of the face that is there, or move away from it:
        unit(strength · person + (1 - strength) · target) in the recogniser's space, where a
        straight line between two people means something.
        """
        known = [self.prepare(identity) for identity in identities]
        if strength == 1:
            return np.stack([made for _, made in known])
        theirs = self.recogniser.vectors(frame.image, [points_of(face) for face in faces])
        out = []
        for (person, _), target in zip(known, theirs, strict=True):
            mixed = strength * unit(person) + (1 - strength) * unit(target)
            out.append(self.convert(unit(mixed) * np.float32(np.linalg.norm(person))))
        return np.stack(out)

    def prepare(self, identity: Identity) -> tuple[Floats, Floats]:
        """The recogniser's vector of a person and the generator's, made once.

        The mean over portraits is that of directions, at the mean length: portraits that differ
        would else make a shorter vector than any photo has.
        """
        known = self._known.get(identity)
        if known is None:
            every = np.concatenate(
                [
                    self.recogniser.vectors(p.image, [five_points(p.mesh)])
                    for p in identity.portraits
                ]
            )
            length = np.linalg.norm(every, axis=1, keepdims=True)
            mean = unit((every / np.maximum(length, 1e-9)).mean(0)) * np.float32(length.mean())
            known = self._known.setdefault(identity, (mean, self.convert(mean)))
        return known


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The person as an aligned picture of the best portrait.

    Attributes:
        card: Of the generator; ``card.swap`` says how the picture is cut and normalised.
    """

    card: ModelCard
    _known: WeakKeyDictionary[Identity, Floats] = field(default_factory=WeakKeyDictionary)

    def __call__(
        self, frame: Frame, faces: Faces, identities: Sequence[Identity], strength: float
    ) -> Floats:
        """What goes into the generator, ``(N, …)`` float32; strength is for the paint later."""
        return np.stack([self.prepare(identity) for identity in identities])

    def prepare(self, identity: Identity) -> Floats:
        """The picture as the network wants it, made once."""
        known = self._known.get(identity)
        if known is None:
            assert self.card.swap is not None
            swap = self.card.swap
            crop = cut(identity.portraits[0], swap)
            like = replace(self.card, mean=swap.source_mean, std=swap.source_std)
            known = self._known.setdefault(identity, pixels.to_input(crop[None], like)[0])
        return known


Source = VectorSource | ImageSource


def load(card: ModelCard, models: zoo.Zoo) -> Source | None:
    """What makes a generator's source; None where the person is in the weights.

    Raises:
        ModelNotFound: A file of the chain (recogniser, converter) is not there.
        ModelError: One does not keep its contract.
        ProviderError: The provider is not there.
    """
    assert card.swap is not None
    if card.swap.source == "none":
        return None
    if card.swap.source == "image":
        return ImageSource(card)
    return VectorSource(embed.load(models, card.swap.recogniser), converter(card, models))


def converter(card: ModelCard, models: zoo.Zoo) -> Convert:
    """From the recogniser's space into the generator's.

    ``emap`` is the square matrix in the last initialiser of an inswapper graph: the vector of
    unit length times the matrix. InsightFace, who published inswapper, then brings the product
    to unit length (``normalise``) and ReSwapper was trained with that; FaceFusion leaves it as it
    is. A converter network is fed the vector as the recogniser
    gives it, with its length, and what comes out is brought to unit length by all but ghost.
    """
    swap = card.swap
    assert swap is not None
    if swap.converter == "emap":
        emap = matrix_of(card, models)
        return _then(lambda vector: unit(vector) @ emap, normalise=swap.normalise)
    if not swap.converter:
        return _then(lambda vector: vector, normalise=swap.normalise)
    network = embed.load_converter(models, swap.converter)
    return _then(lambda vector: network(vector[None])[0], normalise=swap.normalise)


def matrix_of(card: ModelCard, models: zoo.Zoo) -> Floats:
    """The emap, ``(512, 512)`` float32.

    Raises:
        ModelError: The graph's last initialiser is no such matrix.
    """
    found = runtime.initialiser(models.path(card))
    if found.ndim != 2 or found.shape[0] != found.shape[1] or found.dtype.kind != "f":
        raise ModelError(
            f"{card.file}: expected a square matrix (the emap) as the last initialiser of the "
            f"graph, came {found.dtype} {list(found.shape)}; tools that simplify a graph drop it"
        )
    return np.asarray(found, np.float32)


def _then(convert: Convert, *, normalise: bool) -> Convert:
    return (lambda vector: unit(convert(vector))) if normalise else convert


def unit(vector: Floats) -> Floats:
    """The vector at length 1."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)


def cut(portrait: Portrait, swap: Swap) -> Image:
    """The aligned source picture of image-fed generators, ``(S, S, 3)`` uint8."""
    matrix = geometry.similarity(five_points(portrait.mesh), swap.source_template)
    return geometry.warp(portrait.image, matrix, swap.source_size, border=cv2.BORDER_REPLICATE)


def points_of(face: Face) -> Floats:
    """``(5, 2)`` of the mesh where there is one, which is steadier than a detector's."""
    return face.points if face.mesh is None else five_points(face.mesh)
