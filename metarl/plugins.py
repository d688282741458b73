"""Task families from outside: modules and files named by the user, and entry points of installed packages."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from metarl.tasks import FAMILIES, DuplicateTaskFamily, register

LOADED: list[str] = []
"""What ``load_plugin`` was asked for in this process, in order."""
GROUP = "metarl.families"
"""Entry points of this group are task families, registered under the entry point's name, or modules that register."""


class PluginError(RuntimeError):
    """A plug-in cannot be loaded."""


def load_plugin(plugin: str) -> ModuleType:
    """Import a module that registers task families.

    This runs the module's code, so what is loaded is only ever what the user names, never what a file names.

    Args:
        plugin: a module's name, looked for in the working directory first, or the path of a Python file.

    Raises:
        PluginError: with the traceback, or the places searched.
        DuplicateTaskFamily: if it registers a name that is taken.
    """
    path = Path(plugin)
    module = _load_file(path) if path.suffix == ".py" or len(path.parts) > 1 else _load_module(plugin)
    LOADED.append(plugin)
    return module


def _load_module(plugin: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        if not _exists(plugin):
            searched = "\n  ".join(sys.path)
            raise PluginError(
                f"no module named {plugin!r}; give its file (./{plugin}.py) or install it; searched\n  {searched}"
            )
        return importlib.import_module(plugin)
    except (PluginError, DuplicateTaskFamily):
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"plug-in {plugin!r} does not import:\n{traceback.format_exc()}") from error


def _exists(module: str) -> bool:
    """Whether a module can be found; finding one inside a package imports the package."""
    parts = module.split(".")
    names = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return all(importlib.util.find_spec(name) is not None for name in names)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError(
            f"there is no plug-in file {path.resolve()}; give the path of a Python file or a module's name"
        )
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(path.resolve()):
            return known
        raise PluginError(f"the plug-in file {path} has the name of the module {name!r} in use; rename the file")
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))  # for what it imports from beside it
    try:
        spec.loader.exec_module(module)
    except DuplicateTaskFamily:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(f"plug-in {path} does not import:\n{traceback.format_exc()}") from error
    return module


def load_entry_points() -> list[str]:
    """Load the families of installed packages.

    Returns:
        A complaint for each that could not be loaded; the others are there all the same.
    """
    complaints = []
    for point in entry_points(group=GROUP):
        try:
            found = point.load()
            if not isinstance(found, ModuleType) and FAMILIES.get(point.name) is not found:
                if not callable(found):
                    raise TypeError(f"must be a module, or a class or function that makes a task family, got {found!r}")
                register(point.name)(found)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - another package's fault must not stop this one
            complaints.append(f"task family {point.name!r} of {point.value}: {type(error).__name__}: {error}")
    return complaints
