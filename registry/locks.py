"""Locks on open files, which the system gives back however their holder dies."""

import errno
from typing import IO

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of some network disks


def locked(file: int | IO[str], *, shared: bool = False, wait: bool = False, optional: bool = False) -> bool:
    """Whether `file` is ours until it is closed; False: another process, or another opening of it, holds it.

    `shared`: with all who ask so, too. `wait`: until it is free. Where the disk knows no locks this raises OSError, and
    ImportError on Windows; if `optional`, it is everyone's there.
    """
    try:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError) as error:
        unknown = isinstance(error, ImportError) or error.errno in NO_LOCKS
        if not (optional and unknown):
            raise
    return True
