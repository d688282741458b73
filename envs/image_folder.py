"""Few-shot classification on a user's own pictures, and on mini-ImageNet."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from metarl.envs.archives import Source
from metarl.envs.checks import check_count
from metarl.envs.data import InvalidPictures, MissingData, cache_root, data_root
from metarl.envs.image_cache import SUFFIXES, Entry, Form, Layout, PictureClass, load_pictures
from metarl.envs.picture_family import PictureFamily
from metarl.envs.picture_tasks import IntArray, Table, make_table
from metarl.tasks import register

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Splits by the names of their folders, in lower case; a name that is missing here would be taken for a class's."""

TABLES = ("train.csv", "val.csv", "test.csv")
"""Of mini-ImageNet's layout."""


def visible(source: Source) -> list[str]:
    """Files of a source but those that systems leave behind."""
    return [name for name in source.names if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]


def any_layout(source: Source) -> list[Entry]:
    """Pictures by ``train.csv`` where there is one, else by class folders."""
    tabled = any(name.rsplit("/")[-1] in TABLES for name in visible(source))
    return tables(source) if tabled else class_folders(source)


def tables(source: Source) -> list[Entry]:
    """Mini-ImageNet's layout: ``images/`` and beside it ``train.csv val.csv test.csv`` of ``filename,label``.

    Raises:
        InvalidPictures: if a table is missing or broken, names a picture twice or one that is not there, or puts a
            class in two splits.
    """
    names = frozenset(visible(source))
    places = [name for name in names if name.rsplit("/")[-1] in TABLES]
    base = min(places, key=len, default="").rpartition("/")[0]
    base = f"{base}/" if base else ""
    missing = [name for name in TABLES if base + name not in names]
    if missing:
        raise InvalidPictures(
            f"{str(source.path)!r} must have {', '.join(TABLES)} next to the folder images; missing: "
            f"{', '.join(missing)}"
        )
    found = [entry for name in TABLES for entry in table_entries(source, base, name)]
    lost = sorted(entry.name for entry in found if entry.name not in names)
    if lost:
        raise InvalidPictures(
            f"every picture that the tables of {str(source.path)!r} name must be there; "
            f"{len(lost)} of {len(found)} are not: {_some(lost)}"
        )
    twice = sorted(name for name, count in Counter(entry.name for entry in found).items() if count > 1)
    if twice:
        raise InvalidPictures(
            f"the tables of {str(source.path)!r} must name each picture once; {len(twice)} stand in them more often: "
            f"{_some(twice)}"
        )
    check_disjoint(found, source.path)
    return found


def table_entries(source: Source, base: str, name: str) -> list[Entry]:
    """The rows of one table, with the columns ``filename`` and ``label``."""
    where = f"{base + name!r} in {str(source.path)!r}"
    try:
        reader = csv.DictReader(io.StringIO(source.read(base + name).decode("utf-8-sig"), newline=""))
        columns, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidPictures(f"{where} must be comma-separated text in UTF-8; reading it failed: {error}") from error
    if not {"filename", "label"} <= set(columns):
        raise InvalidPictures(f"{where} must begin with the columns filename,label; got {','.join(columns)}")
    for number, row in enumerate(rows, start=2):
        if not row["filename"] or not row["label"]:
            raise InvalidPictures(f"{where} must have a filename and a label in every line; line {number} has not")
    split = name.removesuffix(".csv")
    return [Entry(split, row["label"], f"{base}images/{row['filename']}") for row in rows]


def class_folders(source: Source) -> list[Entry]:
    """A class for each folder that holds pictures, at any depth, under folders of splits if all are.

    Raises:
        InvalidPictures: if there is none, some are under split folders and some not, or a class is in two splits.
    """
    names = [name for name in visible(source) if name.lower().endswith(SUFFIXES)]
    folders = {name: tuple(name.split("/")[:-1]) for name in names}
    skipped = shared_depth(set(folders.values()))
    found, loose = [], []
    for name, parts in folders.items():
        split = SPLITS.get(parts[skipped].lower()) if len(parts) > skipped + 1 else None
        if split is None:
            loose.append(name)
        label = "/".join(parts[skipped + (split is not None) :])
        found.append(Entry(split or "", label, name))
    if not names or any(not entry.label for entry in found):
        archives = [name for name in visible(source) if name.lower().endswith(".zip")]
        raise InvalidPictures(
            f"{str(source.path)!r} must hold pictures ({' '.join(SUFFIXES)}) in a folder for each class, or a folder "
            f"images and {', '.join(TABLES)}; got {len(names)} pictures, "
            f"{sum(not entry.label for entry in found)} of them in no folder"
            + (f"; there is {_some(archives)}: name the archive itself" if archives else "")
        )
    if 0 < len(loose) < len(found):
        raise InvalidPictures(
            f"either all or none of the classes of {str(source.path)!r} must be in folders {', '.join(SPLITS)}; "
            f"{len(loose)} of {len(found)} pictures are in none of them: {_some(loose)}"
        )
    check_disjoint(found, source.path)
    return found


def shared_depth(folders: set[tuple[str, ...]]) -> int:
    """How many folders around all classes are to be passed over; the class's own is not."""
    least = min((len(parts) for parts in folders), default=0)
    depth = 0
    while depth < least - 1 and len({parts[depth] for parts in folders}) == 1:
        depth += 1
    return depth


def check_disjoint(entries: Sequence[Entry], path: Path) -> None:
    """Raise InvalidPictures if a class is in two splits."""
    splits: dict[str, set[str]] = {}
    for entry in entries:
        splits.setdefault(entry.label, set()).add(entry.split)
    several = sorted(label for label, found in splits.items() if len(found) > 1)
    if several:
        raise InvalidPictures(
            f"every class of {str(path)!r} must be in one split, or the test would show classes of training; "
            f"{len(several)} are in more: {_some(several)}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")


def splits_of(classes: Sequence[PictureClass], seed: int) -> list[IntArray]:
    """Classes for training, validation and test: as the set says, else 64, 16 and 20 percent at random."""
    if any(each.split for each in classes):
        return [
            np.array([place for place, each in enumerate(classes) if each.split == split], dtype=np.int64)
            for split in ("train", "val", "test")
        ]
    total = len(classes)
    ends = [round(0.64 * total), round(0.8 * total)]
    return np.split(np.random.default_rng(seed).permutation(total), ends)


@lru_cache(maxsize=4)
def folder_table(path: Path, layout: Layout, size: int, seed: int, cache: Path) -> Table:
    """All classes of a folder or zip."""
    pictures = load_pictures([path], layout, Form(size, 3), cache)
    return make_table(pictures, splits_of(pictures.classes, seed), repr(str(path)))


@register("image-folder")
@dataclass(frozen=True, kw_only=True)
class ImageFolder(PictureFamily):
    """Classes of a user's own pictures to be told apart from one or a few of each.

    Task, a row of whole numbers: ``ways`` different classes, which pictures of each are support and which are query
    (none is both), and a seed for noise; ``picture_tasks`` has the order.

    Input: the picture, RGB in [0, 1], float32 [3, size, size]; resized by Pillow's Lanczos filter, without cropping.

    Target: which of the task's classes, 0 to ``ways`` - 1.

    Data, a folder or a zip of it, in one of two layouts:

    | layout | files |
    |---|---|
    | class folders | ``CLASS/NAME.jpg``, all classes under ``train/ val/ test/`` or none; ``Train``, ``dev``, ... too |
    | tables | ``images/NAME.jpg``, and ``train.csv val.csv test.csv`` with the columns ``filename,label`` |

    Splits: of classes, as the layout says; if it does not, 64, 16 and 20 percent at random for training, validation and
    test.
    """

    data: str | None = None
    """Folder or zip, by its path or by its name under METARL_DATA or the user's data folder."""
    split_seed: int = 0
    """Draws the splits where the data has none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("split_seed", self.split_seed, 0)

    @property
    def table(self) -> Table:
        """See ``PictureFamily.table``."""
        if self.data is None:
            raise MissingData("the option data of image-folder must name a folder or a zip of pictures; got none")
        layout = Layout("image-folder 2", any_layout)  # caches of the first hold splits that knew lower case alone
        return folder_table(find_set(self.data), layout, self.size, self.split_seed, cache_root())


def find_set(data: str) -> Path:
    """The folder or zip of that path, else of that name under the data root."""
    places = [Path(data).expanduser()]
    if not places[0].exists():
        places += [data_root(None) / data, data_root(None) / f"{data}.zip"]
    for place in places:
        if place.exists():
            return place
    raise MissingData(
        f"data must be a folder or a zip of pictures; got {data!r}, and there is nothing at "
        f"{', '.join(repr(str(place)) for place in places)}"
    )
