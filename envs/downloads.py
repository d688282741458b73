"""Fetching data sets: a download that was cut off goes on where it stopped, and a wrong file is not kept."""

from __future__ import annotations

import fcntl
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metarl.envs.data import DownloadFailed

CHUNK = 1 << 16
"""Bytes read at a time."""

MAX_BYTES = 2**30
"""Of one file; no data set fetched here comes near it."""


def fetch(url: str, target: Path, checksum: str, downloader: ResumingDownloader | None = None) -> None:
    """Download ``url`` to ``target`` unless that is there; a second process waits for the first.

    Args:
        url: where the file is.
        target: where it shall be; until it is whole it is beside it as ``.part``.
        checksum: as pooch writes them, ``md5:...`` or ``sha256:...``; compared with what was downloaded only.
        downloader: how, if not by a ``ResumingDownloader``.

    Raises:
        DownloadFailed: if it cannot be fetched or stored, or has another checksum; then nothing is left of it.
    """
    import pooch

    downloader = downloader or ResumingDownloader()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.with_name(f".{target.name}.lock")):
            if not target.exists():
                pooch.retrieve(
                    url, known_hash=checksum, fname=target.name, path=target.parent, downloader=downloader.to(target)
                )
    except DownloadFailed:
        raise
    except ValueError as error:  # pooch's word for a wrong checksum; the bad file is removed by then
        raise DownloadFailed(
            f"{url} must have the checksum {checksum}, and what came has another, so it was removed; try again, or "
            f"put the right file at {str(target)!r} by hand"
        ) from error
    except OSError as error:
        raise DownloadFailed(f"{url} must be stored as {str(target)!r}; writing failed: {error}") from error


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, kw_only=True)
class ResumingDownloader:
    """Downloads over HTTP into a ``.part`` file that a later attempt, or a later process, goes on with."""

    attempts: int = 5
    """Connections that may break, without a byte having come, before giving up."""
    pause: float = 1.0
    """Wait before another attempt (s)."""
    timeout: float = 30.0
    """Longest silence of the server (s)."""

    def to(self, target: Path) -> Callable[[str, str, object], None]:
        """The function that pooch calls; what it leaves unfinished lies beside ``target``."""
        part = target.with_name(f"{target.name}.part")

        def download(url: str, output_file: str, _pooch: object) -> None:
            with _bar(f"downloading {target.name}") as report:
                self._fill(url, part, report)
            os.replace(part, output_file)

        return download

    def _fill(self, url: str, part: Path, report: Callable[[int, int | None], None]) -> None:
        """Bring ``part`` to its full length."""
        failures = 0
        while True:
            before = _size(part)
            try:
                if self._transfer(url, part, report):
                    return
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                if error.code != 416:  # what is there is longer than the file: it is another one
                    raise _unreachable(url, f"the server says {error.code} {error.reason}", part) from error
                part.unlink(missing_ok=True)
                reason = "the part that was there did not fit"
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = str(error)
            failures = 0 if _size(part) > before else failures + 1
            if failures >= self.attempts:
                raise _unreachable(url, reason, part)
            time.sleep(self.pause)

    def _transfer(self, url: str, part: Path, report: Callable[[int, int | None], None]) -> bool:
        """One connection; whether the file is whole after it."""
        start = _size(part)
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            goes_on = start > 0 and response.status == 206
            done = start if goes_on else 0
            length = response.headers.get("Content-Length")
            total = done + int(length) if length is not None else None
            with part.open("ab" if goes_on else "wb") as file:
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    report(done, total)
                    if done > MAX_BYTES:
                        raise DownloadFailed(f"{url} must have at most {MAX_BYTES} bytes; more came; remove {part}")
        return total is None or done == total


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _unreachable(url: str, reason: str, part: Path) -> DownloadFailed:
    kept = f"; {_size(part)} bytes are kept and need not come again" if _size(part) else ""
    return DownloadFailed(
        f"could not download {url}: {reason}{kept}; try again, or put the file at {str(part.with_suffix(''))!r} by hand"
    )


@contextmanager
def _bar(meaning: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, nothing elsewhere; told the bytes that are there and, where known, all."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(meaning, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
