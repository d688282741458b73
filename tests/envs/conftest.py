"""Tiny sets of pictures, each of which tells which one it is."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIDE = 8
"""Height and width of the pictures."""


def drawing(character: int, number: int) -> bytes:
    """A one-bit PNG, paper white; its first row says which character it is in bits of ink, its second which drawing."""
    ink = np.zeros((SIDE, SIDE), dtype=bool)
    for row, value in enumerate((character, number)):
        ink[row] = [value >> bit & 1 for bit in range(SIDE)]
    file = io.BytesIO()
    Image.fromarray(~ink).save(file, "PNG")
    return file.getvalue()


def halves(background: int, evaluation: int, drawings: int) -> dict[str, dict[str, bytes]]:
    """Files of both halves of a small Omniglot: alphabets of five characters, which are numbered through."""
    found: dict[str, dict[str, bytes]] = {"images_background": {}, "images_evaluation": {}}
    for character in range(background + evaluation):
        half = "images_background" if character < background else "images_evaluation"
        folder = f"{half}/Alphabet_{character // 5:02d}/character{character % 5 + 1:02d}"
        for number in range(drawings):
            found[half][f"{folder}/{character:04d}_{number + 1:02d}.png"] = drawing(character, number)
    return found


@pytest.fixture
def small_omniglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that makes a data root with a small Omniglot, zipped or in folders."""
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "cache"))

    def build(*, background: int = 20, evaluation: int = 10, drawings: int = 20, zipped: bool = True) -> Path:
        root = tmp_path / "data"
        for half, files in halves(background, evaluation, drawings).items():
            root.mkdir(exist_ok=True)
            if zipped:
                with zipfile.ZipFile(root / f"{half}.zip", "w") as archive:
                    for name, data in files.items():
                        archive.writestr(name, data)
            else:
                write_files(root / "omniglot", files)
        return root

    return build


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    """Files under a folder, by their relative paths."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def plain_picture(value: int, size: int = SIDE, suffix: str = "PNG") -> bytes:
    """A picture all of whose pixels have the color (value, 100, 200)."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (value, 100, 200)).save(file, suffix)
    return file.getvalue()


@pytest.fixture
def write_tree() -> Callable[[Path, dict[str, bytes]], Path]:
    """A function that writes files under a folder, by their relative paths."""
    return write_files


@pytest.fixture
def make_picture() -> Callable[..., bytes]:
    """A function that makes a picture of one color, whose red is given."""
    return plain_picture


@pytest.fixture
def make_zip(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """A function that makes a zip of files by name."""

    def build(files: dict[str, bytes], name: str = "set.zip") -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in files.items():
                archive.writestr(member, data)
        return path

    return build
