"""Whose certificate signs what mien makes: the table ``[credentials]`` of ``policy.toml``.

It is no setting of ``mien.toml``, which is read from the working folder and may be a stranger's:
it names programs that are run and addresses that are asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

TOKEN: Final = "MIEN_SIGNING_TOKEN"
"""Environment variable: what a signing service is told to know who asks. It is in no file."""


@dataclass(frozen=True, slots=True)
class Signing:
    """Who signs. Without a chain it is this machine's own certificate, made on first use.

    Attributes:
        chain: PEM file with the signer's certificate first, then those up to the authority.
        key: PEM file with the private key of the first.
        command: Instead of the key: a program, with its arguments, that reads what is to be
            signed from standard input and writes the signature to standard output.
        url: Instead of the key: where the same is posted to, and the answer is the signature.
        authorities: PEM file with certificates; what their holders signed counts as trusted when
            files are checked.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    chain: Path | None = None
    key: Path | None = None
    command: str = ""
    url: str = ""
    authorities: Path | None = None


OWN: Final = Signing()
"""This machine's own certificate."""
