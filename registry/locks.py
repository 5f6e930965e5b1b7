"""Locks on open files, which the system gives back however their holder dies."""

import errno
from contextlib import suppress
from typing import IO

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of some network disks


def locked(file: int | IO[str], *, shared: bool = False, wait: bool = False) -> bool:
    """Whether `file` is ours until it is closed; False: another process, or another opening of it, holds it.

    `shared`: with all who ask so, too. `wait`: until it is free. Where no locks are known, everyone gets it.
    """
    with suppress(ImportError):  # Windows
        import fcntl

        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return True
