import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, os
from cifar_pl import hardware
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def kept():
    before, size = resident(), 100 << 20
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(ctypes.c_void_p(block))
    return (resident() - before) / size
print(kept())
hardware.keep_memory()
print(kept())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what it sets is glibc's")
def test_a_freed_block_stays_where_asked_for() -> None:
    out = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
    assert [float(line) for line in out.split()] == pytest.approx([0, 1], abs=0.2)
