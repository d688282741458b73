"""Omniglot: which drawings an episode shows, rotations, splits, noise, where data is looked for."""

from __future__ import annotations

import re
import shutil
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import metarl
from metarl.envs import Omniglot, omniglot
from metarl.envs.data import DownloadFailed, InvalidPictures, MissingData
from metarl.tasks import FewShotFamily


def read(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of character and drawing that the small set's pictures ``[..., 1, 8, 8]`` tell by their bits of ink."""
    values = (inputs[..., 0, :2, :] @ (2.0 ** np.arange(8))).astype(int)
    return values[..., 0], values[..., 1]


def small(root, **options):
    """A family over the small set, turned only if asked to."""
    return Omniglot(**{"data": str(root), "size": 8, "rotations": False, "split": "alphabets"} | options)


def test_support_and_query_share_no_drawing_and_all_drawings_of_a_class_show_its_character(small_omniglot):
    family = small(small_omniglot(), ways=4, shots=3, queries=2)
    episodes = family.examples(family.sample(np.random.default_rng(0), 50))
    for inputs, targets, each in (
        (episodes.support_inputs, episodes.support_targets, 3),
        (episodes.query_inputs, episodes.query_targets, 2),
    ):
        shown, _ = read(inputs)
        assert inputs.shape == (50, 4 * each, 1, 8, 8)
        assert_array_equal(targets, np.tile(np.repeat(np.arange(4), each), (50, 1)))
        assert_array_equal(shown.reshape(50, 4, each).min(axis=2), shown.reshape(50, 4, each).max(axis=2))
    characters, drawings = read(np.concatenate([episodes.support_inputs, episodes.query_inputs], axis=1))
    for task in range(50):
        assert len(set(zip(characters[task], drawings[task], strict=True))) == 20
        assert len(set(characters[task])) == 4


@pytest.mark.parametrize("split", ["random", "alphabets"])
def test_training_validation_and_test_share_no_character(small_omniglot, split):
    family = small(small_omniglot(background=60, evaluation=40, drawings=2), split=split, ways=3)
    rng = np.random.default_rng(0)
    seen = [
        set(read(family.examples(sample(rng, 400)).query_inputs)[0].ravel())
        for sample in (family.sample, family.sample_validation, family.sample_test)
    ]
    assert len(seen[0] | seen[1] | seen[2]) == sum(map(len, seen)) == 100
    assert [len(part) for part in seen] == {"random": [67, 6, 27], "alphabets": [54, 6, 40]}[split]
    assert (seen[2] == set(range(60, 100))) == (split == "alphabets")


def test_the_split_seed_draws_the_split_and_the_same_seed_the_same(small_omniglot):
    root = small_omniglot()
    first, again, other = (set(small(root, split="random", split_seed=seed).table.names[:13]) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("turn", range(4))
def test_a_rotated_class_is_the_drawing_turned_counterclockwise_in_support_and_query(small_omniglot, turn):
    root = small_omniglot()
    tasks = small(root, ways=2).sample(np.random.default_rng(0), 1)
    plain = small(root, ways=2).examples(tasks)
    tasks[0, 2] = turn  # of the first class; the second is not turned
    turned = small(root, ways=2, rotations=True).examples(tasks)
    for before, after in ((plain[0], turned[0]), (plain[2], turned[2])):
        assert_array_equal(after[0, 0, 0], np.rot90(before[0, 0, 0], turn))
        assert_array_equal(after[0, 1], before[0, 1])
    assert turned.support_labels[0, 0] == turned.query_labels[0, 0] == 4 * plain.support_labels[0, 0] + turn


def test_rotations_make_four_classes_of_each_training_character(small_omniglot):
    root = small_omniglot()
    assert small(root).training_classes == 18
    family = small(root, rotations=True)
    assert family.training_classes == 72
    rng = np.random.default_rng(0)
    labels = family.examples(family.sample(rng, 500)).support_labels
    assert set(labels.ravel()) == set(range(72))
    assert family.examples(family.sample_test(rng, 500)).support_labels.min() >= 72
    tasks = family.sample(rng, 500)
    assert all(len(set(task[:5])) == 5 for task in tasks)  # no character in two turns


def test_ink_is_one_and_paper_zero(small_omniglot):
    family = small(small_omniglot())
    inputs = family.examples(family.sample(np.random.default_rng(0), 20)).support_inputs
    assert inputs.dtype == np.float32
    assert set(np.unique(inputs)) == {0.0, 1.0}
    assert (inputs[..., 2:, :] == 0.0).all()


def test_the_same_generator_gives_the_same_episodes_and_another_others(small_omniglot):
    family = small(small_omniglot(), shots=2)
    first, again, other = (family.examples(family.sample(np.random.default_rng(seed), 5)) for seed in (0, 0, 1))
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not np.array_equal(first.support_inputs, other.support_inputs)


def test_variants_are_judged_on_the_same_query_drawings(small_omniglot):
    family = small(small_omniglot(), shots=2)
    plain = family.examples(family.sample_test(np.random.default_rng(0), 5))
    for name, variant in family.variants().items():
        queries = variant.examples(variant.sample_test(np.random.default_rng(0), 5)).query_inputs
        assert np.array_equal(queries, plain.query_inputs) == (name != "input noise 0.3"), name


def test_input_noise_has_its_standard_deviation_on_support_and_query_and_repeats_with_the_task(small_omniglot):
    root = small_omniglot()
    tasks = small(root).sample(np.random.default_rng(0), 100)
    plain, noisy = small(root).examples(tasks), small(root, input_noise=0.3).examples(tasks)
    for index in (0, 2):
        noise = noisy[index] - plain[index]
        assert noise.std() == pytest.approx(0.3, rel=0.02)
        assert noise.mean() == pytest.approx(0.0, abs=0.005)
    assert_array_equal(noisy.support_inputs, small(root, input_noise=0.3).examples(tasks).support_inputs)
    assert_array_equal(noisy.support_targets, plain.support_targets)


def test_label_noise_replaces_its_share_of_support_labels_by_others_of_the_task(small_omniglot):
    root = small_omniglot()
    tasks = small(root, shots=4).sample(np.random.default_rng(0), 60)
    plain, noisy = small(root, shots=4).examples(tasks), small(root, shots=4, label_noise=0.2).examples(tasks)
    assert_array_equal((plain.support_targets != noisy.support_targets).sum(axis=1), np.full(60, 4))
    assert set(noisy.support_targets.ravel()) == set(range(5))
    assert_array_equal(noisy.query_targets, plain.query_targets)
    assert_array_equal(noisy.support_labels, plain.support_labels)


def test_each_task_of_a_sequence_is_of_another_test_alphabet(small_omniglot):
    """The test characters of the small set are six alphabets of five."""
    family = small(small_omniglot(evaluation=30), ways=3)
    tasks = family.sequence(np.random.default_rng(0), 40, 4)
    shown = read(family.examples(tasks.reshape(160, -1)).query_inputs)[0].reshape(40, 4, 3)
    alphabets = shown // 5
    assert (alphabets == alphabets[..., :1]).all()
    assert all(len(set(row)) == 4 for row in alphabets[..., 0].tolist())
    assert all(len(set(task)) == 3 for task in shown.reshape(160, 3).tolist())
    assert set(shown.ravel()) == set(range(20, 50)), "all test characters, and no others"
    assert len({tuple(row) for row in alphabets[..., 0].tolist()}) > 30, "in random order"
    assert_array_equal(tasks, family.sequence(np.random.default_rng(0), 40, 4))


def test_a_sequence_longer_than_there_are_alphabets_is_refused_with_numbers(small_omniglot):
    family = small(small_omniglot(), ways=3)
    with pytest.raises(InvalidPictures, match=r"of 3 3-way tasks needs 3 alphabets of at least 3 test .* has 2; lower"):
        family.sequence(np.random.default_rng(0), 5, 3)


def test_the_family_fulfils_the_contract_and_says_its_shapes_without_data():
    family = metarl.make_family("omniglot", ways=20, data="/nowhere")
    assert (family.kind, family.input_shape, family.outputs) == ("classification", (1, 28, 28), 20)


def test_variants_need_no_more_drawings_than_there_are():
    assert list(Omniglot(queries=15).variants()) == ["1 shot", "2 shots", "5 shots", "input noise 0.3"]
    assert list(Omniglot(shots=5).variants()) == [
        "1 shot", "2 shots", "5 shots", "10 shots", "input noise 0.3", "label noise 0.2",
    ]  # fmt: skip


def test_folders_and_zips_give_the_same_episodes(small_omniglot, monkeypatch):
    zipped = small(small_omniglot())
    tasks = zipped.sample(np.random.default_rng(0), 10)
    wanted = zipped.examples(tasks)
    root = small_omniglot(zipped=False)
    for part in omniglot.PARTS:
        (root / f"{part}.zip").unlink()
    omniglot.load_omniglot.cache_clear()
    omniglot.omniglot_table.cache_clear()
    got = zipped.examples(tasks)
    assert all(np.array_equal(*pair) for pair in zip(got, wanted, strict=True))


def test_the_data_root_comes_from_the_option_else_from_the_environment(small_omniglot, monkeypatch, tmp_path):
    root = small_omniglot()
    monkeypatch.setenv("METARL_DATA", str(root))
    assert small(root, data=None).training_classes == 18
    monkeypatch.setenv("METARL_DATA", str(tmp_path / "missing"))
    assert small(root).training_classes == 18
    with pytest.raises(MissingData, match=r"must exist; got '.*missing' from METARL_DATA; create it"):
        assert small(root, data=None).training_classes


def test_a_missing_set_is_downloaded_and_a_wrong_one_is_not_kept(small_omniglot, tmp_path, monkeypatch):
    """The small set has not the official checksum, so that it is refused."""
    served, root = small_omniglot(), tmp_path / "empty"
    root.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(omniglot, "ADDRESS", f"http://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(DownloadFailed, match=r"images_background\.zip must have the checksum md5:68d2"):
            assert small(root).training_classes
    finally:
        server.shutdown()
        server.server_close()
    assert [path for path in root.rglob("*.zip*") if not path.name.startswith(".")] == []


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_set_of_something_else_is_refused(tmp_path, make_zip, monkeypatch):
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "cache"))
    make_zip({"readme.txt": b"nothing"}, "images_background.zip")
    make_zip({"readme.txt": b"nothing"}, "images_evaluation.zip")
    with pytest.raises(InvalidPictures, match=r"must hold Omniglot's drawings as ALPHABET/characterNN/NAME\.png"):
        assert small(tmp_path).training_classes


def test_a_set_that_lies_in_two_places_is_refused(small_omniglot):
    """Else a drawing could be both support and query."""
    root = small_omniglot(zipped=False)
    background = root / "omniglot" / "images_background"
    shutil.copytree(background, background / "images_background")
    with pytest.raises(InvalidPictures, match="must hold each of Omniglot's drawings once"):
        assert small(root).training_classes


def test_a_task_is_described_by_its_characters(small_omniglot):
    family = small(small_omniglot(), ways=2)
    task = family.sample_test(np.random.default_rng(0), 1)[0]
    assert re.fullmatch(r"Alphabet_0[45]/character0\d, Alphabet_0[45]/character0\d", family.describe(task))


def test_too_few_characters_or_drawings_are_refused_with_numbers(small_omniglot):
    root = small_omniglot(drawings=3)
    with pytest.raises(InvalidPictures, match="19-way tasks need at least 19 train classes; Omniglot has 18"):
        small(root, ways=19).sample(np.random.default_rng(0), 1)
    with pytest.raises(InvalidPictures, match=r"need 2 \+ 2 pictures of each class.* of Omniglot has 3; lower shots"):
        small(root, shots=2, queries=2).sample(np.random.default_rng(0), 1)


def test_impossible_values_are_refused(small_omniglot):
    with pytest.raises(ValueError, match=r"shots \+ queries must be at most 20, .* got 10 \+ 15"):
        Omniglot(shots=10, queries=15)
    with pytest.raises(ValueError, match="ways must be a whole number of at least 2; got 1"):
        Omniglot(ways=1)
    with pytest.raises(ValueError, match="split must be one of 'random', 'alphabets'; got 'vinyals'"):
        Omniglot(split="vinyals")
    with pytest.raises(ValueError, match=r"label_noise must lie in \[0, 1\], .* got 1\.5"):
        Omniglot(label_noise=1.5)
    family = small(small_omniglot())
    tasks = family.sample(np.random.default_rng(0), 3)
    with pytest.raises(ValueError, match=r"shape \[M, 21\] with M >= 1"):
        family.examples(tasks[:, :-1])
    for column, value in ((0, 30), (5, 1), (10, 20), (15, 20)):  # class, turn, support, query
        broken = tasks.copy()
        broken[1, column] = value
        with pytest.raises(ValueError, match="pictures that are there; task 1 does not"):
            family.examples(broken)


def test_the_real_set_has_the_customary_numbers_of_characters(real_omniglot):
    family = Omniglot(data=str(real_omniglot))
    assert isinstance(family, FewShotFamily)
    table = family.table
    assert {name: len(part) for name, part in table.splits.items()} == {"train": 1100, "validation": 100, "test": 423}
    assert len(set(table.names)) == 1623
    assert (table.sizes == 20).all()
    assert family.training_classes == 4400
    by_alphabet = Omniglot(data=str(real_omniglot), split="alphabets").table
    assert [len(part) for part in by_alphabet.splits.values()] == [868, 96, 659]
    alphabets = [
        {by_alphabet.names[place].split("/")[0] for place in by_alphabet.splits[name]} for name in table.splits
    ]
    assert len(alphabets[0]) == 30
    assert len(alphabets[2]) == 20
    assert not (alphabets[0] | alphabets[1]) & alphabets[2]


def test_pixels_of_the_real_set_tell_characters_apart_as_well_as_is_known(real_omniglot):
    """Nearest neighbor by pixels reaches 0.42 on 5-way 1-shot tasks of the evaluation alphabets; 2000 queries."""
    family = Omniglot(data=str(real_omniglot), split="alphabets", rotations=False)
    episodes = family.examples(family.sample_test(np.random.default_rng(0), 400))
    support, query = (inputs.reshape(400, 5, -1) for inputs in (episodes.support_inputs, episodes.query_inputs))
    nearest = ((query[:, :, None] - support[:, None]) ** 2).sum(axis=-1).argmin(axis=-1)
    assert (nearest == episodes.query_targets).mean() == pytest.approx(0.42, abs=0.04)


def test_a_cached_set_opens_in_a_fifth_of_a_second(real_omniglot):
    """Measured 0.02 s; the best of three, since machines may be busy."""
    durations = []
    for _ in range(3):
        omniglot.load_omniglot.cache_clear()
        omniglot.omniglot_table.cache_clear()
        start = time.perf_counter()
        Omniglot(data=str(real_omniglot)).sample(np.random.default_rng(0), 1)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.2


def test_drawings_are_smoothed_not_picked_when_made_small(real_omniglot):
    """One-bit pictures would have two gray levels only, had they not been made gray first."""
    family = Omniglot(data=str(real_omniglot))
    inputs = family.examples(family.sample(np.random.default_rng(0), 20)).support_inputs
    assert len(np.unique(inputs)) > 50
    assert_allclose([inputs.min(), inputs.max()], [0.0, 1.0], atol=0.02)
    assert 0.02 < inputs.mean() < 0.2
