"""The study of gradient curiosity makes each run once, and its table compares seed by seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metarl.experiments import study_curiosity
from metarl.experiments.curiosity_pictures import mislabeled
from metarl.experiments.study_curiosity import SETTINGS, WAYS, Study, main, markdown, run_config
from metarl.few_shot.config import NetConfig
from metarl.tasks import make_family

NOISY = "5 shots, 20 % mislabeled"


def test_what_is_made_is_kept_and_not_made_again(tmp_path: Path, real_omniglot: Path, monkeypatch: pytest.MonkeyPatch):
    tiny = replace(study_curiosity.TRAIN, net=NetConfig(filters=2), iterations=1, meta_batch_size=2)
    monkeypatch.setattr(study_curiosity, "TRAIN", tiny)
    monkeypatch.setattr(study_curiosity, "TEST_TASKS", 5)
    options = ["--seeds", "1", "--ways", "none", "plain", "--output", str(tmp_path), "--data", str(real_omniglot)]
    monkeypatch.setattr("sys.argv", ["study", *options])
    main()
    made = json.loads((tmp_path / "omniglot.json").read_text())["runs"]
    assert [(run["setting"], run["way"]) for run in made] == [
        (setting, way) for setting in SETTINGS for way in ("none", "plain")
    ]
    plain, noisy = made[1], made[5]
    assert -1.0 <= plain["like_norm"] <= 1.0
    assert plain["weight_of_mislabeled"] is None
    assert 0.0 < noisy["weight_of_mislabeled"] < 3.0
    assert made[0]["like_norm"] is None
    with Image.open(tmp_path / "plain-5-shots-20-mislabeled.png") as picture:
        assert picture.size[0] > 500
    monkeypatch.setattr(study_curiosity, "train_and_judge", None)  # nothing is trained a second time
    main()
    assert json.loads((tmp_path / "omniglot.json").read_text())["runs"] == made


def test_mislabeled_examples_are_those_whose_target_is_of_another_class(real_omniglot: Path):
    options = {"shots": 5, "queries": 1, "data": str(real_omniglot)}
    clean, noisy = (make_family("omniglot", label_noise=noise, **options) for noise in (0.0, 0.2))
    tasks = clean.sample_test(np.random.default_rng(0), 20)
    assert not mislabeled(clean, tasks).any()
    wrong = clean.examples(tasks).support_targets != noisy.examples(tasks).support_targets
    assert wrong.sum() == 100  # a fifth of 20 x 25
    assert (mislabeled(noisy, tasks) == wrong).all()


def entry(way: str, seed: int, accuracy: float) -> dict:
    weight, rank = (None, None) if way == "none" else (1.25, 0.5)
    found = {"accuracy": accuracy, "weight_of_mislabeled": weight, "like_norm": rank}
    return {"way": way, "setting": NOISY, "seed": seed} | found


def test_the_table_compares_the_seeds_that_both_have():
    none = [entry("none", seed, accuracy) for seed, accuracy in ((1, 0.80), (2, 0.60), (3, 0.70))]
    loss = [entry("loss", seed, accuracy) for seed, accuracy in ((3, 0.71), (2, 0.61))]
    assert "| loss | 2 | 66.00 ± 63.53 % | +1.00 ± 0.00 |" in markdown({"runs": none + loss})
    assert "| loss | 2 | 66.00 ± 63.53 % |  |" in markdown({"runs": loss})


def test_the_table_compares_with_no_weights_seed_by_seed():
    accuracies = {"none": (0.80, 0.90), "loss": (0.81, 0.93)}
    runs = [entry(way, seed, values[seed - 1]) for way, values in accuracies.items() for seed in (2, 1)]
    none, loss = markdown({"runs": runs}).splitlines()[2:]
    assert none == f"| {NOISY} | none | 2 | 85.00 ± 63.53 % |  |  |  |"
    half = 12.706 * np.std([1.0, 3.0], ddof=1) / 2**0.5
    assert loss == f"| {NOISY} | loss | 2 | 87.00 ± 76.24 % | +2.00 ± {half:.2f} | 1.25 | 0.50 |"


def test_every_way_reaches_the_training(real_omniglot: Path):
    study = Study(data=str(real_omniglot))
    runs = {way: run_config(study, way, NOISY, 3) for way in WAYS}
    assert all(run.train.seed == 3 and run.family.label_noise == 0.2 for run in runs.values())
    assert len({(repr(run.train.curiosity), run.train.inner.step_size) for run in runs.values()}) == len(WAYS)
    assert runs["none, shorter steps"].train.inner.step_size < runs["none"].train.inner.step_size


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match=r"ways must be some of none, loss, .* got luck"):
        Study(ways=("luck",))
