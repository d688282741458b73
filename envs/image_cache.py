"""Pictures decoded once into a file of bytes, from which episodes are gathered without reading it whole."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.envs.archives import Source, folder_files, open_source
from metarl.envs.data import CacheNotWritten, DataError, InvalidPictures

FORMAT = 1
"""Of the cache; another number makes caches of before be built anew."""

MAX_PIXELS = 50_000_000
"""Of one picture before it is resized; a larger one is taken for a decompression bomb."""

DECODERS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP")
"""Formats that Pillow may try; few, since each is code that reads what strangers wrote."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".webp")
"""Files that are taken for pictures, by the end of their names."""

BATCH = 256
"""Pictures decoded before they are written; what bounds the memory."""

PROBES = 64
"""Pictures whose bytes a cache is judged by when it is opened."""


class Entry(NamedTuple):
    """One picture of a data set."""

    split: str
    """``train``, ``val`` or ``test``, the part of the set it comes from, or nothing."""
    label: str
    """Its class."""
    name: str
    """Its path in the source."""


class Layout(NamedTuple):
    """How pictures and classes are found in a source."""

    name: str
    """Tells caches of different layouts apart."""
    entries: Callable[[Source], list[Entry]]
    """The pictures of a source."""


class Form(NamedTuple):
    """What a picture is turned into."""

    size: int
    """Height and width (pixels); resized by Pillow's Lanczos filter, without cropping."""
    channels: int
    """1 for gray, 3 for RGB."""
    inverted: bool = False
    """Whether black becomes 255."""


class PictureClass(NamedTuple):
    """Pictures of one class, which lie next to each other."""

    split: str
    label: str
    size: int


class Pictures(NamedTuple):
    """All pictures of a data set."""

    images: NDArray[np.uint8]
    """``[N, channels, size, size]``, mapped from a file, read only."""
    classes: tuple[PictureClass, ...]
    """Sorted by split and label; their pictures follow each other in ``images`` in this order."""


def load_pictures(
    paths: Sequence[Path], layout: Layout, form: Form, folder: Path, threads: int | None = None
) -> Pictures:
    """The pictures of folders or zips, from the cache if it is whole, else decoded and stored there.

    Args:
        paths: sources, whose pictures are put together.
        layout: how they are laid out.
        form: what each picture is turned into.
        folder: where caches lie.
        threads: that decode; any number gives the same pictures in the same order.

    Raises:
        DataError: if a source is missing, unsafe or holds a broken picture, or the cache cannot be written.
    """
    key = fingerprint(paths, layout, form)
    target = folder / f"pictures-{key[:32]}"
    return open_cache(target, key) or _build(paths, layout, form, target, key, threads or min(8, os.cpu_count() or 1))


def fingerprint(paths: Sequence[Path], layout: Layout, form: Form) -> str:
    """Changes whenever a source, its layout or the form asked for does; a source by path, sizes and times of change."""
    digest = hashlib.sha256(repr((FORMAT, layout.name, tuple(form))).encode())
    for path in paths:
        with suppress(FileNotFoundError):  # said better by the one who opens it
            status = path.stat()
            files: list[Any] = folder_files(path) if path.is_dir() else [(status.st_size, status.st_mtime_ns)]
            digest.update(repr((str(path.resolve()), files)).encode())
    return digest.hexdigest()


def open_cache(target: Path, key: str) -> Pictures | None:
    """The cache at ``target`` with suffixes ``.npy`` and ``.json``; None unless it is whole and made for ``key``."""
    try:
        index = json.loads(target.with_suffix(".json").read_text())
        images = np.load(target.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        classes = tuple(PictureClass(str(split), str(label), int(size)) for split, label, size in index["classes"])
        whole = (
            (index["format"], index["key"], index["shape"]) == (FORMAT, key, list(images.shape))
            and images.dtype == np.uint8
            and sum(each.size for each in classes) == len(images)
            and index["probe"] == probe(images)
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return Pictures(images, classes) if whole else None


def probe(images: NDArray[np.uint8]) -> int:
    """Checksum of pictures spread over all, the first and the last among them."""
    rows = np.unique(np.linspace(0, len(images) - 1, PROBES).astype(np.int64))
    return zlib.crc32(np.ascontiguousarray(images[rows]).tobytes())


def _build(paths: Sequence[Path], layout: Layout, form: Form, target: Path, key: str, threads: int) -> Pictures:
    """Decode everything, store it, and open what was stored."""
    with ExitStack() as stack:
        sources = [stack.enter_context(open_source(path)) for path in paths]
        found = [(entry, source) for source in sources for entry in layout.entries(source)]
        found.sort(key=lambda pair: pair[0])
        classes = _classes(entry for entry, _ in found)
        shape = (len(found), form.channels, form.size, form.size)
        with _said_clearly(target.parent, int(np.prod(shape))):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _replacing(target.with_suffix(".npy")) as file:
                _write_images(file, shape, decoded(found, form, threads))
            images = np.load(target.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            index = {"format": FORMAT, "key": key, "shape": shape, "probe": probe(images), "classes": classes}
            with _replacing(target.with_suffix(".json")) as file:
                file.write(json.dumps(index).encode())
    return Pictures(images, classes)


def _classes(entries: Iterable[Entry]) -> tuple[PictureClass, ...]:
    """Of sorted entries."""
    groups = itertools.groupby(entries, key=lambda entry: entry[:2])
    return tuple(PictureClass(split, label, sum(1 for _ in group)) for (split, label), group in groups)


def decoded(found: Sequence[tuple[Entry, Source]], form: Form, threads: int) -> Iterator[NDArray[np.uint8]]:
    """Pictures ``[channels, size, size]`` in the order of ``found``, a batch in memory at a time."""
    with ThreadPoolExecutor(threads) as pool:
        for start in _progress(range(0, len(found), BATCH), f"decoding {len(found)} pictures"):
            yield from pool.map(
                lambda pair: decode(pair[1].read(pair[0].name), f"{pair[0].name!r} in {str(pair[1].path)!r}", form),
                found[start : start + BATCH],
            )


def decode(data: bytes, where: str, form: Form) -> NDArray[np.uint8]:
    """A picture as bytes ``[channels, size, size]``; colors become gray by luma, transparency is dropped.

    Raises:
        InvalidPictures: if it is broken or too large, with ``where`` it is.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=DECODERS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"it has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS}")
            plain = picture.convert("L" if form.channels == 1 else "RGB")  # one-bit pictures would not be smoothed
    except Exception as error:  # broken pictures make decoders raise anything
        raise InvalidPictures(
            f"every picture must be whole, of {', '.join(DECODERS)}; could not read {where}: {error}; "
            "replace it, or take it out"
        ) from error
    if plain.size != (form.size, form.size):
        plain = plain.resize((form.size, form.size), Image.Resampling.LANCZOS)
    pixels = np.asarray(plain, dtype=np.uint8).reshape(form.size, form.size, form.channels).transpose(2, 0, 1)
    return 255 - pixels if form.inverted else pixels


def _write_images(file: IO[bytes], shape: tuple[int, ...], images: Iterable[NDArray[np.uint8]]) -> None:
    """In order and not through a map, which would kill the process where the disk is full."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    for image in images:
        file.write(image.tobytes())


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when it is whole and on the disk, and is removed if it is not to be."""
    _sweep(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sweep(path: Path) -> None:
    """Remove what processes that were killed left unfinished; those that live have written within the hour."""
    for left in path.parent.glob(f"{path.name}.*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600.0:
                left.unlink()


@contextmanager
def _said_clearly(folder: Path, size: int) -> Iterator[None]:
    """Turns a full disk, or one that may not be written to, into a message that says what would help."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        free = f"; {shutil.disk_usage(folder).free / 1e6:.0f} MB are free" if folder.is_dir() else ""
        raise CacheNotWritten(
            f"decoded pictures must be stored in {str(folder)!r}, about {size / 1e6:.0f} MB; writing failed: {error}"
            f"{free}; make room, or set METARL_CACHE to another folder"
        ) from error


def _progress(steps: range, meaning: str) -> Iterable[int]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(steps, meaning, console=console, transient=True, disable=not console.is_terminal)
