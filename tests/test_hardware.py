import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, os, sys
from cifar_pl import hardware
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
if sys.argv[1] == "keep":
    hardware.keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
before, size = resident(), 100 << 20
block = libc.malloc(ctypes.c_size_t(size))
ctypes.memset(block, 1, size)
libc.free(ctypes.c_void_p(block))
print((resident() - before) / size)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what it sets is glibc's")
@pytest.mark.parametrize(("mode", "kept"), [("keep", 1), ("leave", 0)])
def test_a_freed_block_stays_where_asked_for(mode: str, kept: int) -> None:
    out = subprocess.run([sys.executable, "-c", SCRIPT, mode], check=True, capture_output=True, text=True).stdout
    assert float(out) == pytest.approx(kept, abs=0.2)
