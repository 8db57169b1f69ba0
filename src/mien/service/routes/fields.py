"""What routes share: forms of fields, marks that a request wishes for, pages, answers to creation.

:func:`created` and :func:`page` answer for every kind of thing that is made and listed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi import Form, Header, Query, Response, UploadFile
from fastapi.responses import JSONResponse
from sqlalchemy import ColumnElement, Select

from mien.service.asking import Service
from mien.service.keys import Caller
from mien.service.limits import fingerprint, once
from mien.service.problems import Problem
from mien.types import ConsentBasis, Which

if TYPE_CHECKING:
    from mien.provenance import Marks

ID: Final = "^[0-9a-f]{32}$"

TEXT: Final = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
"""Text without control characters, which databases and logs do not like."""

WHICH: Final = "^(largest|left|right|[1-9][0-9]?)$"
"""One face."""

FACES: Final = "^(all|largest|left|right|[1-9][0-9]?)$"

Basis = ConsentBasis

Mark = Literal["label", "watermark", "credentials"]

Once = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A request that is repeated with it is carried out once.",
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
    ),
]

Note = Annotated[str, Form(max_length=1000, pattern=TEXT)]

Generator = Annotated[
    str | None,
    Form(max_length=100, pattern=TEXT, description="One that `/v1/models` lists."),
]

LabelLanguage = Annotated[str | None, Form(max_length=20, pattern=TEXT, examples=["de"])]

LabelPreset = Annotated[Literal["usual", "regulated"] | None, Form()]

MarksOff = Annotated[
    list[Mark] | None, Form(description="Marks to leave out, where the policy allows it.")
]

Limit = Annotated[int, Query(ge=1, le=100)]

After = Annotated[str | None, Query(pattern=ID, description="From `next`.")]


def which_of(text: str | None) -> Which | int | None:
    """Which face a field means, which has the form of :data:`WHICH`."""
    if text is None or not re.fullmatch("[0-9]+", text):
        return text  # type: ignore[return-value]
    return int(text)


def marks_of(service: Service, language: str | None, preset: str | None, off: Any) -> Marks:
    """The marks of an output: the operator's, with the wishes of a request.

    Raises:
        UsageError: No such language.
    """
    from mien.provenance import Marks  # noqa: PLC0415 - OpenCV

    table = service.chain.marks
    return Marks(
        label_on=table.label and "label" not in off,
        preset=preset or table.preset,  # type: ignore[arg-type]
        language=language or table.language,
        words=table.words,
        watermark_on=table.watermark and "watermark" not in off,
        credentials_on=table.credentials and "credentials" not in off,
        producer=table.producer,
    )


def sha256_of(upload: UploadFile) -> str:
    """Of a file that came; it is at its beginning again after."""
    upload.file.seek(0)
    digest = hashlib.file_digest(upload.file, "sha256").hexdigest()  # type: ignore[arg-type]
    upload.file.seek(0)
    return digest


def moment(seconds: float | None) -> datetime | None:
    """Seconds since 1970 as they are sent."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def created(  # noqa: PLR0917
    service: Service,
    caller: Caller,
    path: str,
    key: str | None,
    said: Mapping[str, Any],
    work: Callable[[], dict[str, Any]],
) -> Response:
    """Make something, once for each idempotency key, and answer with 201 and where it is.

    Args:
        service: Of which.
        caller: Who asks.
        path: Of the collection.
        key: Of the field ``Idempotency-Key``.
        said: What the request says, and hashes of its files.
        work: Gives what is answered; its ``id`` ends the path.

    Raises:
        Problem: As :func:`mien.service.limits.once`, and what the work raises.
    """
    request = fingerprint("POST", path, said)
    status, body, repeated = once(service, caller, key, request, lambda: (201, work()))
    headers = {"Location": f"{path}/{body['id']}"}
    if repeated:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(body, status, headers)


def page(  # noqa: PLR0917
    rows: Any,
    query: Select[Any],
    since: Any,
    id: Any,
    limit: int,
    after: str | None,
    what: str,
    only: Sequence[ColumnElement[bool]] = (),
) -> tuple[list[Any], str | None]:
    """Some rows, newest first.

    Args:
        rows: A session.
        query: All rows that the caller may see; a page may begin after any of them.
        since: Column that says when each was made.
        id: Of each, a column.
        limit: Rows at most.
        after: Id of the row that ended the page before; None for the first page.
        what: They are, for the message.
        only: Those alone.

    Returns:
        The rows, and ``after`` for the next page, None if there is none.

    Raises:
        Problem: 422: the caller has no row ``after``.
    """
    if after is not None:
        last = rows.execute(query.where(id == after).with_only_columns(since)).scalar()
        if last is None:
            raise Problem(422, "invalid", f"after: there is no such {what}",
                          errors=[("query.after", "there is none")])  # fmt: skip
        query = query.where((since < last) | ((since == last) & (id < after)))
    query = query.where(*only)
    found = list(rows.scalars(query.order_by(since.desc(), id.desc()).limit(limit + 1)))
    more: Any = found[limit - 1] if len(found) > limit else None
    return found[:limit], None if more is None else more.id
