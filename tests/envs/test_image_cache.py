"""Decoded pictures: what is stored, when a cache is trusted, a full disk, any number of threads."""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from metarl.envs import image_cache
from metarl.envs.data import CacheNotWritten, InvalidPictures, MissingData, UnsafeArchive, cache_root, data_root
from metarl.envs.image_cache import Entry, Form, Layout, PictureClass, decode, load_pictures

LAYOUT = Layout("test", lambda source: [Entry("", name.split("/")[0], name) for name in source.names])
FORM = Form(8, 3)


@pytest.fixture
def pictures(make_zip, make_picture):
    """A zip of two classes, three pictures of the one and two of the other."""
    return make_zip({name: make_picture(value) for value, name in enumerate(["b/0", "b/1", "b/2", "a/0", "a/1"])})


@pytest.fixture
def built(pictures, tmp_path):
    """The cache of these pictures, and a function that loads them again."""

    def load(form=FORM, threads=None):
        return load_pictures([pictures], LAYOUT, form, tmp_path / "cache", threads)

    load()
    return tmp_path / "cache", load


def reds(loaded):
    return loaded.images[:, 0, 0, 0].tolist()


def age(folder):
    """Time of change of each file of a cache."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_pictures_are_sorted_by_class_and_mapped_from_a_file_that_cannot_be_written(built):
    _, load = built
    loaded = load()
    assert loaded.classes == (PictureClass("", "a", 2), PictureClass("", "b", 3))
    assert reds(loaded) == [3, 4, 0, 1, 2]
    assert isinstance(loaded.images, np.memmap)
    assert not loaded.images.flags.writeable


def test_a_whole_cache_is_opened_and_not_built_again(built):
    folder, load = built
    before = age(folder)
    assert reds(load()) == [3, 4, 0, 1, 2]
    assert age(folder) == before
    assert len(before) == 2


@pytest.mark.parametrize("change", ["size", "colors", "time", "content"])
def test_another_form_or_a_changed_source_has_a_cache_of_its_own(built, pictures, make_zip, make_picture, change):
    folder, load = built
    if change == "time":
        os.utime(pictures, ns=(0, 0))
    if change == "content":
        make_zip({"a/0": make_picture(77)})
    loaded = load({"size": Form(4, 3), "colors": Form(8, 1)}.get(change, FORM))
    assert len(age(folder)) == 4
    assert len(loaded.images) == (1 if change == "content" else 5)


def test_pictures_of_a_folder_are_decoded_again_when_one_of_them_changes(tmp_path, write_tree, make_picture):
    folder = write_tree(tmp_path / "set", {"a/0": make_picture(1), "a/1": make_picture(2)})
    assert reds(load_pictures([folder], LAYOUT, FORM, tmp_path / "cache")) == [1, 2]
    write_tree(folder, {"a/1": make_picture(9)})
    assert reds(load_pictures([folder], LAYOUT, FORM, tmp_path / "cache")) == [1, 9]


def broken_json(folder, text):
    next(folder.glob("*.json")).write_text(text)


def edited(folder, **changes):
    path = next(folder.glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def overwritten(folder, start, data):
    with next(folder.glob("*.npy")).open("r+b") as file:
        file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
        file.write(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: next(folder.glob("*.json")).unlink(),
        lambda folder: next(folder.glob("*.npy")).unlink(),
        lambda folder: os.truncate(next(folder.glob("*.npy")), 500),
        lambda folder: os.truncate(next(folder.glob("*.npy")), 0),
        lambda folder: overwritten(folder, -100, bytes(100)),
        lambda folder: overwritten(folder, 0, b"garbage"),
        lambda folder: broken_json(folder, '{"format": 1, "key"'),
        lambda folder: broken_json(folder, "[1, 2]"),
        lambda folder: broken_json(folder, '{"classes": [[1]]}'),
        lambda folder: edited(folder, format=0),
        lambda folder: edited(folder, key="another"),
        lambda folder: edited(folder, shape=[5, 3, 8, 9]),
        lambda folder: edited(folder, classes=[["", "a", 2], ["", "b", 2]]),
    ],
)
def test_a_damaged_or_half_written_cache_is_built_again(built, damage):
    folder, load = built
    damage(folder)
    assert reds(load()) == [3, 4, 0, 1, 2]
    assert reds(load()) == [3, 4, 0, 1, 2]
    assert len(age(folder)) == 2


def test_a_full_disk_is_said_and_leaves_nothing_behind(pictures, tmp_path, make_zip, make_picture):
    """A limit on the size of files stands for a full disk: both make a write fail."""
    path = make_zip({f"a/{n}": make_picture(n) for n in range(40)}, "large.zip")
    _, hard = soft_hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(
            CacheNotWritten, match=r"about 1 MB; writing failed: .*MB are free; make room, or set METARL"
        ):
            load_pictures([path], LAYOUT, Form(80, 3), tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_hard)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheNotWritten, match=r"writing failed: .*set METARL_CACHE to another folder"):
        load_pictures([pictures], LAYOUT, FORM, tmp_path / "file" / "cache")


def test_what_a_killed_process_left_is_swept_away_and_what_a_living_one_writes_is_not(built):
    folder, load = built
    array = next(folder.glob("*.npy"))
    old, new = (array.with_name(f"{array.name}.{number}-1.tmp") for number in (1, 2))
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (0, 0))
    array.unlink()
    load()
    assert not old.exists()
    assert new.exists()


def test_any_number_of_threads_decodes_the_same_bytes(tmp_path, make_zip, make_picture, monkeypatch):
    monkeypatch.setattr(image_cache, "BATCH", 7)
    path = make_zip({f"{n % 3}/{n:03d}": make_picture(n) for n in range(50)})
    stored = []
    for threads in (1, 2, 8):
        load_pictures([path], LAYOUT, Form(5, 3), tmp_path / str(threads), threads)
        stored.append(next((tmp_path / str(threads)).glob("*.npy")).read_bytes())
    assert stored[0] == stored[1] == stored[2]


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_pictures_become_channels_first_and_gray_ones_can_be_inverted():
    data = encoded(Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)))
    assert decode(data, "here", Form(2, 3)).tolist() == [[[0, 3], [6, 9]], [[1, 4], [7, 10]], [[2, 5], [8, 11]]]
    data = encoded(Image.fromarray(np.array([[0, 55], [200, 255]], dtype=np.uint8)))
    assert decode(data, "here", Form(2, 1, inverted=True)).tolist() == [[[255, 200], [55, 0]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_every_mode_are_read(mode):
    data = encoded(Image.new(mode, (9, 6)), "JPEG" if mode == "CMYK" else "PNG")
    assert decode(data, "here", Form(4, 3)).shape == (3, 4, 4)


def test_a_checkerboard_made_small_is_gray():
    """One-bit pictures too: picking pixels would give all black or all white."""
    board = Image.fromarray(np.indices((64, 64)).sum(axis=0) % 2 == 0)
    assert np.abs(decode(encoded(board), "here", Form(8, 1)).astype(int) - 127).max() < 20


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def declared(width, height):
    """A PNG that says it is so large, in a few bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])
def test_a_picture_bomb_is_refused_by_its_header(side):
    with pytest.raises(InvalidPictures, match=r"could not read bomb: .*pixels"):
        decode(declared(side, side), "bomb", FORM)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_truncated_pictures_are_refused(kind):
    data = encoded(Image.effect_noise((40, 40), 50.0), kind)
    decode(data, "whole", FORM)
    with pytest.raises(InvalidPictures, match=r"every picture must be whole, of PNG.* could not read cut"):
        decode(data[: len(data) // 2], "cut", FORM)


@pytest.mark.parametrize("data", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_of_the_allowed_formats_is_refused(data):
    with pytest.raises(InvalidPictures, match="could not read text"):
        decode(data, "text", FORM)


def test_a_broken_source_leaves_no_cache(tmp_path, make_zip, make_picture):
    path = make_zip({"a/0": make_picture(0), "a/1": b"broken"})
    with pytest.raises(InvalidPictures, match=r"could not read 'a/1' in '.*set\.zip'"):
        load_pictures([path], LAYOUT, FORM, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    path.write_bytes(b"no zip")
    with pytest.raises(UnsafeArchive, match="must be a whole zip archive"):
        load_pictures([path], LAYOUT, FORM, tmp_path / "cache")
    with pytest.raises(MissingData, match="there is nothing at"):
        load_pictures([tmp_path / "none"], LAYOUT, FORM, tmp_path / "cache")


def test_folders_come_from_the_environment_else_from_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("METARL_DATA", str(tmp_path))
    assert (cache_root(), data_root(None), data_root(str(tmp_path.parent))) == (
        tmp_path / "c",
        tmp_path,
        tmp_path.parent,
    )
    monkeypatch.delenv("METARL_CACHE")
    monkeypatch.delenv("METARL_DATA")
    assert_array_equal([cache_root().name, data_root(None).name], ["metarl", "metarl"])
