"""The study of forgetting makes each run once, of examples and of policies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from metarl.experiments import study_forgetting
from metarl.experiments.forgetting_settings import SETTINGS, Setting
from metarl.experiments.study_forgetting import main


def shortened(
    setting: Setting, learners: tuple[str, ...], tasks: int, iterations: int = 2, **changes: object
) -> Setting:
    """A few iterations of ``learners``, with two ways to hold each."""

    def configure(algorithm: str):
        config = setting.configure(algorithm)
        return replace(config, train=replace(config.train, iterations=iterations, held_out_every=0, **changes))

    rows = {name: setting.rows[name]._replace(holdings=setting.rows[name].holdings[:2]) for name in learners}
    pictured = tuple((name, rows[name].holdings[0]) for name in learners)
    return setting._replace(rows=rows, configure=configure, sequences=3, tasks=tasks, pictured=pictured)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinusoids, cut short."""
    short = shortened(SETTINGS["sinusoid"], ("maml", "fame"), tasks=3)
    monkeypatch.setitem(SETTINGS, "sinusoid", short._replace(own_steps={"maml": 2}))


def study(folder: Path, monkeypatch: pytest.MonkeyPatch, family: str = "sinusoid", *options: str) -> dict:
    folders = ["--runs", str(folder / "runs"), "--output", str(folder / "out")]
    monkeypatch.setattr("sys.argv", ["study", family, "--seeds", "1", *folders, *options])
    main()
    return json.loads((folder / "out" / f"{family}.json").read_text())


def test_what_is_made_is_kept_drawn_and_not_made_again(tmp_path, few, monkeypatch):
    first = study(tmp_path, monkeypatch)
    assert [(run["learner"], run["consolidate"], run["strength"]) for run in first["runs"]] == [
        ("maml", "none", None),
        ("maml", "fisher", 0.1),
        ("fame", "none", None),
        ("fame", "own", None),
    ]
    assert first["runs"][3]["in_force"] == pytest.approx(0.1)
    assert [run["steps"] for run in first["runs"]] == [2, 2, 5, 5]
    with Image.open(tmp_path / "out" / "sinusoid.png") as picture:
        assert picture.size[0] > 500
    assert (tmp_path / "out" / "sinusoid-maml.png").is_file()
    monkeypatch.setattr(study_forgetting, "_trained", None)  # nothing is trained a second time
    assert study(tmp_path, monkeypatch)["runs"] == first["runs"]


def test_policies_are_trained_and_judged_by_their_returns(tmp_path, monkeypatch):
    navigation = SETTINGS["navigation-2d"]
    short = shortened(navigation, ("maml-trpo", "fame"), tasks=2, iterations=1, meta_batch_size=2)
    monkeypatch.setitem(SETTINGS, "navigation-2d", short._replace(episodes=2, steps=1))
    found = study(tmp_path, monkeypatch, "navigation-2d")
    assert [(run["learner"], run["consolidate"], run["in_force"]) for run in found["runs"]] == [
        ("maml-trpo", "none", 0.0),
        ("maml-trpo", "fisher", 0.1),
        ("fame", "none", 0.0),
        ("fame", "own", pytest.approx(0.1)),
    ]
    assert {run["score"] for run in found["runs"]} == {"return"}
    assert all(-200.0 < run["alone"]["mean"] < 0.0 for run in found["runs"])
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "navigation-2d.png",
        "navigation-2d-maml-trpo.png",
        "navigation-2d-fame.png",
    }


def test_a_run_with_other_settings_is_not_taken_for_the_studys(tmp_path, few, monkeypatch):
    study(tmp_path, monkeypatch)
    (tmp_path / "out" / "sinusoid.json").unlink()
    longer = shortened(SETTINGS["sinusoid"], ("maml", "fame"), tasks=3, iterations=3)
    monkeypatch.setitem(SETTINGS, "sinusoid", longer)
    with pytest.raises(SystemExit, match="has other settings than the study"):
        study(tmp_path, monkeypatch)


def test_what_was_made_under_other_settings_does_not_stand_in_the_table(tmp_path, few, monkeypatch):
    study(tmp_path, monkeypatch)
    longer = shortened(SETTINGS["sinusoid"], ("maml", "fame"), tasks=3, iterations=3)
    monkeypatch.setitem(SETTINGS, "sinusoid", longer)
    with pytest.raises(SystemExit, match=r"sinusoid.json has runs under other settings .*iterations: 2 there, 3 now"):
        study(tmp_path, monkeypatch)


def test_a_run_that_was_stopped_is_not_judged_and_goes_on_with_the_same_command(tmp_path, few, monkeypatch):
    start = study_forgetting.training.start

    def stopped(config, directory, console):
        start(replace(config, minutes=1e-9), directory, console)  # after the first iteration, as by Ctrl-C
        written = json.loads((directory / "config.json").read_text()) | {"minutes": None}
        (directory / "config.json").write_text(json.dumps(written))

    monkeypatch.setattr(study_forgetting.training, "start", stopped)
    with pytest.raises(SystemExit, match="was stopped before its end; the same command goes on with it"):
        study(tmp_path, monkeypatch, "sinusoid", "--learners", "maml")
    assert not (tmp_path / "out").exists()
    assert len(study(tmp_path, monkeypatch, "sinusoid", "--learners", "maml")["runs"]) == 2


def test_an_unknown_learner_is_refused():
    with pytest.raises(ValueError, match=r"learners must be some of pretrain, maml, .* got mamml"):
        study_forgetting.Study(family_name="sinusoid", learners=("mamml",))
    with pytest.raises(ValueError, match=r"learners must be some of pretrain, maml-trpo, .* got maml"):
        study_forgetting.Study(family_name="navigation-2d", learners=("maml",))
