"""Which addresses the service goes to, and which it never does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.errors import MienError, Refused, UsageError
from mien.service import addresses


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
