"""What mien does, as functions: enrol a person, swap a picture, a file or a folder, list faces.

The command line calls these and nothing below them. Every function that needs the models takes
``swapper``, the models as :func:`load` returns them; without it they are loaded for the one call.
"""

from __future__ import annotations

from mien.api.camera import HINTS, enrol_live
from mien.api.denying import allow_person, deny_person, export_denied, import_denied
from mien.api.files import FileProgress, Progress, check_output, list_media
from mien.api.listing import Listing, Person, list_faces, list_people, write_faces
from mien.api.loading import chain_of, load
from mien.api.people import (
    consent_of,
    enrol,
    keep,
    noted,
    own_consent,
    reference,
    revoke,
    scopes_of,
    stored,
    stored_name,
    target_consent_of,
    whose,
)
from mien.api.results import Result
from mien.api.resuming import Painting, correct_tracks, follow_faces, swap_in_parts, work_folder
from mien.api.swapping import swap, swap_folder, swap_image
from mien.api.verifying import verify

__all__ = [
    "HINTS",
    "FileProgress",
    "Listing",
    "Painting",
    "Person",
    "Progress",
    "Result",
    "allow_person",
    "chain_of",
    "check_output",
    "consent_of",
    "correct_tracks",
    "deny_person",
    "enrol",
    "enrol_live",
    "export_denied",
    "follow_faces",
    "import_denied",
    "keep",
    "list_faces",
    "list_media",
    "list_people",
    "load",
    "noted",
    "own_consent",
    "reference",
    "revoke",
    "scopes_of",
    "stored",
    "stored_name",
    "swap",
    "swap_folder",
    "swap_image",
    "swap_in_parts",
    "target_consent_of",
    "verify",
    "whose",
    "work_folder",
    "write_faces",
]
