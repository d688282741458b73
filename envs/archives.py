"""Files of a folder or of a zip, which is taken to be hostile: members are read into memory, never unpacked."""

from __future__ import annotations

import os
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from metarl.envs.data import InvalidPictures, MissingData, UnsafeArchive

BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
"""What ``zipfile`` raises where a zip is truncated, damaged, or no zip."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How large an archive may be; far above any real data set, far below what harms a machine."""

    members: int = 2_000_000
    """Files and folders in it."""
    member_bytes: int = 64 * 2**20
    """Bytes of one file, unpacked."""
    total_bytes: int = 64 * 2**30
    """Bytes of all files together, unpacked."""


class Source(Protocol):
    """Named files, each of which can be read from any thread."""

    @property
    def path(self) -> Path:
        """The folder or the zip."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of all files, parts joined by ``/``, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one of ``names``."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(path: Path, limits: Limits | None = None) -> Source:
    """The files under a folder or in a zip.

    Raises:
        MissingData: if there is nothing at ``path``.
        UnsafeArchive: if it is a file and not a zip that may be trusted to be read.
    """
    limits = limits or Limits()
    if path.is_dir():
        return FolderSource(path, limits)
    if not path.exists():
        raise MissingData(f"data must be a folder or a zip; there is nothing at {str(path)!r}")
    return ZipSource(path, limits)


class FolderSource:
    """Files under a folder, at any depth; links are followed, each folder is visited once."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.limits = limits
        self.names = tuple(name for name, _, _ in folder_files(path))

    def read(self, name: str) -> bytes:
        """The bytes of one of ``names``."""
        file = self.path / name
        try:
            size = file.stat().st_size
            if size > self.limits.member_bytes:
                raise InvalidPictures(
                    f"files must have at most {self.limits.member_bytes} bytes; {str(file)!r} has {size}; "
                    "take it out, or make it smaller"
                )
            return file.read_bytes()
        except OSError as error:
            raise InvalidPictures(f"every file must be readable; got {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""


def folder_files(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change (ns) of every file under a folder, sorted by name.

    Raises:
        MissingData: if a folder may not be read.
    """
    found: list[tuple[str, int, int]] = []
    seen: set[tuple[int, int]] = set()
    pending = [(str(path), "")]
    try:
        while pending:
            folder, prefix = pending.pop()
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                _list_folder(folder, prefix, found, pending)
    except OSError as error:
        raise MissingData(f"every folder under {str(path)!r} must be readable; got {error}") from error
    return sorted(found)


def _list_folder(folder: str, prefix: str, found: list[tuple[str, int, int]], pending: list[tuple[str, str]]) -> None:
    """Add the files of one folder to ``found`` and its folders to ``pending``."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                pending.append((entry.path, f"{prefix}{entry.name}/"))
            elif entry.is_file():
                about = entry.stat()
                found.append((prefix + entry.name, about.st_size, about.st_mtime_ns))


class ZipSource:
    """Files in a zip, every member of which has been looked at before the first is read."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.limits = limits
        self._lock = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
        except BROKEN as error:
            raise UnsafeArchive(
                f"{str(path)!r} must be a whole zip archive; reading it failed: {error}; fetch or pack it anew"
            ) from error
        try:
            self._members = checked_members(self._zip.infolist(), path, limits)
        except UnsafeArchive:
            self._zip.close()
            raise
        self.names = tuple(sorted(self._members))

    def read(self, name: str) -> bytes:
        """The bytes of one of ``names``; ``zipfile`` stops at the declared size and compares the checksum.

        Raises:
            UnsafeArchive: if the member is damaged or is not as large as it says.
        """
        info = self._members[name]
        try:
            with self._lock, self._zip.open(info) as member:
                data = member.read(self.limits.member_bytes + 1)
        except BROKEN as error:
            raise UnsafeArchive(
                f"every member of {str(self.path)!r} must be whole; reading {name!r} failed: {error}; "
                "fetch or pack the archive anew"
            ) from error
        if len(data) != info.file_size:
            raise UnsafeArchive(
                f"members of {str(self.path)!r} must be as large as they say; {name!r} says {info.file_size} bytes "
                f"and has {len(data)}; fetch or pack the archive anew"
            )
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()


def checked_members(infos: list[zipfile.ZipInfo], path: Path, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by name.

    Raises:
        UnsafeArchive: if a name leads out of the archive or stands twice, a member is a link or encrypted or packed in
            an unusual way, or what they declare to unpack to is beyond ``limits``.
    """
    if len(infos) > limits.members:
        raise UnsafeArchive(f"{str(path)!r} must have at most {limits.members} members; got {len(infos)}")
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        fault = _fault(info, limits)
        if fault is None and info.filename in found:
            fault = "stands in it twice"
        if fault is not None:
            raise UnsafeArchive(f"{str(path)!r} must be a plain zip; its member {info.filename!r} {fault}")
        found[info.filename] = info
    _check_total(found.values(), path, limits)
    return {name: info for name, info in found.items() if not info.is_dir()}


def _fault(info: zipfile.ZipInfo, limits: Limits) -> str | None:
    """What is wrong with a member, so as to follow its name; None if nothing is."""
    name = info.orig_filename
    if not name or "\0" in name or "\\" in name or name.startswith("/") or name[1:2] == ":":
        return "has an absolute path, or one that is not of this system"
    if {"", ".", ".."} & set(name.removesuffix("/").split("/")):
        return "has a path that may lead out of the archive"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "must be stored or deflated; pack the archive anew"
    if info.file_size > limits.member_bytes:
        return f"would unpack to {info.file_size} bytes, more than the {limits.member_bytes} allowed"
    return None


def _check_total(infos: Iterable[zipfile.ZipInfo], path: Path, limits: Limits) -> None:
    total = sum(info.file_size for info in infos)
    if total > limits.total_bytes:
        raise UnsafeArchive(
            f"{str(path)!r} must unpack to at most {limits.total_bytes} bytes in all; its members declare {total}"
        )
