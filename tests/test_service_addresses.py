"""Which addresses the service goes to, and which it never does."""

from __future__ import annotations

import http.server
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.errors import MienError, Refused, UsageError
from mien.service import addresses, fetching


def to(*found: str) -> addresses.Resolve:
    return lambda host, port: list(found)


OUT = to("93.184.216.34")


def test_what_is_outside_passes_and_says_where_to_connect():
    place = addresses.check("https://example.org/a?b=1", what="webhook", resolve=OUT)
    assert place == ("https://example.org/a?b=1", "example.org", 443, "93.184.216.34")
    assert addresses.check("http://example.org:81/", what="w", resolve=OUT).port == 81


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
     "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1", "::1",
     "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
     "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fd00:ec2::254"],
)  # fmt: skip
def test_what_is_inside_is_refused(address):
    with pytest.raises(Refused, match=r"webhook: .*rule service\.addresses"):
        addresses.check("http://innocent.example/", what="webhook", resolve=to(address))
    # One address inside among others is enough.
    with pytest.raises(Refused):
        addresses.check("http://x.example/", what="webhook", resolve=to("93.184.216.34", address))
    addresses.check("http://x.example/", what="webhook", resolve=to(address), inner=True)


@pytest.mark.parametrize(
    "url",
    ["", "example.org", "ftp://example.org/", "file:///etc/passwd", "gopher://x/", "http://",
     "http:///a", "http://a b/", "http://user@example.org/", "http://user:pw@example.org/",
     "http://example.org:0/", "http://example.org:99999/", "http://example.org\\@127.0.0.1/",
     "http://exämple.org/", "http://example.org/\n", "http://[::1", "s3://bucket/key",
     "http://example.org/" + "a" * 2000],
)  # fmt: skip
def test_what_is_no_address_is_said_to_be(url):
    with pytest.raises(UsageError, match="target: expected an http or https URL"):
        addresses.check(url, what="target", resolve=OUT)


PREFIXES = ["https://media.example.org/public", "http://10.0.0.5:9000/in/"]


@pytest.mark.parametrize(
    ("url", "passes"),
    [
        ("https://media.example.org/public/a.mp4", True),
        ("https://media.example.org/public", True),
        ("http://10.0.0.5:9000/in/a.mp4", True),
        ("https://media.example.org/publicity/a.mp4", False),
        ("https://media.example.org/", False),
        ("https://media.example.org/public/../secret", False),
        ("https://media.example.org/public/%2e%2e/secret", False),
        ("https://media.example.org/public/..%2fsecret", False),
        ("http://media.example.org/public/a.mp4", False),
        ("https://media.example.org:8443/public/a.mp4", False),
        ("https://media.example.org.evil.net/public/a.mp4", False),
        ("https://evil.net/?https://media.example.org/public/", False),
        ("http://10.0.0.5/in/a.mp4", False),
    ],
)
def test_only_what_the_operator_allows_is_fetched(url, passes):
    def fetch() -> addresses.Place:
        return addresses.check(url, what="target", prefixes=PREFIXES, inner=True, resolve=OUT)

    if passes:
        assert fetch().url == url
    else:
        with pytest.raises(Refused, match=r"rule service\.urls"):
            fetch()


@given(url=st.text(max_size=60) | st.text(max_size=40).map("http://".__add__))
def test_nothing_else_is_raised(url):
    try:
        place = addresses.check(url, what="target", resolve=to("127.0.0.1"))
    except MienError:
        return
    raise AssertionError(f"{place} passed")


def test_the_system_resolves():
    assert "127.0.0.1" in addresses.resolve("localhost", 80)
    with pytest.raises(UsageError, match="cannot be found"):
        addresses.resolve("no-such-host.invalid", 80)


# --- what is fetched -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/in/../secret.mp4", "s3://bucket/in/./a.mp4", "s3://bucket/in//a.mp4",
     "s3://bucket/in/*.mp4", "s3://bucket/in/a?.mp4", "s3://bucket/in/[ab].mp4",
     "s3://bucket/in/{a,b}.mp4", "s3://bucket/in/a.mp4#frag", "s3://bucket/in/\\..\\a.mp4",
     "s3://bucket/in/a\n.mp4", "s3://other/in/a.mp4", "s3://bucket/inside/a.mp4", "s3://bucket/",
     "s3a://bucket/in/a.mp4", "S3://bucket/out/a.mp4", "simplecache::file:///etc/passwd",
     "simplecache::s3://bucket/in/a.mp4", "filecache::https://example.org/a", "zip://a::s3://b/c",
     "file:///etc/passwd", "file://in/a.mp4", "local:///etc/passwd", "/etc/passwd", "~/.ssh/id",
     "memory://in/a.mp4", "dir://in/a.mp4", "reference://in/a", "git://in/a.mp4",
     "ftp://bucket/in/a.mp4", "data:video/mp4,x", "github://o:r@main/a.mp4", ""],
)  # fmt: skip
def test_stores_give_only_what_the_operator_allows(url):
    with pytest.raises(MienError, match=r"^url: "):
        fetching.check(url, prefixes=["s3://bucket/in", "file:///"], inner=False, resolve=OUT)


def test_what_a_store_may_give():
    prefixes = ["s3://bucket/in"]
    assert fetching.check("s3://bucket/in/a/b.mp4", prefixes=prefixes, inner=False) is None


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "127.1", "0", "[::ffff:127.0.0.1]",
     "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::1]", "[::]", "localhost", "127.0.0.1."],
)  # fmt: skip
def test_other_spellings_of_inner_addresses_lead_inside_too(host):
    """By the system's own resolver, which knows them all."""
    with pytest.raises(MienError):
        addresses.check(f"http://{host}/", what="webhook")


class Answers(http.server.BaseHTTPRequestHandler):
    """Sends on to a secret, which it would give, too."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"]))
        if self.path == "/secret":
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"secret")
            return
        self.send_response(302)
        self.send_header("Location", "/secret")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def elsewhere():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_redirections_are_not_followed(elsewhere, tmp_path):
    base = f"http://127.0.0.1:{elsewhere.server_port}/"
    with pytest.raises(UsageError, match="answers with status 302"):
        fetching.fetch(f"{base}go", tmp_path / "a", prefixes=[base], inner=True, most=100)
    assert [path for path, _ in elsewhere.asked] == ["/go"]


def test_a_name_that_changes_its_mind_gains_nothing(elsewhere, tmp_path):
    """Looked up once; the connection goes to the address that was looked at."""
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    url = f"http://rebind.example:{elsewhere.server_port}/secret"
    fetching.fetch(
        url, tmp_path / "a", prefixes=[url], inner=True, most=100,
        resolve=lambda host, port: next(answers),
    )  # fmt: skip
    assert elsewhere.asked == [("/secret", f"rebind.example:{elsewhere.server_port}")]
    assert next(answers) == ["10.0.0.1"]  # nobody asked again
    with pytest.raises(Refused, match=r"rule service\.addresses"):
        fetching.fetch(
            url, tmp_path / "b", prefixes=[url], inner=False, most=100, resolve=to("127.0.0.1")
        )
    assert len(elsewhere.asked) == 1


def test_no_proxy_of_the_environment_is_asked(elsewhere, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{elsewhere.server_port}")
    url = "http://media.example:9/a"
    with pytest.raises(fetching.Unanswered):
        fetching.fetch(
            url, tmp_path / "a", prefixes=[url], inner=True, most=9, resolve=to("127.0.0.1")
        )
    assert elsewhere.asked == []
