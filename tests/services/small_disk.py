"""A disk of a few megabytes, to be filled."""

from __future__ import annotations

import errno
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services import give_up


class SmallDisk:
    """A file system in memory. `fill` leaves not a byte of it, `free` gives it back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as file:
            for size in (1_048_576, 4_096, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        self._filler.unlink()


@contextmanager
def small_disk(megabytes: int) -> Iterator[SmallDisk]:
    """Gives the test up, with the reason, without the right to mount."""
    with tempfile.TemporaryDirectory(prefix="streamstores-disk-", dir="/tmp") as folder:
        size = f"size={megabytes}m,mode=0777"
        command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as exc:
            give_up("small-disk", getattr(exc, "stderr", exc))
        try:
            yield SmallDisk(Path(folder))
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
