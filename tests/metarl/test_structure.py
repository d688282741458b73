"""Rules of the tree: who may import whom, what is installed, and under which names."""

from __future__ import annotations

import ast
import importlib.util
import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"metarl": "metarl", "envs": "metarl.envs", "experiments": "metarl.experiments"}
"""Folders of the repository and the packages that they are installed as."""

ORDER = [
    "types", "trees", "linear", "tasks", "plugins", "spaces", "mlp_kernels", "nets", "conv", "models", "compiled",
    "processor", "policies", "losses", "rollout", "inner", "outer", "variants", "engine", "reinforcement", "rl2",
    "few_shot", "logs", "checkpoints",
]  # fmt: skip
"""Modules and packages of the engine; each imports only those before it, and itself."""


def sources(folder: str) -> list[Path]:
    """Python files under ``folder``, not through the links for type checkers."""
    found = []
    for directory, subfolders, files in os.walk(ROOT / folder):
        subfolders[:] = [name for name in subfolders if name != "__pycache__"]
        found += [Path(directory) / name for name in files if name.endswith(".py")]
    return sorted(found)


def imported(path: Path) -> set[str]:
    """Modules of this project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == "metarl"}


def part_of(path: Path) -> str:
    """The module or package of the engine that a file belongs to."""
    return path.relative_to(ROOT / "metarl").parts[0].removesuffix(".py")


def test_every_module_of_the_engine_has_a_place_in_the_order():
    assert {part_of(path) for path in sources("metarl")} - {"__init__"} <= set(ORDER)


@pytest.mark.parametrize("path", sources("metarl"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_engine_imports_only_what_stands_above(path):
    part = part_of(path)
    allowed = {"tasks"} if part == "__init__" else set(ORDER[: ORDER.index(part) + 1])
    parts = {name.split(".")[1] for name in imported(path) if "." in name}
    assert parts & ({*ORDER, "envs", "experiments"} - allowed) == set()


def test_families_import_of_the_engine_only_the_registry():
    for path in sources("envs"):
        names = {name for name in imported(path) if not name.startswith("metarl.envs")}
        assert {".".join(name.split(".")[:2]) for name in names} <= {"metarl", "metarl.tasks"}, path


def test_every_import_of_the_project_is_written_with_its_full_name():
    """``import envs`` would work in a checkout and load a second copy."""
    for folder in FOLDERS:
        for path in sources(folder):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {name.split(".")[0] for name in names} & {"envs", "experiments"}, path


def packages() -> set[str]:
    """Packages on the disk, by the names that they are installed under."""
    found = set()
    for folder, name in FOLDERS.items():
        for path in sources(folder):
            inside = path.parent.relative_to(ROOT / folder).parts
            assert (path.parent / "__init__.py").exists(), f"{path.parent} needs an __init__.py to be installed"
            found.add(".".join((name, *inside)))
    return found


def test_the_package_list_is_whole():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert len(settings["packages"]) == len(set(settings["packages"]))
    assert set(settings["packages"]) == packages()
    assert settings["package-dir"] == {name: folder for folder, name in FOLDERS.items()}
    assert (ROOT / "metarl" / "py.typed").exists()


@pytest.mark.parametrize("name", ["envs", "experiments"])
def test_type_checkers_find_the_packages_through_relative_links(name):
    link = ROOT / "metarl" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", ["envs", "experiments"])
def test_a_package_refuses_to_be_imported_under_another_name(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / name / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=rf"metarl\.{name}, not as '{name}'|'metarl\.{name}', not as '{name}'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_tests_mirror_the_tree():
    """Every test file of the engine is named for a module or package, or for what spans several."""
    spanning = {"test_structure", "test_two_state_mdp"}
    for path in sources("tests/metarl"):
        inside = path.relative_to(ROOT / "tests" / "metarl")
        module = ROOT / "metarl" / inside.with_name(inside.name.removeprefix("test_"))
        assert path.stem in {"conftest", *spanning} or module.exists(), path
