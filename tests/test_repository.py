"""The repository itself: its size, its versions, and that what its pages point at exists."""

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

import mien

ROOT = Path(__file__).resolve().parents[1]
LIMIT_TREE = 60_000_000
LIMIT_FILE = 12_000_000
LIMIT_MODELS = 25_000_000
LIMIT_EXAMPLES = 3_000_000

NOT_OURS = {".git", ".venv", "build", "demo", "dist", "site", "out", ".mypy_cache", ".ruff_cache",
            ".pytest_cache", ".hypothesis", "__pycache__"}  # fmt: skip


@cache
def files() -> tuple[Path, ...]:
    """What git tracks; in a tree without git, all that is not built."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout.split("\0")
        found = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        found = [p for p in ROOT.rglob("*") if not NOT_OURS & set(p.relative_to(ROOT).parts)]
    return tuple(sorted(p for p in found if p.is_file()))


def size(folder: Path) -> int:
    return sum(p.stat().st_size for p in files() if p.is_relative_to(folder))


def pages() -> list[Path]:
    return [p for p in files() if p.suffix == ".md"]


@pytest.mark.parametrize(
    ("folder", "limit"),
    [(".", LIMIT_TREE), ("src/mien/models", LIMIT_MODELS), ("examples/media", LIMIT_EXAMPLES)],
)
def test_size(folder, limit):
    assert size(ROOT / folder) <= limit


def test_no_large_file():
    assert not [p for p in files() if p.stat().st_size > LIMIT_FILE]


def test_changelog_and_version_agree():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == mien.__version__


def test_requirements_name_no_index_and_pin_all():
    text = (ROOT / "requirements-dev.txt").read_text("utf-8")
    assert "://" not in text
    assert "index-url" not in text
    pins = [line for line in text.splitlines() if line[:1].isalnum()]
    assert pins
    assert all("==" in line for line in pins)
    assert len(re.findall(r"\\\n    --hash=sha256:", text)) >= len(pins)


def test_requirements_hold_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    # `make dev` goes without torch, which is larger than all the rest together.
    taken = [need for name, extra in extras.items() if name != "train" for need in extra]
    wanted = [*project["dependencies"], *taken]
    names = {re.split(r"[\[>=<~! ]", need)[0] for need in wanted} - {"mien"}
    pinned = re.findall(
        r"^([\w.-]+)==", (ROOT / "requirements-dev.txt").read_text("utf-8"), re.MULTILINE
    )
    assert names <= set(pinned)


def links(page: Path) -> list[str]:
    """Targets of links and pictures in a page, without those that leave the repository."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    found = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)", text)
    found += re.findall(r'<(?:img|source|a)\b[^>]*?(?:src|href)="([^"]+)"', text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name} links to {link}"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_named_in_pages_exist(page):
    """Paths in code font that begin with a folder of the repository."""
    text = page.read_text("utf-8")
    folders = "src|tests|docs|scripts|examples|deploy|\\.ci"
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z][\w-]*):", text, re.MULTILINE))


@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_in_pages_exist(page):
    text = page.read_text("utf-8")
    named = re.findall(r"^\s*(?:\$ )?make ([a-z]+)", text, re.MULTILINE)
    named += re.findall(r"`make ([a-z ]+)`", text)
    assert {target for names in named for target in names.split()} <= make_targets()


def test_ci_runs_the_commands_of_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    for command in ("make demo", "make test"):
        assert re.search(rf"^{command}\b", readme, re.MULTILINE)
        assert re.search(rf"^{command}$", ci, re.MULTILINE)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_every_page_can_be_reached():
    docs = ROOT / "docs"
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    decisions = (docs / "decisions" / "README.md").read_text("utf-8")
    for page in pages():
        if page.is_relative_to(docs / "decisions") and page.name != "README.md":
            assert f"]({page.name})" in decisions
        elif page.is_relative_to(docs):
            assert f" {page.relative_to(docs)}\n" in navigation
