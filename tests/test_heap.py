"""What a process has freed goes back to the system."""

import subprocess
import sys

import pytest

from mien import heap

WORK = """
import ctypes, sys, time
from pathlib import Path
from mien import heap

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

if not hasattr(ctypes.CDLL(None), "malloc_trim"):
    sys.exit(77)
heap.EVERY = 0.1
if sys.argv[1] == "small":
    heap.keep_small()
    heap.keep_small()
before = held()
bodies = [bytearray(b"x" * 60_000) for _ in range(3000)]  # 172 MiB, below what is mapped alone
full = held() - before
del bodies[0::2], bodies[0::2]  # what stays lies between
time.sleep(0.1)
until = time.monotonic() + (10 if sys.argv[1] == "small" else 0.5)
while held() - before > full // 2 and time.monotonic() < until:
    time.sleep(0.05)
print(full, held() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_lies_between_others_is_given_back() -> None:
    def run(how: str) -> tuple[int, int]:
        done = subprocess.run(  # noqa: PLW1510 - told apart below
            [sys.executable, "-c", WORK, how], capture_output=True, text=True, timeout=60
        )
        if done.returncode == 77:
            pytest.skip("the C library has no malloc_trim")
        assert done.returncode == 0, done.stderr
        full, left = map(int, done.stdout.split())
        return full, left

    full, left = run("small")
    assert full > 150
    assert left < full / 2  # a quarter is in use
    full, left = run("as ever")
    assert left > full / 2  # else this would test nothing


CIRCLES = """
import gc, sys, time, weakref
from mien import heap

class Picture:
    pass

heap.EVERY = 0.1
heap.keep_small()
gc.disable()  # as if too little was made for a collection
if sys.argv[1] == "settled":
    heap.settle()
picture = Picture()
picture.own = picture
known = weakref.ref(picture)
del picture
until = time.monotonic() + (10 if sys.argv[1] == "settled" else 0.5)
while known() is not None and time.monotonic() < until:
    time.sleep(0.05)
print(known() is None)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="heap is glibc's")
def test_circles_go_too_once_all_is_loaded() -> None:
    for how, gone in (("settled", "True"), ("not yet", "False")):
        done = subprocess.run(
            [sys.executable, "-c", CIRCLES, how],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.strip() == gone


LARGE = """
import resource, sys
import numpy as np
from mien import heap

if sys.argv[1] == "large":
    heap.keep_large()
for _ in range(3):
    np.ones(50 << 20, np.uint8)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(50 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or heap._c_library() is None, reason="needs glibc"
)
def test_what_is_asked_for_again_is_kept() -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", LARGE, how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return int(done.stdout)

    assert faults("large") * 10 < faults("as ever")
