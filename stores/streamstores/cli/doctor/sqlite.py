"""What `doctor` looks at on SQLite: the library, and the file and its file system."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from streamstores.backends._sqlite.database import has_wal_reset_bug
from streamstores.cli.doctor.findings import Finding, error, note, warning

__all__ = ["examine", "file_system_of"]

_MOUNTS = Path("/proc/self/mounts")
_NETWORK = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "gfs2"}
    | {"glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)
_LITTLE_BYTES = 1 << 30
_QUICK_BYTES = 256 << 20  # read within seconds


async def examine(url: str) -> list[Finding]:
    """The findings, without changing anything. Reads the whole file if it is small."""
    return await asyncio.to_thread(_examine, url)


def _examine(url: str) -> list[Finding]:
    """Runs in a thread."""
    path = Path(unquote(urlsplit(url).path)[1:]).absolute()
    findings = _about_library()
    findings += _about_file_system(path)
    if path.exists():
        findings += _about_access(path)
        findings += _about_content(path)
    else:
        meaning = f"{path} does not exist; opening the store makes it"
        findings.append(
            note("sqlite.new_file", meaning, "check the path if this is a surprise")
        )
    return findings


def _about_library() -> list[Finding]:
    """Whether this SQLite has a bug that corrupts files."""
    if not has_wal_reset_bug(sqlite3.sqlite_version_info):
        return []
    return [
        warning(
            "sqlite.wal_reset_bug",
            f"SQLite {sqlite3.sqlite_version} can, very rarely, corrupt a file that several "
            "connections write (https://www.sqlite.org/wal.html#walresetbug)",
            "use a Python with SQLite 3.51.3, 3.50.7 or 3.44.6, or a later one",
        )
    ]


def _about_file_system(path: Path) -> list[Finding]:
    """Where the file is, and how much room there is."""
    folder = path.parent
    if not folder.is_dir():
        return []  # opening the store says so
    findings: list[Finding] = []
    mounts = _MOUNTS.read_text(encoding="utf-8") if _MOUNTS.exists() else ""
    kind = file_system_of(os.path.realpath(folder), mounts)
    if kind in _NETWORK:
        findings.append(
            error(
                "sqlite.network_file_system",
                f"{folder} is on {kind}. WAL mode needs memory that all processes share, so "
                "processes on two machines corrupt the file",
                "move the file to a disk of one machine, or take Postgres or Redis",
            )
        )
    if kind in ("tmpfs", "ramfs"):
        meaning = f"{folder} is on {kind}: a restart of the machine loses all streams"
        findings.append(warning("sqlite.memory", meaning, "move the file to a disk"))
    free = shutil.disk_usage(folder).free
    if free < _LITTLE_BYTES:
        findings.append(
            warning(
                "sqlite.little_space",
                f"{free >> 20} MiB are free on the disk. When it is full, appends fail and "
                "only reads work",
                "make room, or lower the ttl of the streams",
            )
        )
    return findings


def file_system_of(path: str, mounts: str) -> str:
    """The type of the file system that has this absolute path; "" if it is not known.

    `mounts` is the text of `/proc/self/mounts`.
    """
    found, longest = "", -1
    for line in mounts.splitlines():
        _, mount_point, kind, *_ = line.split(" ")
        point = mount_point.replace("\\040", " ").rstrip("/")
        # The last of two mounts at one place is the one that is seen.
        if (path == point or path.startswith(f"{point}/")) and len(point) >= longest:
            found, longest = kind, len(point)
    return found


def _about_access(path: Path) -> list[Finding]:
    """Who may read and write the file."""
    findings: list[Finding] = []
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        meaning = f"this user may not write {path} or its folder, where SQLite keeps the WAL"
        advice = "run as the user of the application, or give this user the rights"
        findings.append(error("sqlite.not_writable", meaning, advice))
    if path.stat().st_mode & stat.S_IROTH:
        meaning = f"every user of this machine may read {path}, so all streams"
        findings.append(note("sqlite.readable_by_all", meaning, f"chmod o= {path}"))
    return findings


def _about_content(path: Path) -> list[Finding]:
    """Whether SQLite finds the file whole."""
    if path.stat().st_size > _QUICK_BYTES:
        advice = "run PRAGMA quick_check on a copy"
        return [note("sqlite.not_checked", "the file is too large to be checked here", advice)]
    try:
        # Opened for writing, because a reader may have to recover the WAL; `rw` makes no file.
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)
        try:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.DatabaseError as exc:
        verdict = str(exc)
    if verdict == "ok" or "unable to open" in verdict or "readonly" in verdict:
        return []
    if "locked" in verdict:
        advice = "repeat the command when the store is less busy"
        return [note("sqlite.not_checked", "another process keeps the file locked", advice)]
    return [
        error(
            "sqlite.damaged",
            f"the file is damaged: {verdict}",
            "stop the processes, keep a copy, and put the last backup in its place",
        )
    ]
