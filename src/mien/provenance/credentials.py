"""Content credentials: a signed account, inside a file or beside it, of how it was made (C2PA).

The manifest says that a part is made by trained models, from what (hashes, never pixels), by which
models, on what consent it rests and which watermark it carries; and it binds all that to the file,
so that any change shows. Written and read with c2pa-python, without the network: no timestamp is
asked for, and no manifest elsewhere is fetched.

C2PA: https://spec.c2pa.org/specifications/specifications/2.2/specs/C2PA_Specification.html
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from mien.errors import MediaError, MienError
from mien.media import Beside, Finish, Temporary
from mien.media.info import image_format
from mien.provenance import certificate
from mien.provenance.certificate import Signatory
from mien.provenance.manifest import ABSENT, Facts, Manifest, definition, facts_of, found, plain
from mien.provenance.marker import Marker
from mien.provenance.streams import Same, Watched
from mien.signing import OWN, Signing
from mien.types import Identity

SIDECAR: Final = ".c2pa"
"""Suffix of a manifest that lies beside its file."""

EMBEDDED: Final = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
}
"""Suffix → media type of files that hold their manifest."""

BESIDE: Final = {".mkv": "video/x-matroska", ".webm": "video/webm"}
"""Suffix → media type of files beside which it lies, as C2PA has no place for it in them."""

_IN_MEMORY: Final = 64
"""Megabytes up to which the library works in memory; beyond, in files beside the output."""

_LARGEST: Final = 16 << 20
"""Bytes of a sidecar at most; mien's have some thousand."""

log = logging.getLogger(__name__)

_VARIABLE: Final = "C2PA_LIBRARY_NAME"
_LOADING: Final = threading.Lock()
_ELSEWHERE: Final = threading.Lock()


def signing_of(
    marker: Marker,
    identities: Iterable[Identity] = (),
    models: Iterable[tuple[str, str]] = (),
    target: Path | None = None,
    signing: Signing = OWN,
) -> Finish:
    """What signs the file that a marker is for; :func:`unsigned` where its credentials are off.

    Args:
        marker: Marks the file's frames.
        identities: Whose portraits are used.
        models: Name and SHA-256 of each.
        target: The file that is changed.
        signing: Whose certificate.

    Raises:
        UsageError: The certificate cannot be used.
        MediaError: The machine's own cannot be made.
    """
    if not marker.marks.credentials_on:
        return unsigned
    people, weights = tuple(identities), tuple(models)
    return finisher(lambda: facts_of(marker, people, weights, target), signing)


def finisher(facts: Callable[[], Facts], signing: Signing = OWN) -> Finish:
    """What signs a file before it takes its name; for the sinks of :mod:`mien.media`.

    Args:
        facts: Asked for when the file is done.
        signing: Whose certificate.

    Raises:
        UsageError: The certificate cannot be used; see :func:`certificate.signatory`.
        MediaError: The machine's own cannot be made.
    """
    who = certificate.signatory(signing)

    def finish(hidden: Path, target: Path) -> Temporary | None:
        manifest = sign(hidden, facts(), who, name=target)
        if manifest is None:
            return None
        beside = Temporary(_free_sidecar(target), overwrite=True)
        try:
            beside.path.write_bytes(manifest)
        except OSError as error:
            beside.drop()
            raise MediaError(f"{beside.target}: cannot be written ({error.strerror})") from error
        return beside

    return finish


def unsigned(hidden: Path, target: Path) -> Beside | None:
    """Finish a file that is not signed; for the sinks of :mod:`mien.media`.

    If it takes the place of one with a manifest beside it, that manifest goes with the old file,
    since it would say of the new one that it was altered.

    Args:
        hidden: The file; left as it is.
        target: Its name to be.
    """
    return _Stale(_own_sidecars(target)) if target.suffix.lower() in BESIDE else None


class _Stale:
    """Manifests of a file that is about to be replaced."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def keep(self) -> None:
        """Remove them."""
        for path in self._paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning(
                    "%s: is of the file that was replaced, and cannot be removed (%s)",
                    *(path, error.strerror),
                )

    def drop(self) -> None:
        """Leave them."""


def _own_sidecars(target: Path) -> list[Path]:
    """The manifests that lie beside a file and are its own.

    What is called ``STEM.c2pa`` is, where no other file has the stem, or where it holds for this
    file's very bytes; else it may be another's.
    """
    full, usual = sidecars(target)
    own = [full] if full.is_file() else []
    if target.is_file() and usual.is_file():
        others = {p for p in target.parent.iterdir() if p.stem == target.stem} - {target, usual}
        if not others or (not own and _holds(target)):
            own.append(usual)
    return own


def _holds(path: Path) -> bool:
    with contextlib.suppress(MienError):
        found = check(path)
        return found.where == "beside" and found.state in ("valid", "trusted")
    return False


def sign(path: Path, facts: Facts, who: Signatory, *, name: Path | None = None) -> bytes | None:
    """Sign a file where it lies.

    Args:
        path: Changed, if its kind of file holds a manifest.
        facts: What the manifest says.
        who: Signs.
        name: What the file will be called; its suffix says what it is.

    Returns:
        The manifest where it has to lie beside the file; None where it is in it.

    Raises:
        MediaError: It cannot be signed, for instance because the disk is full. Then the file is
            as it was.
    """
    name = name or path
    suffix = name.suffix.lower()
    if suffix not in EMBEDDED and suffix not in BESIDE:
        known = ", ".join(EMBEDDED | BESIDE)
        raise MediaError(f"{name}: content credentials can be written for {known}")
    made = path.with_name(f"{path.name}.signed")
    try:
        with _room(path, name), path.open("rb") as source:
            if suffix in BESIDE:
                with path.open("rb") as same:
                    return _sign(source, Same(same), BESIDE[suffix], facts, who, name)
            with made.open("w+b") as target:
                _sign(source, target, EMBEDDED[suffix], facts, who, name)
        made.replace(path)
    except MienError:
        raise
    except OSError as error:
        raise MediaError(f"{name}: cannot be signed ({error.strerror})") from error
    finally:
        made.unlink(missing_ok=True)
    return None


def seal(data: bytes, facts: Facts, who: Signatory, name: str) -> bytes:
    """Sign an encoded picture in memory.

    Args:
        data: A whole JPEG, PNG or WebP file.
        facts: What the manifest says.
        who: Signs.
        name: For messages.

    Raises:
        MediaError: It cannot be signed.
    """
    made = io.BytesIO()
    kind = f"image/{image_format(data[:32]) or 'x-unknown'}"
    _sign(io.BytesIO(data), made, kind, facts, who, Path(name))
    return made.getvalue()


def check(path: Path, *, signing: Signing = OWN, until: float | None = None) -> Manifest:
    """Read a file's manifest and see whether both are as they were signed.

    Args:
        path: Of any kind.
        signing: Whose signatures are trusted besides this machine's.
        until: Time of :func:`time.monotonic` at which to give up.

    Raises:
        MediaError: The file cannot be read, or it took too long.
        UsageError: The operator's authorities cannot be read.
    """
    c2pa = _library()
    here, others = certificate.authorities(signing)
    settings = {
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True},
        "trust": {
            key: pem.decode("ascii", "replace")
            for key, pem in (("user_anchors", here), ("trust_anchors", others))
            if pem
        },
    }
    failed: Manifest | None = None
    try:
        with path.open("rb") as file:
            head = file.read(32)
            watched = Watched(file, until)
            for where, manifest in _places(path):
                file.seek(0)
                try:
                    with c2pa.Context.from_dict(settings) as context:
                        reader = c2pa.Reader(_kind(head), watched, manifest, context=context)
                        with reader:
                            return found(json.loads(reader.json()), where)
                except (c2pa.C2paError, ValueError) as error:
                    watched.complain(path)
                    missing = isinstance(
                        error,
                        c2pa.C2paError.ManifestNotFound
                        | c2pa.C2paError.NotSupported
                        | c2pa.C2paError.RemoteManifest,
                    )
                    if where == "beside" or not (missing or failed):
                        failed = Manifest("broken", plain(error), where)
            if failed is not None and (failed.where == "beside" or _carries(file, until)):
                return failed
    except OSError as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error
    return ABSENT


def sidecars(path: Path) -> tuple[Path, Path]:
    """Where a manifest beside a file may lie: its full name or its stem, with ``.c2pa``."""
    return path.with_name(path.name + SIDECAR), path.with_suffix(SIDECAR)


def _free_sidecar(target: Path) -> Path:
    """The usual place, unless another file of that stem has or may have its manifest there."""
    full, usual = sidecars(target)
    rivals = (target.with_suffix(s) for s in BESIDE if s != target.suffix.lower())
    return full if full.exists() or any(r.exists() for r in rivals) else usual


def _places(path: Path) -> Iterator[tuple[Literal["embedded", "beside"], bytes | None]]:
    yield "embedded", None
    for place in sidecars(path):
        with contextlib.suppress(FileNotFoundError), place.open("rb") as file:
            manifest = file.read(_LARGEST + 1)
            yield "beside", manifest[:_LARGEST] or b"\0"
            return


def _library() -> Any:
    """c2pa-python, and its library from where it is installed.

    Its loader looks into the working folder first, where anybody may have put a file of that
    name; an absolute name leaves it no choice.
    """
    with _LOADING:
        if "c2pa" not in sys.modules:
            spec = importlib.util.find_spec("c2pa")
            names = {"win32": "c2pa_c.dll", "darwin": "libc2pa_c.dylib"}
            name = names.get(sys.platform, "libc2pa_c.so")
            folder = Path(spec.origin).parent if spec and spec.origin else Path()
            file = next((p for p in (folder / "libs" / name, folder / name) if p.is_file()), None)
            if file is None:
                raise MediaError(f"{folder / 'libs' / name}: c2pa-python is not whole; install it")
            before = os.environ.get(_VARIABLE)
            os.environ[_VARIABLE] = str(file.resolve())
            try:
                importlib.import_module("c2pa")
            finally:
                if before is None:
                    del os.environ[_VARIABLE]
                else:
                    os.environ[_VARIABLE] = before
        return sys.modules["c2pa"]


@contextlib.contextmanager
def _room(path: Path, name: Path) -> Iterator[None]:
    """See that there is room for signing a large file.

    The library puts copies of it where the system has its temporary files, which may be memory;
    while inside, that is the file's own folder.

    Raises:
        MediaError: The disk has too little room.
    """
    size = path.stat().st_size
    if size < _IN_MEMORY << 20:
        yield
        return
    free = shutil.disk_usage(path.parent).free
    if free < 3 * size:
        raise MediaError(
            f"{name}: cannot be signed, since {3 * size / 1e6:.0f} MB are needed for it on this "
            f"disk and {free / 1e6:.0f} MB are free"
        )
    with _ELSEWHERE:
        names = ("TMPDIR", "TMP", "TEMP")
        before = {key: os.environ.get(key) for key in names}
        os.environ.update(dict.fromkeys(names, str(path.parent.absolute())))
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value


def _sign(  # noqa: PLR0917
    source: BinaryIO, target: Any, kind: str, facts: Facts, who: Signatory, name: Path
) -> bytes:
    """Write source and manifest to the target, and return the manifest."""
    c2pa = _library()
    settings = {
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
        "builder": {"thumbnail": {"enabled": False}},  # no pictures of people in there
        "core": {"backing_store_memory_threshold_in_mb": _IN_MEMORY},
    }
    refused: list[MienError] = []

    def ask(data: bytes) -> bytes:
        assert who.ask is not None
        try:
            return who.ask(data)
        except MienError as error:
            refused.append(error)
            raise

    made = Watched(target)
    try:
        if who.ask is None:
            info = c2pa.C2paSignerInfo(who.algorithm, who.chain, who.key, None)
            signer = c2pa.Signer.from_info(info)
        else:
            algorithm = c2pa.C2paSigningAlg[who.algorithm.upper()]
            signer = c2pa.Signer.from_callback(ask, algorithm, who.chain.decode("ascii"))
        said = json.dumps(definition(facts))
        with signer, c2pa.Context.from_dict(settings) as context:
            builder = c2pa.Builder.from_json(said, context=context)
            if kind in BESIDE.values():
                builder.set_no_embed()
            manifest: bytes = builder.sign(signer, kind, source, made)
    except c2pa.C2paError as error:
        if refused:
            raise refused[0] from error
        made.complain(name)
        if who.local and "not valid at time" in str(error):
            source.seek(0)
            target.seek(0)
            return _sign(source, target, kind, facts, certificate.renew(), name)
        raise MediaError(f"{name}: cannot be signed ({plain(error)})") from error
    return manifest


def _kind(head: bytes) -> str | None:
    """Media type of a file by how it begins; None lets the library guess."""
    image = image_format(head)
    if image is not None:
        return f"image/{image}"
    if head[4:8] == b"ftyp":
        return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    return "video/x-matroska" if head.startswith(b"\x1a\x45\xdf\xa3") else None


_JUMBF: Final = bytes.fromhex("6332706100110010800000aa00389b71")
"""Type of the box that holds all manifests (C2PA 2.2, 11.1.4.2)."""


def _carries(file: BinaryIO, until: float | None) -> bool:
    """Whether a file that cannot be taken apart has something of a manifest in it."""
    file.seek(0)
    rest = b""
    while block := file.read(1 << 20):
        if until is not None and time.monotonic() > until:
            return False
        if _JUMBF in rest + block:
            return True
        rest = block[-len(_JUMBF) :]
    return False
