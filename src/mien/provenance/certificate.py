"""Who signs: this machine's own certificate, an operator's, or a signing service.

The certificate that is made on first use says nothing of who somebody is: whoever runs mien has
one. A signature with it proves that a file is as it was when it was signed, and no more.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from mien import home
from mien.errors import MediaError, UsageError
from mien.signing import OWN, TOKEN, Signing

FOLDER: Final = "certificate"
"""In mien's own folder: ``key.pem``, ``chain.pem`` and ``authority.pem``."""

ORGANISATION: Final = "mien (self-signed: says what is intact, not who made it)"
"""What programs show as the signer; names no machine and no user."""

YEARS: Final = 20
"""Without a timestamp a signature counts for as long as its certificate does."""

USES: Final = ("1.3.6.1.5.5.7.3.4", "1.3.6.1.4.1.62558.2.1")
"""Extended key usages (C2PA 2.2, 14.5.1): e-mail protection, which every version of C2PA takes, and
C2PA's own for claims."""

PATIENCE: Final = 30.0
"""Seconds that a signing service may take."""

_MOST: Final = 65_536
"""Bytes of a signature or a certificate chain at most."""


@dataclass(frozen=True, slots=True)
class Signatory:
    """Somebody who can sign.

    Attributes:
        algorithm: C2PA's name, for instance ``es256``.
        chain: PEM, the signer's own certificate first.
        key: PEM; empty where ``ask`` signs.
        ask: Signs bytes; raises what went wrong.
        local: It is this machine's own certificate.
    """

    algorithm: str
    chain: bytes
    key: bytes = b""
    ask: Callable[[bytes], bytes] | None = None
    local: bool = False


def signatory(signing: Signing = OWN) -> Signatory:
    """Find who signs, and see that he can; the machine's own certificate is made if need be.

    Raises:
        UsageError: A file is missing, is not what it should be, may be read by others, does not
            go with the other, or too much or too little is said.
        MediaError: mien's own folder cannot be written.
    """
    ways = [bool(signing.key), bool(signing.command), bool(signing.url)]
    if signing.chain is None:
        if any(ways):
            raise UsageError("credentials: a key, a command or a URL needs the chain, too")
        return own()
    if sum(ways) != 1:
        raise UsageError("credentials: a chain needs one of key, command and url")
    chain = _read(signing.chain, "chain")
    leaf = _leaf(chain, signing.chain)
    algorithm = _algorithm(leaf, signing.chain)
    if signing.key is not None:
        return Signatory(algorithm, chain, _key(signing.key, leaf))
    command = shlex.split(signing.command)
    ask = _by_command(command) if command else _by_url(signing.url)
    return Signatory(algorithm, chain, ask=_checked(ask, leaf))


def own() -> Signatory:
    """This machine's own certificate, made on first use.

    Raises:
        MediaError: mien's own folder cannot be written or read.
    """
    folder = home.folder() / FOLDER
    try:
        if not (folder / "key.pem").is_file():
            _make(folder)
        chain, key = (folder / "chain.pem").read_bytes(), (folder / "key.pem").read_bytes()
    except OSError as error:
        raise MediaError(
            f"{folder}: the certificate cannot be made or read ({error.strerror})"
        ) from error
    return Signatory("es256", chain, key, local=True)


def renew() -> Signatory:
    """Make this machine's own certificate anew, since its time is over or not yet come.

    What was signed with the one before still counts as signed here.

    Raises:
        MediaError: mien's own folder cannot be written.
    """
    folder = home.folder() / FOLDER
    number = 1
    while (old := folder.with_name(f"{FOLDER}-{number}")).exists():
        number += 1
    try:
        folder.rename(old)
        (old / "key.pem").unlink()
    except OSError as error:
        raise MediaError(f"{folder}: cannot be replaced ({error.strerror})") from error
    return own()


def authorities(signing: Signing = OWN) -> tuple[bytes, bytes]:
    """PEM of the authorities made here, and of those that the operator trusts besides.

    Raises:
        UsageError: The operator's file cannot be read or has no certificate in it.
    """
    here = b""
    for file in sorted(home.place().glob(f"{FOLDER}*/authority.pem")):
        with suppress(OSError):
            here += file.read_bytes()
    trusted = b""
    if signing.authorities is not None:
        trusted = _read(signing.authorities, "authorities")
        _leaf(trusted, signing.authorities)
    return here, trusted


def _make(folder: Path) -> None:
    """Make an authority, one certificate by it, and forget the authority's key.

    Nobody can make a second certificate of the same authority then. All files appear at once,
    as a folder that takes its name; who comes second takes what is there.
    """
    made = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(mode=0o700)
    try:
        leaf, authority, key = _issue()
        (made / "authority.pem").write_bytes(authority)
        (made / "chain.pem").write_bytes(leaf + authority)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(made / "key.pem", flags, 0o600), "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        made.rename(folder)
    except OSError:
        if not (folder / "key.pem").is_file():
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _issue() -> tuple[bytes, bytes, bytes]:
    """Certificate, authority and private key (X.509 as C2PA 2.2, 14.5, asks for), all PEM."""
    from cryptography import x509  # noqa: PLC0415 - only where it is needed
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    def name(common: str) -> x509.Name:
        organisation = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, ORGANISATION)
        return x509.Name([organisation, x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])

    def usage(**on: bool) -> x509.KeyUsage:
        every = (
            "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
            "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
        )  # fmt: skip
        return x509.KeyUsage(**{use: on.get(use, False) for use in every})

    above, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, begin = name("mien, authority of one machine"), datetime.now(UTC) - timedelta(days=1)
    end = begin + timedelta(days=round(365.25 * YEARS))

    def blank(public: ec.EllipticCurvePublicKey, common: x509.Name) -> x509.CertificateBuilder:
        begun = x509.CertificateBuilder(issuer, common, public, x509.random_serial_number())
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        valid = begun.not_valid_before(begin).not_valid_after(end)
        return valid.add_extension(identifier, critical=False)

    authority = (
        blank(above.public_key(), issuer)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(key_cert_sign=True), critical=True)
        .sign(above, hashes.SHA256())
    )
    uses = x509.ExtendedKeyUsage([x509.ObjectIdentifier(use) for use in USES])
    parent = x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key())
    leaf = (
        blank(key.public_key(), name("mien on one machine"))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(digital_signature=True), critical=True)
        .add_extension(uses, critical=False)
        .add_extension(parent, critical=False)
        .sign(above, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return leaf.public_bytes(pem), authority.public_bytes(pem), _plain(key)


def _plain(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    written: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return written


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
    except OSError as error:
        raise UsageError(f"{path}: the {what} cannot be read ({error.strerror})") from error
    if len(data) > _MOST:
        raise UsageError(f"{path}: is no {what}; it is larger than {_MOST} bytes")
    return data


def _leaf(chain: bytes, path: Path) -> Any:
    """The first certificate of a PEM file."""
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.load_pem_x509_certificates(chain)[0]
    except (ValueError, IndexError) as error:
        raise UsageError(f"{path}: expected certificates in PEM") from error


def _algorithm(leaf: Any, path: Path) -> str:
    """C2PA's name of the algorithm that goes with a certificate's key, which is in time."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not begin <= datetime.now(UTC) <= end:
        raise UsageError(f"{path}: the certificate counts from {begin:%Y-%m-%d} to {end:%Y-%m-%d}")
    public = leaf.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.key_size in (256, 384, 521):
        return {256: "es256", 384: "es384", 521: "es512"}[public.curve.key_size]
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(public, rsa.RSAPublicKey) and public.key_size >= 2048:
        return "ps256"
    raise UsageError(
        f"{path}: expected a certificate for a key of P-256, P-384, P-521, Ed25519, or RSA with "
        "2048 bits or more"
    )


def _key(path: Path, leaf: Any) -> bytes:
    """The private key of a certificate, from a file that its owner alone may read."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_private_key,
    )

    data = _read(path, "private key")
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UsageError(f"{path}: others may read this private key; chmod 600 it")
    try:
        key = load_pem_private_key(data, None)
    except TypeError as error:
        raise UsageError(f"{path}: the private key needs a password; give one without") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path}: expected a private key in PEM") from error
    if key.public_key() != leaf.public_key():
        raise UsageError(f"{path}: is not the private key of the chain's first certificate")
    return _plain(key)


def _by_command(command: list[str]) -> Callable[[bytes], bytes]:
    def ask(data: bytes) -> bytes:
        try:
            done = subprocess.run(
                command, input=data, capture_output=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise MediaError(f"{command[0]}: did not sign within {PATIENCE:.0f} s") from error
        except OSError as error:
            raise MediaError(f"{command[0]}: cannot be run ({error.strerror})") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0][:200]
            why = f"exit status {done.returncode}" + (f": {said}" if said else "")
            raise MediaError(f"{command[0]}: did not sign ({why})")
        return done.stdout

    return ask


class _NoWay(urllib.request.HTTPRedirectHandler):
    """What is to be signed goes where the operator said, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _by_url(url: str) -> Callable[[bytes], bytes]:
    parts = urllib.parse.urlsplit(url)
    here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and here):
        raise UsageError(f"{url}: expected an address of https, or of http on this machine")
    if parts.username or parts.password:
        raise UsageError("credentials: the URL has a password in it; put a token into " + TOKEN)

    def ask(data: bytes) -> bytes:
        headers = {"Content-Type": "application/octet-stream"}
        token = os.environ.get(TOKEN)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            request = urllib.request.Request(url, data, headers, method="POST")
            with urllib.request.build_opener(_NoWay).open(request, timeout=PATIENCE) as answer:
                signature: bytes = answer.read(_MOST)
                return signature
        except urllib.error.HTTPError as error:
            raise MediaError(f"{url}: did not sign (HTTP status {error.code})") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise MediaError(f"{url}: cannot be asked to sign ({reason})") from error

    return ask


def _checked(ask: Callable[[bytes], bytes], leaf: Any) -> Callable[[bytes], bytes]:
    """Signs, and sees that the signature is that of the certificate."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import (  # noqa: PLC0415
        ec,
        ed25519,
        padding,
        utils,
    )

    public = leaf.public_key()

    def checked(data: bytes) -> bytes:
        signature = ask(data)
        try:
            if isinstance(public, ed25519.Ed25519PublicKey):
                public.verify(signature, data)
            elif isinstance(public, ec.EllipticCurvePublicKey):
                size = (public.curve.key_size + 7) // 8
                kinds: dict[int, hashes.HashAlgorithm] = {
                    32: hashes.SHA256(),
                    48: hashes.SHA384(),
                    66: hashes.SHA512(),
                }
                der = signature
                if len(signature) == 2 * size:  # as COSE has it: r and s, one behind the other
                    parts = signature[:size], signature[size:]
                    der = utils.encode_dss_signature(*(int.from_bytes(p, "big") for p in parts))
                public.verify(der, data, ec.ECDSA(kinds[size]))
            else:
                salted = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
                public.verify(signature, data, salted, hashes.SHA256())
        except (InvalidSignature, ValueError) as error:
            raise MediaError(
                "credentials: what the signing service answered is no signature by the chain's "
                "first certificate"
            ) from error
        return signature

    return checked
