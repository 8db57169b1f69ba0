"""A copy of all that is held of a person, for that person."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from mien.errors import MediaError
from mien.identity.packing import png, unpack
from mien.identity.records import Entry, now
from mien.media.sink import Temporary

_README: Final = """\
What mien holds of {name}
{line}

This archive is a copy of all that this installation of mien holds of one person: the record of
the consent, the portraits, and what was computed from them. It is personal data, and the
embedding and the meshes are biometric data. Give it to that person alone, and do not keep it.

record.json       who, on what basis, for what, until when
portraits/*.png   the portraits as they are held
biometrics.json   the embedding, and each portrait's mesh (x, y, z in its pixels)
form/             the form that was attached, if there is one
"""


def write(
    path: Path, entry: Entry, person: bytes | None, form: bytes | None, *, overwrite: bool
) -> None:
    """Write the archive; its owner alone may read it.

    Args:
        path: Of the zip file.
        entry: The record.
        person: Packed embedding and portraits, None if none are held.
        form: Contents of the attached form, None if there is none.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        MediaError: It cannot be written.
    """
    file = Temporary(path, overwrite=overwrite)
    try:
        file.path.chmod(0o600)
        with zipfile.ZipFile(file.path, "w", zipfile.ZIP_DEFLATED) as archive:
            _fill(archive, entry, person, form)
        file.keep()
    except OSError as error:
        file.drop()
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path}: cannot be written ({error.strerror})") from error
    except BaseException:
        file.drop()
        raise


def _fill(archive: zipfile.ZipFile, entry: Entry, person: bytes | None, form: bytes | None) -> None:
    """Fill the archive for the person."""
    title = entry.name or f"record {entry.record}"
    archive.comment = b"personal data held by mien"
    text = _README.format(name=title, line="=" * (len(title) + 22))
    archive.writestr("README.txt", text)
    about = {"what": "personal data held by mien", "exported": now()}
    facts = about | asdict(entry) | {"state": entry.state}
    archive.writestr("record.json", json.dumps(facts, indent=2, ensure_ascii=False))
    if person is not None:
        embedding, portraits = unpack(person, entry.record)
        for number, portrait in enumerate(portraits, 1):
            archive.writestr(f"portraits/{number}.png", png(portrait.image))
        held = {
            "embedder": entry.embedder,
            "embedding": [round(float(v), 7) for v in embedding],
            "meshes": [np.round(p.mesh.astype(float), 3).tolist() for p in portraits],
        }
        archive.writestr("biometrics.json", json.dumps(held))
    if form is not None:
        archive.writestr(f"form/{Path(entry.form).name or 'form'}", form)
