"""Imports point one way, and what must have one owner has one."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "mien"

LAYERS = (
    {"types", "errors", "home", "signing", "heap"},
    {"geometry", "runtime", "precision", "zoo", "config", "media"},
    {"detect", "landmarks", "embed", "track", "tracks", "motion", "generate", "mask", "blend",
     "enhance", "upscale", "quality", "segment", "fuse", "portrait", "eyes", "shape", "occlude"},
    {"identity", "provenance", "policy", "audit", "deny", "classify", "gate", "notice"},
    {"pipeline"},
    {"parts"},
    {"api"},
    {"live", "bench", "scale", "doctor", "evaluate"},
    {"serve", "train", "quantize"},
    {"service"},
    {"cli"},
    {"__main__"},
)  # fmt: skip
"""Lowest first. A module imports from its own layer and those below, without cycles."""

APART = {"live", "bench", "scale", "doctor", "evaluate"}
"""Engines and tools on top of the pipeline that do not import each other."""

OWNERS = {
    "onnxruntime": {"runtime", "precision"},
    "onnx": {"precision", "fuse", "train", "bench"},
    "pooch": {"zoo"},
    "c2pa": {"provenance"},
    "av": {"media", "serve", "bench"},
    "torch": {"train"},
    "typer": {"cli"},
    "aiortc": {"serve"},
    "fastapi": {"serve", "service"},
    "sqlalchemy": {"service"},
    "alembic": {"service"},
    "fsspec": {"service"},
    "prometheus_client": {"service"},
    "httpx": {"service"},
    "ray": {"scale"},
    "keyring": {"identity"},
    "platformdirs": {"home"},
    "sqlite3": {"identity"},
    "pydantic": {"config", "policy", "audit", "provenance", "serve", "service", "bench"},
}
"""Third-party package → the modules that may import it."""

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """``media`` for ``mien/media/sink.py``; ``mien`` for the package's own ``__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "mien" if parts == ("__init__",) else parts[0]


MODULES = sorted({module_of(path) for path in FILES} - {"mien"})


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, anywhere in it; ``mien.x`` for ``from mien import x``."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "mien":
                yield from (f"mien.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def own_imports(module: str) -> set[str]:
    """The modules of mien that a module imports, itself left out."""
    found = set()
    for path in FILES:
        if module_of(path) == module:
            names = (n.split(".") for n in imported(path))
            found |= {n[1] for n in names if n[0] == "mien" and len(n) > 1}
    return (found & set(MODULES)) - {module}


def layer(module: str) -> int:
    return next(n for n, names in enumerate(LAYERS) if module in names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    assert any(module in names for names in LAYERS), f"{module} is in no layer of LAYERS"
    up = {other for other in own_imports(module) if layer(other) > layer(module)}
    assert not up, f"{module} imports {up} from above"


def test_no_cycles():
    TopologicalSorter({module: own_imports(module) for module in MODULES}).prepare()


def test_tools_do_not_import_each_other():
    for module in APART & set(MODULES):
        assert not own_imports(module) & APART, f"{module} imports another tool"


@pytest.mark.parametrize("package", OWNERS)
def test_one_owner(package):
    users = {module_of(p) for p in FILES if any(n.split(".")[0] == package for n in imported(p))}
    assert users <= OWNERS[package]


def test_types_import_numpy_and_errors_only():
    names = {name.split(".")[0] for name in imported(PACKAGE / "types.py")}
    own = {"__future__", "collections", "dataclasses", "datetime", "fractions", "typing"}
    assert names - own == {"numpy", "mien"}
    assert own_imports("types") == {"errors"}


def test_only_the_command_line_exits():
    for path in FILES:
        if module_of(path) == "cli":
            continue
        for node in ast.walk(tree(path)):
            named = isinstance(node, ast.Name) and node.id in ("exit", "quit", "SystemExit")
            dotted = isinstance(node, ast.Attribute) and node.attr in ("exit", "_exit")
            leaves = named or dotted
            assert not leaves, f"{path}:{node.lineno} leaves the program"


def test_bgr_exists_only_where_files_are_read_and_written():
    for path in FILES:
        if module_of(path) == "media":
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute):
                assert "BGR" not in node.attr, f"{path}:{node.lineno} converts to or from BGR"
                assert node.attr not in ("imread", "imwrite", "VideoCapture"), f"{path}: use media"


def test_no_file_is_a_heap():
    """A stage that grows past 500 lines becomes a package of the same name."""
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in FILES}
    stages = LAYERS[2] | LAYERS[3]
    assert not {p.name: n for p, n in lines.items() if module_of(p) in stages and n > 500}


def test_names_say_what_is_in_them():
    names = [p.stem for p in FILES]
    names += [n.name for p in FILES for n in ast.walk(tree(p)) if isinstance(n, ast.ClassDef)]
    assert not [n for n in names if n in ("utils", "helpers", "common", "misc")]
    assert not [n for n in names if n.endswith(("Manager", "Factory", "Base"))]
