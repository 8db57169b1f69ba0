"""What the store holds of a person, as bytes: arrays without pickle, sealed with AES-GCM.

Arrays are in NumPy's ``.npz`` form, portraits as PNG inside it, so that nothing of them is lost.
"""

from __future__ import annotations

import io
import os
import zipfile
from typing import Final

import cv2
import numpy as np

from mien.errors import MediaError
from mien.types import Floats, Image, Portrait

NONCE: Final = 12
"""Bytes of an AES-GCM nonce (NIST SP 800-38D, 5.2.1.1), random for each sealing."""

MAX_PORTRAITS: Final = 64

MAX_SIDE: Final = 4096
"""Largest side of a portrait in pixels that is taken out of the store."""


def seal(key: bytes, plain: bytes, what: bytes) -> bytes:
    """Encrypt, so that it opens with the same ``what`` alone: nonce, ciphertext and tag.

    Args:
        key: 32 bytes.
        plain: What is to be hidden.
        what: Associated data, which is not hidden, and cannot be exchanged.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - slow

    nonce = os.urandom(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, what)


def unseal(key: bytes, sealed: bytes, what: bytes) -> bytes | None:
    """Decrypt; None if the key, the bytes or ``what`` are others than when it was sealed."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    try:
        return AESGCM(key).decrypt(sealed[:NONCE], sealed[NONCE:], what)
    except (InvalidTag, ValueError):
        return None


def png(image: Image) -> bytes:
    """A picture ``(H, W, 3)`` uint8 RGB as PNG."""
    done, data = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise MediaError(f"a picture of {image.shape[1]}x{image.shape[0]} cannot be made a PNG")
    return data.tobytes()


def pack(embedding: Floats, portraits: tuple[Portrait, ...]) -> bytes:
    """An embedding ``(D,)`` and portraits, as one ``.npz``."""
    arrays: dict[str, np.ndarray] = {"embedding": embedding.astype("<f4")}
    for number, portrait in enumerate(portraits):
        arrays[f"mesh{number}"] = portrait.mesh.astype("<f4")
        arrays[f"image{number}"] = np.frombuffer(png(portrait.image), np.uint8)
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def unpack(data: bytes, where: str) -> tuple[Floats, tuple[Portrait, ...]]:
    """What :func:`pack` made.

    Args:
        data: An ``.npz``.
        where: For messages.

    Raises:
        MediaError: It is of another form.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            embedding = arrays["embedding"].astype(np.float32)
            count = sum(name.startswith("image") for name in arrays.files)
            if embedding.ndim != 1 or not 0 < count <= MAX_PORTRAITS:
                raise ValueError("no portrait")
            made = [
                Portrait(_picture(arrays[f"image{n}"]), _mesh(arrays[f"mesh{n}"]))
                for n in range(count)
            ]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, cv2.error) as error:
        raise MediaError(f"{where}: what is kept of the person is damaged ({error})") from error
    return embedding, tuple(made)


def _picture(data: np.ndarray) -> Image:
    image = cv2.imdecode(np.asarray(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None or max(image.shape[:2]) > MAX_SIDE:
        raise ValueError("a portrait is no picture")
    return np.ascontiguousarray(image, np.uint8)


def _mesh(points: np.ndarray) -> Floats:
    if points.ndim != 2 or points.shape[1] != 3 or len(points) > 1000:
        raise ValueError(f"a mesh of shape {points.shape}")
    return points.astype(np.float32)
