"""Where data sets and their caches lie, and what can be wrong with them."""

from __future__ import annotations

import os
from pathlib import Path


class DataError(ValueError):
    """A data set cannot be used; the message says what to do about it."""


class MissingData(DataError):
    """A data set is not where it was looked for."""


class UnsafeArchive(DataError):
    """An archive is broken, or made to do harm."""


class InvalidPictures(DataError):
    """Pictures cannot be read, or are not laid out as they must be, or are too few."""


class DownloadFailed(DataError):
    """A file could not be fetched, or is not the one it should be."""


class CacheNotWritten(DataError):
    """Decoded pictures could not be stored, for want of space or of permission."""


def data_root(data: str | None) -> Path:
    """The folder of data sets: ``data``, else the environment's METARL_DATA, else the user's folder for such things.

    Raises:
        MissingData: if the one given is not there.
    """
    given = data or os.environ.get("METARL_DATA")
    if not given:
        from platformdirs import user_data_path

        return user_data_path("metarl")
    root = Path(given).expanduser()
    if not root.exists():
        raise MissingData(
            f"the place of data must exist; got {str(root)!r} from {'the option data' if data else 'METARL_DATA'}; "
            "create it, or name another"
        )
    return root


def cache_root() -> Path:
    """The folder of caches: the environment's METARL_CACHE, else the user's folder for such things."""
    given = os.environ.get("METARL_CACHE")
    if given:
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("metarl")
