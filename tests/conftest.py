"""Fixtures that most tests share, and the rule about skipped tests.

With ``MIEN_TEST_NO_SKIPS=1`` (CI sets it) a skipped test fails, unless it has a marker of
:data:`MAY_SKIP`. Tests of training need torch, which only those install who train: without it
they are left out, and the header says so.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mien import heap

if TYPE_CHECKING:
    from mien.pipeline import Swapper
    from serviceserver import Running

ROOT = Path(__file__).resolve().parents[1]
MAY_SKIP = ("gpu", "browser", "ray", "system")
"""Markers of tests that may be skipped in any case: what they need cannot be had everywhere."""

NO_SKIPS = os.environ.get("MIEN_TEST_NO_SKIPS") == "1"
collect_ignore = [] if find_spec("torch") else ["test_train_relight.py", "test_train_occlusion.py"]


def pytest_report_header() -> list[str]:
    """Say what was left out."""
    return [f"no torch, left out: {', '.join(collect_ignore)}"] if collect_ignore else []


def pytest_configure(config: pytest.Config) -> None:
    """Let tests interrupt what they start, and keep what they cache out of the user's folder."""
    cache = tempfile.TemporaryDirectory(prefix="mien-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(cache.cleanup)
    os.environ["XDG_CACHE_HOME"] = cache.name
    # A server in this process would look through what thousands of tests leave, every few seconds.
    heap.EVERY = 1e6
    # A shell's background jobs inherit a deaf SIGINT.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A command that ran in this process leaves mien's log set up for a terminal."""
    logger = logging.getLogger("mien")
    before = logger.level, logger.propagate, list(logger.handlers)
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.handlers = before[1], before[2]


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a folder of its own for what mien keeps, and no keyring."""
    monkeypatch.setenv("MIEN_HOME", str(tmp_path_factory.mktemp("home", numbered=True)))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")


@pytest.fixture(scope="module")
def without_watermark() -> Iterator[None]:
    """For pictures that are compared to the level: every output has a watermark of its own."""
    from mien.provenance.watermark import Watermark

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watermark, "write", lambda *_: None)
        yield


@pytest.fixture
def set_policy(_own_home: None) -> Callable[[str], Path]:
    """Put a policy.toml in force for this test; gives its path."""
    path = Path(os.environ["MIEN_HOME"]) / "policy.toml"

    def write(text: str) -> Path:
        path.write_text(text, "utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def footage() -> Path:
    """The folder of real footage; a test that uses it is skipped where there is none."""
    folder = Path(os.environ.get("MIEN_TEST_MEDIA") or ROOT.parent / "shared" / "media")
    if not folder.is_dir():
        pytest.skip(f"no footage in {folder}; name a folder with MIEN_TEST_MEDIA")
    return folder


@pytest.fixture(scope="session")
def examples() -> Path:
    """The bundled media, which show nobody who exists."""
    return ROOT / "examples" / "media"


@pytest.fixture(scope="session")
def swapper() -> Swapper:
    """The default stages, loaded once; frozen, so tests may share it."""
    # Imported here, so that a test of one stage needs no more than that stage.
    from mien import pipeline

    return pipeline.load()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if not any(item.get_closest_marker(name) for name in MAY_SKIP):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which MIEN_TEST_NO_SKIPS forbids: {report.longrepr}"


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real ``mien serve`` for all tests that leave it as it is; keys of ``ann`` and ``bob``."""
    from serviceserver import serving

    folder = tmp_path_factory.mktemp("service")
    more = {"MIEN_HOME": str(folder / "home")}
    with serving(folder, quotas="calls=0 jobs=1000", inner_addresses="1", environment=more) as made:
        yield made
