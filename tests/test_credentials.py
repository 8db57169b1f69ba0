"""Content credentials: what is signed, by whom, and what shows when a file is changed."""

import datetime
import hashlib
import http.server
import json
import logging
import os
import stat
import subprocess
import sys
import threading
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from material import environment, write_clip
from mien import home
from mien.errors import MediaError, UsageError
from mien.media import Temporary
from mien.provenance import Marker, Marks, certificate, credentials, manifest
from mien.provenance.manifest import Facts
from mien.signing import TOKEN, Signing
from mien.types import Consent

FACTS = Facts(
    output_id="00c0ffee",
    consent="self",
    target_consent="licensed",
    target="ab" * 32,
    portraits=("cd" * 32,),
    models=(("relight", "ef" * 32), ("facemesh", "01" * 32)),
)
PEM = serialization.Encoding.PEM


def picture(path, seed=0, size=96):
    noise = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    cv2.imwrite(str(path), cv2.GaussianBlur(noise, (9, 9), 0))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(1)
    shown = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(12)]
    for suffix in (".mp4", ".mov", ".mkv"):
        write_clip(folder / f"clip{suffix}", shown)
    write_clip(folder / "parts.mp4", shown, options={"movflags": "frag_keyframe+empty_moov"})
    return folder


def packets(path):
    """Every packet's stream, times and content: what is played, and when."""
    with av.open(str(path)) as container:
        return [
            (p.stream.index, p.pts, p.dts, p.duration, p.time_base, bytes(p))
            for p in container.demux()
            if p.size
        ]


def signed(path, facts=FACTS, who=None):
    beside = credentials.sign(path, facts, who or certificate.own())
    if beside is not None:
        path.with_suffix(".c2pa").write_bytes(beside)
    return path


def pixels_of(path):
    return packets(path) if path.suffix == ".mp4" else cv2.imread(str(path)).tobytes()


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".webp"])
def test_a_picture_holds_its_manifest(suffix, tmp_path):
    path = picture(tmp_path / f"a{suffix}")
    before = cv2.imread(str(path))
    assert credentials.check(path).state == "absent"
    assert credentials.sign(path, FACTS, certificate.own()) is None
    found = credentials.check(path)
    assert (found.state, found.where, found.known) == ("trusted", "embedded", "here")
    assert found.facts == FACTS
    assert found.synthetic
    assert found.generator.startswith("mien ")
    assert np.array_equal(cv2.imread(str(path)), before)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "parts.mp4"])
def test_a_video_holds_its_manifest_and_plays_as_before(name, clips, tmp_path):
    path = tmp_path / name
    path.write_bytes((clips / name).read_bytes())
    before = packets(path)
    signed(path)
    assert credentials.check(path).state == "trusted"
    assert packets(path) == before
    assert len(before) > 12  # the sound, too


def test_a_manifest_lies_beside_what_cannot_hold_it(clips, tmp_path):
    path = tmp_path / "clip.mkv"
    path.write_bytes((clips / "clip.mkv").read_bytes())
    finish = credentials.finisher(lambda: FACTS)
    file = Temporary(path, overwrite=True, finish=finish)
    file.path.write_bytes(path.read_bytes())
    file.keep()
    assert {p.name for p in tmp_path.iterdir()} == {"clip.mkv", "clip.c2pa"}
    assert path.read_bytes() == (clips / "clip.mkv").read_bytes()
    found = credentials.check(path)
    assert (found.state, found.where, found.facts) == ("trusted", "beside", FACTS)
    # Another file of that stem does not take it away.
    other = tmp_path / "clip.webm"
    second = Temporary(other, overwrite=False, finish=finish)
    second.path.write_bytes(path.read_bytes())
    second.keep()
    assert (tmp_path / "clip.webm.c2pa").exists()
    assert credentials.check(path).state == credentials.check(other).state == "trusted"
    flip(path)
    assert credentials.check(path).state == "broken"
    (tmp_path / "clip.c2pa").write_bytes(b"no manifest")
    assert credentials.check(path).state == "broken"


def written_over(path, finish):
    """The file replaced by another of its name."""
    file = Temporary(path, overwrite=True, finish=finish)
    file.path.write_bytes(path.read_bytes() + b"\0")
    file.keep()


def test_an_unsigned_file_takes_the_manifest_of_the_one_before_away(clips, tmp_path):
    finish = credentials.signing_of(Marker(Marks(credentials_on=False), consent=Consent("self")))
    path = tmp_path / "clip.mkv"
    path.write_bytes((clips / "clip.mkv").read_bytes())
    beside = tmp_path / "clip.c2pa"
    signed(path)
    failing = Temporary(path, overwrite=True, finish=finish)
    failing.overwrite = False  # as when somebody else forbids it meanwhile
    with pytest.raises(MediaError, match="exists already"):
        failing.keep()
    assert beside.exists()  # the file is still the one that it is about
    written_over(path, finish)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mkv"]
    assert credentials.check(path).state == "absent"


def test_a_manifest_that_may_be_anothers_stays(clips, tmp_path):
    path, other = tmp_path / "clip.mkv", tmp_path / "clip.webm"
    for one in (path, other):
        one.write_bytes((clips / "clip.mkv").read_bytes())
    flip(other, 0.9)
    signed(other)  # clip.c2pa is of clip.webm
    written_over(path, credentials.unsigned)
    assert credentials.check(other).state == "trusted"
    (tmp_path / "clip.mkv.c2pa").write_bytes(b"of clip.mkv")
    written_over(path, credentials.unsigned)
    assert {p.name for p in tmp_path.iterdir()} == {"clip.mkv", "clip.webm", "clip.c2pa"}
    signed(path)  # now it is of clip.mkv, as its bytes say
    written_over(path, credentials.unsigned)
    assert {p.name for p in tmp_path.iterdir()} == {"clip.mkv", "clip.webm"}


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "clip.mp4", "clip.mov"])
def test_any_change_shows(name, clips, tmp_path):
    path = tmp_path / name
    if name.startswith("clip"):
        path.write_bytes((clips / name).read_bytes())
    else:
        picture(path, size=200)
    whole = signed(path).read_bytes()
    pixels = {"webp": b"VP8 ", "mp4": b"mdat", "mov": b"mdat"}.get(name.partition(".")[2])
    middle = whole.find(pixels) + 200 if pixels else len(whole) - 600
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    found = credentials.check(path)
    assert found.state == "broken"
    assert found.reason == "the file was changed after it was signed"
    assert found.facts == FACTS  # still says what it was
    said = whole.find(b"00c0ffee")
    path.write_bytes(whole[:said] + b"00c0ffef" + whole[said + 8 :])
    found = credentials.check(path)
    assert (found.state, found.reason) == (
        "broken",
        "the manifest was changed after it was signed",
    )
    path.write_bytes(whole[: len(whole) * 3 // 4])
    assert credentials.check(path).state in ("broken", "absent")  # WebP has it at the end


def test_what_the_manifest_says(tmp_path):
    path = signed(picture(tmp_path / "a.jpg"))
    c2pa = sys.modules["c2pa"]
    with path.open("rb") as file, c2pa.Reader("image/jpeg", file) as reader:
        store = json.loads(reader.json())
    made = store["manifests"][store["active_manifest"]]
    said = {a["label"]: a["data"] for a in made["assertions"]}
    opened, edited, marked = said["c2pa.actions.v2"]["actions"]
    assert opened["action"] == "c2pa.opened"
    assert edited["action"] == "c2pa.edited"
    assert edited["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert len(edited["parameters"]["ingredients"]) == 3
    assert marked["action"] == "c2pa.watermarked.bound"
    (block,) = said["c2pa.soft-binding"]["blocks"]
    assert (said["c2pa.soft-binding"]["alg"], block["value"]) == ("mien.watermark.1", "00c0ffee")
    parts = {i["title"]: i for i in made["ingredients"]}
    assert parts["target"]["relationship"] == "parentOf"
    assert parts["target"]["instance_id"] == f"urn:sha256:{'ab' * 32}"
    assert {parts[n]["relationship"] for n in ("portrait", "relight", "facemesh")} == {"inputTo"}
    assert "thumbnail" not in json.dumps(store)
    # A camera has no file before it, and what carries no watermark does not say so.
    live = replace(FACTS, target="", watermark=False, portraits=(), models=())
    path = signed(picture(tmp_path / "b.jpg"), live)
    assert credentials.check(path).facts == live
    text = path.read_bytes()
    assert b"c2pa.created" in text
    assert b"c2pa.soft-binding" not in text


def test_hashes_of_what_went_in(tmp_path):
    from mien.provenance import Marker, Marks
    from mien.types import Consent
    from synthetic import identity

    target = tmp_path / "target.bin"
    target.write_bytes(b"some footage")
    me = replace(identity(), name="Berta Example")
    marker = Marker(Marks(watermark_on=False), consent=Consent("written", note="Anna Example"))
    facts = manifest.facts_of(marker, [me, me], FACTS.models, target)
    assert facts.target == hashlib.sha256(b"some footage").hexdigest()
    pixels = b"".join(p.image.tobytes() for p in me.portraits)
    assert facts.portraits == (hashlib.sha256(pixels).hexdigest(),)
    assert (facts.consent, facts.watermark) == ("written", False)
    path = signed(picture(tmp_path / "a.png"), facts)
    for private in (b"Anna", b"Berta", b"target.bin", str(tmp_path).encode()):
        assert private not in path.read_bytes()


def test_the_machines_own_certificate(tmp_path):
    folder = home.place() / "certificate"
    assert not folder.exists()
    own = certificate.own()
    assert {p.name for p in folder.iterdir()} == {"key.pem", "chain.pem", "authority.pem"}
    assert [p.name for p in home.place().iterdir()] == ["certificate"]
    if os.name == "posix":
        assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert certificate.own() == own  # made once
    leaf, authority = x509.load_pem_x509_certificates(own.chain)
    leaf.verify_directly_issued_by(authority)
    names = [n.value for c in (leaf, authority) for n in c.subject]  # of no machine and no user
    assert names[::2] == [certificate.ORGANISATION] * 2
    assert names[1::2] == ["mien on one machine", "mien, authority of one machine"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = serialization.load_pem_private_key(own.key, None)
    assert key.public_key() == leaf.public_key()
    assert key.public_key() != authority.public_key()  # whose key is nowhere
    years = (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days / 365.25
    assert round(years) == certificate.YEARS


def test_another_machine_sees_that_it_is_intact_but_not_by_whom(tmp_path, monkeypatch):
    path = signed(picture(tmp_path / "a.jpg"))
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "elsewhere"))
    found = credentials.check(path)
    assert (found.state, found.known, found.facts) == ("valid", "", FACTS)
    assert "self-signed" in found.signer
    assert not (tmp_path / "elsewhere").exists()  # looking makes nothing


def test_two_that_come_at_once_have_one_certificate(tmp_path):
    code = "from mien.provenance import certificate; print(certificate.own().chain.hex())"
    made = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)
    ]
    assert len({p.communicate()[0] for p in made}) == 1
    assert all(p.returncode == 0 for p in made)
    assert [p.name for p in home.place().iterdir()] == ["certificate"]


def issue(key, *, days=30, use=True):
    """A certificate for a key and the authority above it, as an operator has them."""
    above = ec.generate_private_key(ec.SECP256R1())
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)

    def name(common):
        of = (x509.NameOID.ORGANIZATION_NAME, "An operator"), (x509.NameOID.COMMON_NAME, common)
        return x509.Name([x509.NameAttribute(*pair) for pair in of])

    def blank(subject, public):
        made = x509.CertificateBuilder(name("root"), subject, public, x509.random_serial_number())
        until = begin + datetime.timedelta(days=days)
        return made.not_valid_before(begin).not_valid_after(until)

    def usage(index):
        return x509.KeyUsage(*(n == index for n in range(9)))

    root = blank(name("root"), above.public_key())
    root = root.add_extension(x509.BasicConstraints(True, 0), True).add_extension(usage(5), True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(above.public_key())
    root = root.add_extension(identifier, False).sign(above, hashes.SHA256())
    leaf = blank(name("desk"), key.public_key())
    leaf = leaf.add_extension(x509.BasicConstraints(False, None), True)
    parent = x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key())
    leaf = leaf.add_extension(usage(0), True).add_extension(parent, False)
    if use:
        mail = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
        leaf = leaf.add_extension(mail, False)
    return leaf.sign(above, hashes.SHA256()), root


@pytest.fixture
def desk(tmp_path):
    """Files of an operator: key, chain, authorities."""

    def write(key=None, **how):
        key = key or ec.generate_private_key(ec.SECP256R1())
        leaf, root = issue(key, **how)
        plain = serialization.NoEncryption()
        data = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, plain)
        (tmp_path / "key.pem").write_bytes(data)
        (tmp_path / "key.pem").chmod(0o600)
        (tmp_path / "chain.pem").write_bytes(leaf.public_bytes(PEM) + root.public_bytes(PEM))
        (tmp_path / "root.pem").write_bytes(root.public_bytes(PEM))
        return Signing(tmp_path / "chain.pem", tmp_path / "key.pem")

    return write


@pytest.mark.parametrize("kind", ["p256", "p384", "ed25519", "rsa"])
def test_an_operators_certificate(kind, desk, tmp_path):
    key = {
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]()
    signing = desk(key)
    path = signed(picture(tmp_path / "a.jpg"), who=certificate.signatory(signing))
    found = credentials.check(path)
    assert (found.state, found.known, found.signer) == ("valid", "", "An operator")
    found = credentials.check(path, signing=Signing(authorities=tmp_path / "root.pem"))
    assert (found.state, found.known) == ("trusted", "operator")
    assert not (home.place() / "certificate").exists()


def test_what_is_wrong_with_an_operators_files_is_said_at_once(desk, tmp_path):
    def fails(signing, *words):
        with pytest.raises(UsageError) as caught:
            certificate.signatory(signing)
        assert all(word in str(caught.value) for word in words), caught.value

    good = desk()
    fails(replace(good, chain=None), "needs the chain")
    fails(replace(good, command="x"), "needs one of key, command and url")
    fails(replace(good, key=None), "needs one of key, command and url")
    fails(replace(good, chain=tmp_path / "none.pem"), "none.pem", "cannot be read")
    (tmp_path / "junk.pem").write_bytes(b"junk")
    fails(replace(good, chain=tmp_path / "junk.pem"), "junk.pem", "expected certificates in PEM")
    (tmp_path / "junk.pem").chmod(0o600)
    fails(replace(good, key=tmp_path / "junk.pem"), "junk.pem", "expected a private key")
    if os.name == "posix":
        (tmp_path / "key.pem").chmod(0o640)
        fails(good, "key.pem", "chmod 600")
        (tmp_path / "key.pem").chmod(0o600)
    locked = serialization.BestAvailableEncryption(b"word")
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "locked.pem").write_bytes(
        other.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked)
    )
    (tmp_path / "locked.pem").chmod(0o600)
    fails(replace(good, key=tmp_path / "locked.pem"), "locked.pem", "password")
    desk(days=1)
    fails(good, "chain.pem", "the certificate counts from")
    mine = desk()
    (tmp_path / "other.pem").write_bytes(
        other.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "other.pem").chmod(0o600)
    fails(replace(mine, key=tmp_path / "other.pem"), "other.pem", "is not the private key")
    bad = desk(use=False)  # C2PA does not take it: seen when it signs
    with pytest.raises(MediaError, match="cannot be signed"):
        signed(picture(tmp_path / "a.jpg"), who=certificate.signatory(bad))


def test_a_command_that_signs(desk, tmp_path):
    signing = desk()
    tool = tmp_path / "tool.py"
    tool.write_text(
        "import sys\n"
        "from cryptography.hazmat.primitives import hashes, serialization\n"
        "from cryptography.hazmat.primitives.asymmetric import ec\n"
        "key = serialization.load_pem_private_key(open(sys.argv[1], 'rb').read(), None)\n"
        "made = key.sign(sys.stdin.buffer.read(), ec.ECDSA(hashes.SHA256()))\n"
        "sys.stdout.buffer.write(made)\n"
    )
    run = f"'{sys.executable}' '{tool}' "
    path = picture(tmp_path / "a.jpg")
    before = path.read_bytes()
    given = replace(signing, key=None)
    for command, words in (
        (run + f"'{tmp_path / 'none.pem'}'", "did not sign"),
        (f"'{sys.executable}' -c pass", "is no signature by"),
        ("/does/not/exist", "cannot be run"),
    ):
        with pytest.raises(MediaError, match=words):
            signed(path, who=certificate.signatory(replace(given, command=command)))
        assert path.read_bytes() == before
    command = run + f"'{tmp_path / 'key.pem'}'"
    signed(path, who=certificate.signatory(replace(given, command=command)))
    assert credentials.check(path).signer == "An operator"


def test_a_service_that_signs(desk, tmp_path, monkeypatch):
    key = ec.generate_private_key(ec.SECP256R1())
    signing = replace(desk(key), key=None)
    asked = []

    class Service(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.headers.get("Authorization"))
            self.send_response({"/no": 403, "/away": 302}.get(self.path, 200))
            if self.path == "/away":
                self.send_header("Location", "/sign")
            self.end_headers()
            if self.path == "/sign":
                self.wfile.write(key.sign(data, ec.ECDSA(hashes.SHA256())))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        path = picture(tmp_path / "a.jpg")
        for way, words in (("/no", "403"), ("/away", "302"), ("/empty", "is no signature by")):
            with pytest.raises(MediaError, match=words):
                signed(path, who=certificate.signatory(replace(signing, url=base + way)))
        monkeypatch.setenv(TOKEN, "secret")
        signed(path, who=certificate.signatory(replace(signing, url=f"{base}/sign")))
        server.shutdown()
    assert asked == [None, None, None, "Bearer secret"]
    assert credentials.check(path).signer == "An operator"
    with pytest.raises(UsageError, match="https"):
        certificate.signatory(replace(signing, url="http://example.org/sign"))
    with pytest.raises(UsageError, match="password"):
        certificate.signatory(replace(signing, url="https://me:word@example.org/sign"))


def test_a_certificate_whose_time_is_not_now_is_made_anew(tmp_path, monkeypatch):
    first = signed(picture(tmp_path / "a.jpg"))
    old = certificate.own()
    key = ec.generate_private_key(ec.SECP256R1())
    leaf, root = issue(key, days=1)
    folder = home.place() / "certificate"
    (folder / "chain.pem").write_bytes(leaf.public_bytes(PEM) + root.public_bytes(PEM))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(
        key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    second = signed(picture(tmp_path / "b.jpg"), who=certificate.own())
    assert certificate.own().chain != old.chain
    assert credentials.check(first).known == credentials.check(second).known == "here"
    assert [p.name for p in home.place().glob("*/key.pem")] == ["key.pem"]


def test_a_full_disk_leaves_the_file_as_it_was(clips, tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    path.write_bytes((clips / "clip.mp4").read_bytes())
    before = path.read_bytes()
    own = certificate.own()

    class Full(credentials.Watched):
        def write(self, data):
            def full(_):
                raise OSError(28, "No space left on device")

            return self._do(full, data)

    monkeypatch.setattr(credentials, "Watched", Full)
    with pytest.raises(MediaError, match=r"clip\.mp4: .*No space left on device"):
        credentials.sign(path, FACTS, own)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_what_could_not_be_signed(tmp_path, clips):
    def fail(hidden, target):
        raise MediaError(f"{target}: cannot be signed")

    # A picture is soon made again; what took long stays, and the message says where.
    soon = Temporary(tmp_path / "a.jpg", overwrite=False, finish=fail)
    with pytest.raises(MediaError, match=r"a\.jpg: cannot be signed$"):
        soon.keep()
    assert list(tmp_path.iterdir()) == []
    late = Temporary(tmp_path / "a.mp4", overwrite=False, finish=fail, spare=True)
    late.path.write_bytes(b"an hour")
    with pytest.raises(MediaError, match="what was made lies in"):
        late.keep()
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"an hour"]
    with pytest.raises(MediaError, match="content credentials can be written for"):
        credentials.sign(picture(tmp_path / "a.bmp"), FACTS, certificate.own())


def test_large_files_are_signed_beside_themselves(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(credentials, "_IN_MEMORY", 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    path = tmp_path / "clip.mp4"
    path.write_bytes((clips / "clip.mp4").read_bytes())
    signed(path)
    assert credentials.check(path).state == "trusted"
    assert os.environ["TMPDIR"] == str(tmp_path / "none")
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    room = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(credentials.shutil, "disk_usage", lambda _: room)
    with pytest.raises(MediaError, match="are needed for it on this disk"):
        signed(path)


def test_no_network_and_no_library_of_a_stranger(tmp_path):
    """In a folder with a file of the library's name, and without a network to ask."""
    (tmp_path / "libs").mkdir()
    for name in ("libc2pa_c.so", "libc2pa_c.dylib", "c2pa_c.dll", "libs/libc2pa_c.so"):
        (tmp_path / name).write_bytes(b"not a library")
    picture(tmp_path / "a.jpg")
    code = (
        "import socket, sys\n"
        "def no(*a, **k): raise AssertionError('the network was used')\n"
        "socket.socket.connect = socket.getaddrinfo = no\n"
        "from pathlib import Path\n"
        "from mien.provenance import certificate, credentials, manifest\n"
        "assert 'c2pa' not in sys.modules and 'cryptography' not in sys.modules\n"
        "facts = manifest.Facts(output_id='01', consent='self')\n"
        "credentials.sign(Path('a.jpg'), facts, certificate.own())\n"
        "print(credentials.check(Path('a.jpg')).state)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(MIEN_HOME=str(home.place())),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("trusted", "")
    assert "C2PA_LIBRARY_NAME" not in os.environ


def test_hostile_manifests_end_in_a_verdict(clips, tmp_path, caplog):
    """Bytes anywhere changed, cut and doubled: a state or one of mien's errors, never another."""
    caplog.set_level(logging.CRITICAL)
    rng = np.random.default_rng(4)
    for name in ("a.jpg", "a.png", "a.webp", "clip.mp4"):
        path = tmp_path / name
        if name == "clip.mp4":
            path.write_bytes((clips / name).read_bytes())
        else:
            picture(path)
        whole = signed(path).read_bytes()
        shown, start = pixels_of(path), max(whole.find(b"jumb") - 40, 0)
        for turn in range(40):
            data = bytearray(whole)
            for _ in range(int(rng.integers(1, 6))):
                data[int(rng.integers(start, min(start + 9000, len(data))))] = int(
                    rng.integers(256)
                )
            if turn % 4 == 0:
                del data[int(rng.integers(len(data))) :]
            if turn % 5 == 0:
                at = int(rng.integers(len(data) + 1))
                data[at:at] = data[: int(rng.integers(2000))]
            path.write_bytes(bytes(data))
            found = credentials.check(path)
            if found.state in ("valid", "trusted"):  # nothing but padding was changed
                assert found.facts == FACTS
                assert len(data) == len(whole)
                assert pixels_of(path) == shown


def test_reading_stops_in_time(clips, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes((clips / "clip.mp4").read_bytes())
    signed(path)
    with pytest.raises(MediaError, match="took too long"):
        credentials.check(path, until=0.0)


def test_a_strangers_words_obey_nobody():
    assert manifest.clean("a\x1b[31mb\nc\u202e") == "a [31mb c"
    assert len(manifest.clean("x" * 10_000)) == 200
