"""The server's process needs no pixels: it starts quickly and stays small."""

import json
import subprocess
import sys

import pytest

from material import environment

HEAVY = ("cv2", "onnxruntime", "av", "c2pa", "fsspec", "ray", "scipy", "torch", "aiortc")


def loaded(*modules):
    """Which of the heavy packages are there after an import, in a new interpreter."""
    program = (
        f"import json, sys, {', '.join(modules)}\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, env=environment(), check=True, timeout=60,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_the_server_imports_neither_opencv_nor_onnx_runtime():
    assert loaded("mien.cli.serve", "mien.service.application", "mien.service.supervisor") == []


@pytest.mark.parametrize("module", ["mien.config", "mien.identity.permitting", "mien.media"])
def test_what_it_stands_on_does_not_either(module):
    assert loaded(module) == []


def test_the_look_finds_what_is_there():
    assert "cv2" in loaded("mien.media.images")
