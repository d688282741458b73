"""Downloads from a server on this machine: whole, interrupted, resumed, wrong, and by two at a time."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import numpy as np
import pytest

from metarl.envs.data import DownloadFailed
from metarl.envs.downloads import ResumingDownloader, fetch

DATA = np.random.default_rng(0).bytes(300_000)
CHECKSUM = "md5:" + hashlib.md5(DATA).hexdigest()
QUICK = ResumingDownloader(attempts=3, pause=0.0, timeout=5.0)


class Behavior(NamedTuple):
    """What the server does with one request."""

    sends: int | None = None
    """Bytes before it closes the connection; all if None."""
    status: int | None = None
    """An error that it answers with."""
    ranges: bool = True
    """Whether it knows of ranges."""


class Server(ThreadingHTTPServer):
    """Serves ``data``, each request by the next behavior, later ones by the last."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.behaviors, self.starts = DATA, [Behavior()], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/set.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        behavior = server.behaviors[min(len(server.starts), len(server.behaviors) - 1)]
        wanted = self.headers.get("Range") if behavior.ranges else None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        server.starts.append(start)
        if behavior.status or start >= len(server.data):
            self.send_error(behavior.status or 416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(server.data) - start))
        self.end_headers()
        self.wfile.write(server.data[start:][: behavior.sends])

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server():
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "root" / "set.zip"


def kept(target):
    """Files beside the target but the lock."""
    return sorted(path.name for path in target.parent.iterdir() if path.suffix != ".lock")


def test_a_file_is_downloaded_once(server, target):
    fetch(server.url, target, CHECKSUM, QUICK)
    fetch(server.url, target, CHECKSUM, QUICK)
    assert target.read_bytes() == DATA
    assert server.starts == [0]
    assert kept(target) == ["set.zip"]


def test_an_interrupted_download_goes_on_where_it_stopped(server, target):
    server.behaviors = [Behavior(sends=100_000), Behavior(sends=50_000), Behavior()]
    fetch(server.url, target, CHECKSUM, QUICK)
    assert target.read_bytes() == DATA
    assert server.starts == [0, 100_000, 150_000]


def test_a_later_call_goes_on_with_what_an_earlier_one_left(server, target):
    server.behaviors = [Behavior(sends=100_000), *[Behavior(sends=0)] * 3, Behavior()]
    with pytest.raises(DownloadFailed, match="ended early; 100000 bytes are kept and need not come again; try again"):
        fetch(server.url, target, CHECKSUM, QUICK)
    assert kept(target) == ["set.zip.part"]
    fetch(server.url, target, CHECKSUM, QUICK)
    assert target.read_bytes() == DATA
    assert server.starts == [0, *[100_000] * 4]


def test_a_server_that_knows_no_ranges_sends_everything_again(server, target):
    server.behaviors = [Behavior(sends=100_000), Behavior(ranges=False)]
    fetch(server.url, target, CHECKSUM, QUICK)
    assert target.read_bytes() == DATA


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server, target):
    target.parent.mkdir()
    target.with_name("set.zip.part").write_bytes(bytes(400_000))
    fetch(server.url, target, CHECKSUM, QUICK)
    assert target.read_bytes() == DATA
    assert server.starts == [400_000, 0]


def test_a_wrong_file_is_refused_and_removed_and_the_next_call_starts_anew(server, target):
    server.data = bytes(1000)
    with pytest.raises(DownloadFailed, match=rf"must have the checksum {CHECKSUM}, .* so it was removed; try again"):
        fetch(server.url, target, CHECKSUM, QUICK)
    assert kept(target) == []
    server.data = DATA
    fetch(server.url, target, CHECKSUM, QUICK)
    assert target.read_bytes() == DATA


def test_a_part_of_another_file_is_found_out_by_the_checksum(server, target):
    target.parent.mkdir()
    target.with_name("set.zip.part").write_bytes(bytes(1000))
    with pytest.raises(DownloadFailed, match="must have the checksum"):
        fetch(server.url, target, CHECKSUM, QUICK)
    assert kept(target) == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_servers_refusal_is_said_with_what_to_do(server, target, status):
    server.behaviors = [Behavior(status=status)]
    with pytest.raises(DownloadFailed, match=rf"the server says {status} .*put the file at '.*/root/set\.zip' by hand"):
        fetch(server.url, target, CHECKSUM, QUICK)
    assert kept(target) == []


def test_no_server_is_said(server, target):
    url = server.url.replace(str(server.server_port), "1")
    with pytest.raises(DownloadFailed, match=r"could not download http://127\.0\.0\.1:1/set\.zip: .*refused"):
        fetch(url, target, CHECKSUM, QUICK)


def test_a_place_that_cannot_be_written_is_said(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadFailed, match=r"must be stored as .*writing failed"):
        fetch(server.url, tmp_path / "file" / "set.zip", CHECKSUM, QUICK)


def test_two_at_a_time_download_once(server, target):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: fetch(server.url, target, CHECKSUM, QUICK), range(2)))
    assert target.read_bytes() == DATA
    assert server.starts == [0]
