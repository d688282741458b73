"""Mini-ImageNet, which everyone has to get on their own: 100 classes of photographs, 600 of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metarl.envs.data import MissingData, cache_root, data_root
from metarl.envs.image_cache import Layout
from metarl.envs.image_folder import folder_table, tables
from metarl.envs.picture_family import PictureFamily
from metarl.envs.picture_tasks import Table
from metarl.tasks import register


def find_mini_imagenet(data: str | None) -> Path:
    """The set itself, or the root that holds it as ``mini-imagenet`` or ``mini-imagenet.zip``.

    Raises:
        MissingData: with what to put where.
    """
    root = data_root(data)
    places = [root / "mini-imagenet", root / "mini-imagenet.zip"]
    for place in places:
        if place.exists():
            return place
    if root.is_file() or (root / "train.csv").exists():
        return root
    raise MissingData(
        f"mini-ImageNet must be at {str(places[0])!r} or {str(places[1])!r}, and neither is there; ImageNet's terms "
        "forbid to pass its pictures on, so it is not downloaded. Put there a folder images with the 60,000 pictures "
        "and, beside it, train.csv, val.csv and test.csv of Ravi and Larochelle (64, 16 and 20 classes), with the "
        "columns filename,label; or name another place by the option data or by METARL_DATA"
    )


@register("mini-imagenet")
@dataclass(frozen=True, kw_only=True)
class MiniImageNet(PictureFamily):
    """Photographs of 100 classes to be told apart from one or a few of each.

    Task, a row of whole numbers: ``ways`` different classes, which pictures of each are support and which are query
    (none is both), and a seed for noise; ``picture_tasks`` has the order.

    Input: the photograph, RGB in [0, 1], float32 [3, 84, 84]; resized by Pillow's Lanczos filter, without cropping.

    Target: which of the task's classes, 0 to ``ways`` - 1.

    Splits: of classes, as the tables say; 64 for training, 16 for validation, 20 for test.

    Data: ``images/``, ``train.csv``, ``val.csv`` and ``test.csv``, in the folder or zip ``mini-imagenet`` under the
    data root. ImageNet's terms forbid to pass its pictures on: nothing is downloaded.

    Source: Vinyals et al. 2016 (arXiv:1606.04080); the split Ravi and Larochelle 2017 (ICLR).
    """

    data: str | None = None
    """The set, or the data root that holds it; else METARL_DATA, else the user's data folder."""

    @property
    def table(self) -> Table:
        """See ``PictureFamily.table``."""
        layout = Layout("mini-imagenet", tables)
        return folder_table(find_mini_imagenet(self.data), layout, self.size, 0, cache_root())
