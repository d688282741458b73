"""Plug-ins: where they are looked for, and what is said when they cannot be loaded."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from metarl.plugins import LOADED, PluginError, load_entry_points, load_plugin
from metarl.tasks import FAMILIES, DuplicateTaskFamily, make_family, register

FAMILY = """
import metarl

@metarl.register("plugged")
class Plugged:
    def sample(self, rng, count):
        return list(rng.normal(size=count))

    def make_env(self, task):
        raise NotImplementedError
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; whatever a test loads from it is forgotten afterwards."""
    families, loaded = dict(FAMILIES), list(LOADED)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    FAMILIES.clear()
    FAMILIES.update(families)
    LOADED[:] = loaded
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(content))
    return path


def install(site: Path, entry_points: str) -> None:
    """What an installer leaves of a distribution with these entry points."""
    information = site / "plugs-1.0.dist-info"
    write(information / "METADATA", "Metadata-Version: 2.1\nName: plugs\nVersion: 1.0\n")
    write(information / "entry_points.txt", "[metarl.families]\n" + textwrap.dedent(entry_points))
    sys.path.insert(0, str(site))


def test_a_module_is_found_by_name_in_the_working_directory(folder):
    write(folder / "plugged_here.py", FAMILY)
    assert load_plugin("plugged_here").__file__ == str(folder / "plugged_here.py")
    assert len(make_family("plugged").sample(np.random.default_rng(0), 3)) == 3
    assert LOADED[-1] == "plugged_here"


def test_a_module_inside_a_package_is_found_by_its_dotted_name(folder):
    write(folder / "plugged_package" / "__init__.py", "")
    write(folder / "plugged_package" / "inner.py", FAMILY)
    load_plugin("plugged_package.inner")
    assert FAMILIES["plugged"].__module__ == "plugged_package.inner"


def test_a_file_is_loaded_by_its_path_with_what_it_imports_from_beside_it(folder):
    write(folder / "elsewhere" / "plugged_helper.py", "SIZE = 3")
    file = write(folder / "elsewhere" / "plugged_file.py", FAMILY + "    from plugged_helper import SIZE\n")
    load_plugin("elsewhere/plugged_file.py")
    assert FAMILIES["plugged"].__module__ == "plugged_file"
    assert FAMILIES["plugged"].SIZE == 3
    assert sys.modules["plugged_file"].__file__ == str(file)


def test_a_file_named_twice_is_loaded_once(folder):
    write(folder / "plugged_twice.py", FAMILY)
    first = load_plugin("plugged_twice.py")
    assert load_plugin(str(folder / "plugged_twice.py")) is first
    assert load_plugin("plugged_twice") is first


@pytest.mark.parametrize("plugin", ["plugged_broken", "./plugged_broken.py"])
@pytest.mark.parametrize(
    ("last_line", "error"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("import sys; sys.exit(3)", "SystemExit: 3")],
)
def test_a_plug_in_that_does_not_import_is_refused_with_the_traceback(folder, plugin, last_line, error):
    write(folder / "plugged_broken.py", f"import metarl\n\n{last_line}\n")
    with pytest.raises(PluginError) as caught:
        load_plugin(plugin)
    message = str(caught.value)
    assert "plugged_broken" in message.splitlines()[0]
    assert "does not import" in message.splitlines()[0]
    assert f'plugged_broken.py", line 3, in <module>\n    {last_line}' in message
    assert error in message
    assert "plugged_broken" not in sys.modules
    assert plugin not in LOADED


def test_a_plug_in_that_lacks_one_of_its_own_imports_is_not_called_missing(folder):
    write(folder / "plugged_needy.py", "import no_such_library\n")
    with pytest.raises(PluginError, match=r"does not import:[\s\S]*No module named 'no_such_library'"):
        load_plugin("plugged_needy")


@pytest.mark.parametrize("plugin", ["plugged_nowhere", "plugged_nowhere.inner"])
def test_a_module_that_is_not_found_is_refused_with_the_places_searched(folder, plugin):
    with pytest.raises(PluginError) as caught:
        load_plugin(plugin)
    first, *places = str(caught.value).splitlines()
    assert f"no module named '{plugin}'; give its file (./{plugin}.py) or install it" in first
    assert [place.strip() for place in places] == sys.path
    assert places[0].strip() == str(folder)


def test_a_file_that_is_not_there_is_refused_with_its_whole_path(folder):
    with pytest.raises(PluginError, match=rf"no plug-in file {folder}/missing/plugged.py; give the path of a Python"):
        load_plugin("missing/plugged.py")


def test_a_file_with_the_name_of_a_module_in_use_is_refused(folder):
    write(folder / "json.py", FAMILY)
    before = sys.modules["json"]
    with pytest.raises(PluginError, match=r"json.py has the name of the module 'json' in use; rename the file"):
        load_plugin("./json.py")
    assert sys.modules["json"] is before
    assert "plugged" not in FAMILIES


@pytest.mark.parametrize("plugin", ["plugged_rival", "plugged_rival.py"])
def test_two_families_of_one_name_are_refused_by_naming_both(folder, plugin):
    write(folder / "plugged_first.py", FAMILY)
    write(folder / "plugged_rival.py", FAMILY.replace("class Plugged", "class Rival"))
    first = load_plugin("plugged_first").Plugged
    with pytest.raises(DuplicateTaskFamily, match=r"'plugged' .*plugged_first\.Plugged.*plugged_rival\.Rival"):
        load_plugin(plugin)
    assert FAMILIES["plugged"] is first
    assert "plugged_rival" not in sys.modules


def test_families_of_installed_packages_are_known_by_the_names_of_their_entry_points(folder):
    write(folder / "site" / "plugs" / "__init__.py", FAMILY)
    write(folder / "site" / "plugs" / "other.py", "class Other: pass\n\ndef build(): return Other()\n")
    install(folder / "site", "plugged = plugs\nother = plugs.other:Other\nbuilt = plugs.other:build\n")
    assert load_entry_points() == []
    assert FAMILIES["plugged"].__module__ == "plugs"
    assert type(make_family("other")) is type(make_family("built")) is FAMILIES["other"]


def test_entry_points_loaded_again_are_no_duplicates(folder):
    write(folder / "site" / "plugs.py", FAMILY)
    install(folder / "site", "plugged = plugs:Plugged\n")
    assert load_entry_points() == load_entry_points() == []
    assert FAMILIES["plugged"].__module__ == "plugs"


def test_a_broken_entry_point_is_complained_of_and_does_not_stop_the_others(folder):
    write(folder / "site" / "plugs.py", FAMILY + "\nNUMBER = 3\n")
    write(folder / "site" / "plugs_broken.py", "raise OSError('no licence')\n")
    write(folder / "site" / "plugs_leaving.py", "raise SystemExit(3)\n")

    @register("taken")
    class Taken:
        pass

    install(
        folder / "site",
        """
        broken = plugs_broken:Family
        leaving = plugs_leaving:Family
        missing = plugs:Missing
        number = plugs:NUMBER
        taken = plugs:Plugged
        whole = plugs:Plugged
        """,
    )
    complaints = load_entry_points()
    assert FAMILIES["whole"].__module__ == "plugs"
    assert FAMILIES["taken"] is Taken
    expected = {
        "task family 'broken' of plugs_broken:Family: OSError: no licence",
        "task family 'leaving' of plugs_leaving:Family: SystemExit: 3",
        "task family 'missing' of plugs:Missing: AttributeError: module 'plugs' has no attribute 'Missing'",
        "task family 'number' of plugs:NUMBER: TypeError: must be a module, or a class or function that makes a task "
        "family, got 3",
    }
    assert expected < set(complaints)
    (last,) = set(complaints) - expected
    assert last.startswith("task family 'taken' of plugs:Plugged: DuplicateTaskFamily: ")
