"""What a process takes from itself before it runs a stranger's code: memory, the right to write, the network.

Linux only, and there as far as the kernel goes: Landlock came with 5.13 (writing) and 6.7 (TCP). Elsewhere the memory
limit alone remains, and the cleaned environment.
"""

import ctypes
import os
import resource
import struct
import sys
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls of Landlock, of one number on every machine
PR_SET_NO_NEW_PRIVS = 38
WRITE_FILE = 1 << 1
CHANGES = WRITE_FILE | sum(1 << bit for bit in range(4, 13))  # write, remove, make of every kind
REFER, TRUNCATE = 1 << 13, 1 << 14  # known since version 2 and 3
TCP = 0b11  # bind and connect, since version 4


def limit_memory(more: int) -> None:
    """At most `more` bytes of address space on top of today's."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) if sys.platform == "linux" else 0
    limit = pages * resource.getpagesize() + more
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def confine_writing(folder: Path) -> bool:
    """From now on nothing is written outside of `folder`, and no TCP connection made; False where that cannot be.

    It holds for this thread and all that it will start, so call it before there are others.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    handled = CHANGES | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    wanted = struct.pack("=QQ", handled, TCP) if version >= 4 else struct.pack("=Q", handled)
    rules = libc.syscall(CREATE_RULESET, wanted, len(wanted), 0)
    if rules < 0:
        return False
    allowed = [_allow(libc, rules, folder, handled), _allow(libc, rules, Path(os.devnull), WRITE_FILE)]
    done = (
        all(allowed) and not libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) and not libc.syscall(RESTRICT_SELF, rules, 0)
    )
    os.close(rules)
    return done


def _allow(libc: ctypes.CDLL, rules: int, path: Path, access: int) -> bool:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return not libc.syscall(ADD_RULE, rules, 1, struct.pack("=Qi", access, place), 0)
    finally:
        os.close(place)
