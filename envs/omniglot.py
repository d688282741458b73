"""Omniglot: handwritten characters of 50 alphabets, the classical set of few-shot classification."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from metarl.envs.archives import Source
from metarl.envs.checks import check_choice, check_count
from metarl.envs.data import InvalidPictures, cache_root, data_root
from metarl.envs.image_cache import Entry, Form, Layout, PictureClass, Pictures, load_pictures
from metarl.envs.picture_family import PictureFamily
from metarl.envs.picture_sequences import draw_sequences, grouped_classes
from metarl.envs.picture_tasks import Form as TaskForm
from metarl.envs.picture_tasks import IntArray, Table, make_table
from metarl.tasks import register

ADDRESS = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
"""Where the official zips are."""

PARTS = {
    "images_background": "md5:68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation": "md5:6b91aef0f799c5bb55b94e3f2daec811",
}
"""The two halves of the set, 964 characters of 30 alphabets and 659 of 20, and the checksums of the official zips."""

DRAWINGS = 20
"""Of each character, each by another hand."""

CHARACTER = re.compile(r"(?:^|/)([^/]+/character\d+)/[^/.][^/]*\.png$")


def characters(source: Source) -> list[Entry]:
    """Drawings ``ALPHABET/characterNN/NNNN_DD.png`` at any depth, by the half of the set that the source holds."""
    half = source.path.stem
    found = [
        Entry(half, match[1], name)
        for name in source.names
        if (match := CHARACTER.search(name)) and not name.startswith("__MACOSX/")
    ]
    if not found:
        raise InvalidPictures(
            f"{str(source.path)!r} must hold Omniglot's drawings as ALPHABET/characterNN/NAME.png; it holds none"
        )
    if len({(entry.label, entry.name.rpartition("/")[2]) for entry in found}) < len(found):
        raise InvalidPictures(
            f"{str(source.path)!r} must hold each of Omniglot's drawings once, or a task could ask for one that it "
            "shows; it holds some in several places"
        )
    return found


LAYOUT = Layout("omniglot", characters)


def half_of_set(root: Path, part: str) -> Path:
    """The zip or folder of a half of the set, downloaded if it is not there.

    Raises:
        DownloadFailed: if that does not work.
    """
    for place in (root / "omniglot", root):
        for found in (place / f"{part}.zip", place / part):
            if found.exists():
                return found
    from metarl.envs.downloads import fetch

    target = root / "omniglot" / f"{part}.zip"
    fetch(f"{ADDRESS}/{part}.zip", target, PARTS[part])
    return target


@lru_cache(maxsize=4)
def load_omniglot(root: Path, cache: Path, size: int) -> Pictures:
    """Both halves of the set, ink 255 and paper 0."""
    return load_pictures([half_of_set(root, part) for part in PARTS], LAYOUT, Form(size, 1, inverted=True), cache)


def random_splits(classes: tuple[PictureClass, ...], seed: int) -> list[IntArray]:
    """1100, 100 and 423 of 1623 characters at random, and the same shares of a smaller set."""
    total = len(classes)
    return np.split(np.random.default_rng(seed).permutation(total), [1100 * total // 1623, 1200 * total // 1623])


def alphabet_splits(classes: tuple[PictureClass, ...], seed: int) -> list[IntArray]:
    """A random nine tenths and one tenth of the background characters, and all of the evaluation alphabets."""
    evaluation = np.array([each.split == "images_evaluation" for each in classes])
    background = np.random.default_rng(seed).permutation(np.flatnonzero(~evaluation))
    return [*np.split(background, [len(background) - len(background) // 10]), np.flatnonzero(evaluation)]


@lru_cache(maxsize=8)
def omniglot_table(root: Path, cache: Path, size: int, split: str, seed: int) -> Table:
    """Classes in the order of their splits."""
    pictures = load_omniglot(root, cache, size)
    splits = (random_splits if split == "random" else alphabet_splits)(pictures.classes, seed)
    return make_table(pictures, splits, "Omniglot")


@register("omniglot")
@dataclass(frozen=True, kw_only=True)
class Omniglot(PictureFamily):
    """Handwritten characters to be told apart from one or a few drawings of each.

    Task, a row of whole numbers: ``ways`` different characters, their quarter turns, which of each one's 20 drawings
    are support and which are query (none is both), and a seed for noise; ``picture_tasks`` has the order.

    Input: the drawing, float32 [1, 28, 28]; ink 1, paper 0; made gray, then resized by Pillow's Lanczos filter. MAML's
    code resizes by the same filter, which old versions of Pillow did not apply to one-bit pictures such as these.

    Target: which of the task's characters, 0 to ``ways`` - 1.

    Rotations: turned by 0, 90, 180 or 270 degrees a character makes four classes, in training, validation and test
    alike, as in MAML's code. Each character of a task gets one turn, the same for support and query; a task never
    holds a character in two turns, so that symmetric ones do not make it unsolvable.

    Splits: ``random``, the customary one: of all 1623 characters 1200 at random, of which 100 are for validation and
    1100 for training, and 423 for test. ``alphabets``: training on nine tenths of the 964 characters of the 30
    background alphabets, validation on the rest, test on the 659 of the 20 evaluation alphabets.

    Sequences: the characters of a task are of one alphabet, another one for each task of a sequence.

    Data: ``images_background.zip`` and ``images_evaluation.zip``, or the folders in them, under the data root or its
    folder ``omniglot``; downloaded there from github.com/brendenlake/omniglot if they are missing.

    Source: Lake et al. 2015 (Science 350); the random split Santoro et al. 2016 (arXiv:1605.06065), Vinyals et al.
    2016 (arXiv:1606.04080); validation Finn et al. 2017 (arXiv:1703.03400).
    """

    data: str | None = None
    """Data root; else the environment's METARL_DATA, else the user's data folder."""
    queries: int = 1
    """Query drawings of each Q; MAML's code takes as many as shots."""
    split: Literal["random", "alphabets"] = "random"
    """Which characters are for training."""
    split_seed: int = 0
    """Draws the characters of the splits."""
    rotations: bool = True
    """Make four classes of each character by quarter turns."""
    size: int = 28
    """Height and width of a drawing (pixels)."""

    channels: ClassVar[int] = 1
    """Ink."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("split", self.split, ("random", "alphabets"))
        check_count("split_seed", self.split_seed, 0)
        if self.shots + self.queries > DRAWINGS:
            raise ValueError(
                f"shots + queries must be at most {DRAWINGS}, the drawings of a character; "
                f"got {self.shots} + {self.queries}"
            )

    @property
    def form(self) -> TaskForm:
        """See ``PictureFamily.form``."""
        return super().form._replace(rotations=self.rotations)

    @property
    def table(self) -> Table:
        """See ``PictureFamily.table``."""
        return omniglot_table(data_root(self.data), cache_root(), self.size, self.split, self.split_seed)

    @property
    def smallest_class(self) -> int:
        """Every character has as many drawings."""
        return DRAWINGS

    def sequence(self, rng: np.random.Generator, count: int, length: int) -> IntArray:
        """Sequences of test tasks ``[count, length, P]``, each task's characters of one alphabet, another each time."""
        alphabets = grouped_classes(lambda name: name.partition("/")[0], "alphabet")
        return draw_sequences(rng, (count, length), self.table, self.form, alphabets)
