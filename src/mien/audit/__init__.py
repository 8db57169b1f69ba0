"""What was done, one JSON object a line, each chained to the one before by its hash.

An entry holds the SHA-256 of the entry before it and its own, over canonical JSON (sorted keys,
no blanks, ASCII), which is the chain of Haber and Stornetta ("How to time-stamp a digital
document", Journal of Cryptology 3, 1991). Whoever edits, inserts, moves or removes a line breaks
it. Beside the log lies its head, the number and hash of the last entry, so that lines cut off at
the end are missed as well.

What a log on one's own machine cannot prove: who may write the log may write it anew from its
first line, the head included. Only a copy of the head that lies elsewhere (``mien audit show
--head``, checked by ``mien audit verify --head``) or a key that the forger cannot read (``[audit]
key`` in policy.toml; hashes are HMAC-SHA-256 then, RFC 2104) shows that.

No entry holds an embedding, a picture or the contents of a file.
"""

from __future__ import annotations

from mien.audit.chain import BROKEN, DROPPED, POLICY, TORN, Findings, Head
from mien.audit.log import FILE, HEAD, LOCK, AuditLog, sha256_of

__all__ = [
    "BROKEN", "DROPPED", "FILE", "HEAD", "LOCK", "POLICY", "TORN", "AuditLog", "Findings", "Head",
    "sha256_of",
]  # fmt: skip
