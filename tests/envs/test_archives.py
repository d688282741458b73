"""Archives made to do harm, broken ones, and plain ones; every bad member is refused before anything is read."""

from __future__ import annotations

import stat
import struct
import zipfile

import pytest

from metarl.envs.archives import Limits, open_source
from metarl.envs.data import InvalidPictures, MissingData, UnsafeArchive


def crafted(path, *members, data=b"x", **fields):
    """A zip of members by name, whose records in the directory are changed afterwards."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            for field, value in fields.items():
                setattr(info, field, value)
            archive.writestr(info, data)
    return path


def read_all(path, limits):
    with open_source(path, limits) as source:
        for name in source.names:
            source.read(name)


def refused(path, match, limits=None):
    with pytest.raises(UnsafeArchive, match=match):
        read_all(path, limits)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_a_folder_and_of_a_zip_have_the_same_names_and_bytes(tmp_path, make_zip, write_tree, zipped):
    files = {"b/2.txt": b"two", "a/1.txt": b"one", "a/deep/er/3.txt": b"", "0.txt": b"zero"}
    with open_source(make_zip(files) if zipped else write_tree(tmp_path / "set", files)) as source:
        assert source.names == tuple(sorted(files))
        assert {name: source.read(name) for name in source.names} == files


def test_folders_of_a_zip_are_not_files(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("a")
        archive.writestr("a/1", b"one")
    with open_source(path) as source:
        assert source.names == ("a/1",)


def test_links_in_a_folder_are_followed_but_not_in_circles(tmp_path, write_tree):
    write_tree(tmp_path / "elsewhere", {"1.txt": b"one"})
    write_tree(tmp_path / "set", {"a/2.txt": b"two"})
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    with open_source(tmp_path / "set") as source:
        assert source.names == ("a/2.txt", "linked/1.txt")
        assert source.read("linked/1.txt") == b"one"


def test_nothing_at_the_place_is_said(tmp_path):
    with pytest.raises(MissingData, match=r"there is nothing at '.*/none'"):
        open_source(tmp_path / "none")


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../up.png", "a/../../up.png", "a//b.png", "./a.png", "C:/a.png", "a\\..\\b.png", "a/.."],
)
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path, name):
    refused(crafted(tmp_path / "set.zip", "fine.png", name), r"its member '.*' has (an absolute path|a path that may)")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(tmp_path, kind):
    path = crafted(tmp_path / "set.zip", "a.png", data=b"/etc/passwd", external_attr=(kind | 0o777) << 16)
    refused(path, r"its member 'a\.png' is a link or a device")


def test_a_name_that_stands_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = crafted(tmp_path / "set.zip", "a.png", "a.png")
    refused(path, r"its member 'a\.png' stands in it twice")


def test_encrypted_and_unusual_members_are_refused(tmp_path):
    path = crafted(tmp_path / "set.zip", "a.png")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    refused(path, "is encrypted")
    refused(crafted(tmp_path / "set.zip", "a.png", compress_type=zipfile.ZIP_LZMA), "must be stored or deflated")


def test_a_bomb_is_refused_by_what_it_declares(tmp_path):
    path = crafted(tmp_path / "set.zip", "a.png", "b.png", data=bytes(10_000_000))
    assert path.stat().st_size < 100_000
    refused(path, "would unpack to 10000000 bytes, more than the 1000000 allowed", Limits(member_bytes=1_000_000))
    refused(path, r"at most 15000000 bytes in all; its members declare 20000000", Limits(total_bytes=15_000_000))
    refused(path, "must have at most 1 members; got 2", Limits(members=1))


@pytest.mark.parametrize("declared", [10, 20_000_000])
def test_a_bomb_that_lies_about_its_size_is_refused_before_it_is_unpacked(tmp_path, declared):
    """The declared size is the field 24 bytes into the record of the directory."""
    path = crafted(tmp_path / "set.zip", "a.png", data=bytes(10_000_000))
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, declared)
    path.write_bytes(data)
    refused(path, r"must be (whole; reading 'a\.png' failed|as large as they say)")


def test_damaged_members_are_refused(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"precious")
    path.write_bytes(path.read_bytes().replace(b"precious", b"preciouz", 1))
    refused(path, r"reading 'a\.png' failed: Bad CRC-32")


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_truncated_archives_are_refused(tmp_path, kept):
    path = crafted(tmp_path / "set.zip", *(f"{n}.png" for n in range(20)), data=bytes(range(256)))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    refused(path, "must be a whole zip archive; reading it failed")


def test_something_else_is_refused(tmp_path):
    path = tmp_path / "set.zip"
    path.write_bytes(b"<html>404</html>" * 100)
    refused(path, "must be a whole zip archive; reading it failed: File is not a zip file; fetch or pack it anew")


def test_huge_and_unreadable_files_of_a_folder_are_refused(tmp_path, write_tree):
    folder = write_tree(tmp_path / "set", {"a.png": bytes(100), "b.png": b""})
    with open_source(folder, Limits(member_bytes=99)) as source:
        with pytest.raises(InvalidPictures, match=r"at most 99 bytes; '.*a\.png' has 100"):
            source.read("a.png")
        (folder / "b.png").unlink()
        with pytest.raises(InvalidPictures, match=r"every file must be readable; got .*No such file"):
            source.read("b.png")
