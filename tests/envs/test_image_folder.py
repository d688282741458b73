"""Pictures in folders and in mini-ImageNet's layout: what is read, which classes are for what, what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import metarl
from metarl.envs import ImageFolder, MiniImageNet
from metarl.envs.data import InvalidPictures, MissingData
from metarl.tasks import FewShotFamily

PER_CLASS = 4


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METARL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def classes(make_picture):
    """A function that makes the files of class folders; red tells which picture it is, four of each class."""

    def build(folders, prefix="", start=0):
        return {
            f"{prefix}{folder}/{number}.png": make_picture(PER_CLASS * (start + place) + number)
            for place, folder in enumerate(folders)
            for number in range(PER_CLASS)
        }

    return build


@pytest.fixture
def tabled(make_picture):
    """Files in mini-ImageNet's layout: six classes for training, three for validation, three for test."""
    files, number = {}, 0
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        lines = ["filename,label"]
        for place in range(count):
            for _ in range(PER_CLASS):
                files[f"images/p{number:03d}.jpg"] = make_picture(number, suffix="PNG")
                lines.append(f"p{number:03d}.jpg,{split}{place}")
                number += 1
        files[f"{split}.csv"] = "\n".join(lines).encode()
    return files


def family(path, **options):
    return ImageFolder(**{"data": str(path), "ways": 3, "queries": 2, "size": 8} | options)


def shown(inputs):
    """Which pictures ``[..., 3, 8, 8]`` are, by their red."""
    return np.round(inputs[..., 0, 0, 0] * 255.0).astype(int)


def drawn(each, sample):
    """Classes that 200 tasks draw, by which pictures they show."""
    return set((shown(each.examples(sample(np.random.default_rng(0), 200)).query_inputs) // PER_CLASS).ravel())


def test_support_and_query_share_no_picture_and_targets_tell_classes_apart(tmp_path, write_tree, classes):
    each = family(write_tree(tmp_path / "set", classes([f"c{n:02d}" for n in range(12)])), shots=2)
    episodes = each.examples(each.sample(np.random.default_rng(0), 40))
    support, query = shown(episodes.support_inputs), shown(episodes.query_inputs)
    for task in range(40):
        assert len({*support[task], *query[task]}) == 12
    assert_array_equal(support // PER_CLASS, np.repeat((support // PER_CLASS)[:, ::2], 2, axis=1))
    assert_array_equal(episodes.support_targets, np.tile([0, 0, 1, 1, 2, 2], (40, 1)))
    assert episodes.support_labels.max() < each.training_classes


def test_pictures_are_rgb_between_zero_and_one(tmp_path, write_tree, classes):
    each = family(write_tree(tmp_path / "set", classes([f"c{n:02d}" for n in range(12)])))
    inputs = each.examples(each.sample(np.random.default_rng(0), 1)).query_inputs
    assert (inputs.shape, inputs.dtype) == ((1, 6, 3, 8, 8), np.float32)
    assert_allclose(inputs[:, :, 1], 100.0 / 255.0)
    assert_allclose(inputs[:, :, 2], 200.0 / 255.0)


def test_classes_without_a_split_are_split_by_the_seed_into_64_16_and_20_percent(tmp_path, write_tree, classes):
    path = write_tree(tmp_path / "set", classes([f"c{n:02d}" for n in range(25)]))
    each = family(path)
    parts = [drawn(each, sample) for sample in (each.sample, each.sample_validation, each.sample_test)]
    assert [len(part) for part in parts] == [16, 4, 5]
    assert parts[0] | parts[1] | parts[2] == set(range(25))
    assert drawn(family(path), family(path).sample) == parts[0]
    other = family(path, split_seed=1)
    assert drawn(other, other.sample) != parts[0]


@pytest.mark.parametrize("prefix", ["", "wrapped/"])
@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("train", "validation", "test"),
        ("Train", "Val", "Test"),
        ("training", "dev", "testing"),
        ("TRAIN", "valid", "Evaluation"),
    ],
)
def test_split_folders_are_the_splits_of_a_folder_and_of_a_zip(tmp_path, write_tree, make_zip, classes, prefix, names):
    files = {}
    for split, name in enumerate(names):
        files |= classes([f"{name}{n}" for n in range(4)], f"{prefix}{name}/", 4 * split)
    for path in (write_tree(tmp_path / "set", files), make_zip(files)):
        each = family(path)
        assert drawn(each, each.sample) == {0, 1, 2, 3}
        assert drawn(each, each.sample_validation) == {4, 5, 6, 7}
        assert drawn(each, each.sample_test) == {8, 9, 10, 11}


def test_tables_are_the_splits_of_a_folder_and_of_a_zip(tmp_path, write_tree, make_zip, tabled):
    wrapped = {f"mini/{name}": data for name, data in tabled.items()}
    for path in (write_tree(tmp_path / "set", tabled), make_zip(tabled), make_zip(wrapped, "wrapped.zip")):
        each = family(path)
        assert each.training_classes == 6
        assert drawn(each, each.sample) == set(range(6))
        assert drawn(each, each.sample_validation) == {6, 7, 8}
        assert drawn(each, each.sample_test) == {9, 10, 11}


def test_what_systems_leave_behind_is_passed_over(tmp_path, write_tree, classes):
    files = classes([f"c{n:02d}" for n in range(12)])
    files |= {"c00/.hidden.png": b"", "__MACOSX/c00/._0.png": b"", ".git/x.png": b"", "c00/Thumbs.db": b""}
    assert family(write_tree(tmp_path / "set", files)).training_classes == 8


def test_the_same_generator_gives_the_same_episodes(tmp_path, make_zip, classes):
    path = make_zip(classes([f"c{n:02d}" for n in range(12)]))
    first, again = (family(path).examples(family(path).sample(np.random.default_rng(5), 4)) for _ in range(2))
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))


def test_variants_ask_for_no_more_pictures_than_every_class_has(tmp_path, make_zip, classes):
    each = family(make_zip(classes([f"c{n:02d}" for n in range(12)])), shots=2)
    assert list(each.variants()) == ["1 shot", "2 shots", "input noise 0.3", "label noise 0.2"]
    for variant in each.variants().values():
        variant.examples(variant.sample(np.random.default_rng(0), 2))


def test_a_set_is_found_by_name_under_the_data_root(tmp_path, write_tree, classes, monkeypatch):
    write_tree(tmp_path / "root" / "animals", classes([f"c{n:02d}" for n in range(12)]))
    monkeypatch.setenv("METARL_DATA", str(tmp_path / "root"))
    assert family("animals").training_classes == 8
    with pytest.raises(MissingData, match=r"got 'plants', and there is nothing at 'plants', .*/root/plants'"):
        assert family("plants").training_classes


def test_a_task_is_described_by_its_classes(tmp_path, make_zip, classes):
    each = family(make_zip(classes([f"c{n:02d}" for n in range(12)])))
    assert re.fullmatch(r"c\d\d, c\d\d, c\d\d", each.describe(each.sample(np.random.default_rng(0), 1)[0]))


def test_a_folder_without_a_name_is_asked_for():
    with pytest.raises(MissingData, match="option data of image-folder must name a folder or a zip"):
        assert ImageFolder().training_classes


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "Test"), ("training", "eval")])
def test_a_class_in_two_split_folders_is_refused(tmp_path, write_tree, make_zip, classes, names):
    files = classes(["cat", "dog"], f"{names[0]}/") | classes(["dog", "eel"], f"{names[1]}/")
    for path in (write_tree(tmp_path / "set", files), make_zip(files)):
        with pytest.raises(InvalidPictures, match=r"must be in one split, .* 1 are in more: 'dog'"):
            assert family(path).training_classes


def test_a_class_in_two_tables_is_refused(tmp_path, write_tree, tabled):
    tabled["test.csv"] += b"\np000.jpg,train1"
    tabled["train.csv"] = tabled["train.csv"].replace(b"p000.jpg,train0\n", b"")
    with pytest.raises(InvalidPictures, match="1 are in more: 'train1'"):
        assert family(write_tree(tmp_path / "tables", tabled)).training_classes


def test_classes_beside_split_folders_are_refused(tmp_path, write_tree, classes):
    files = classes(["cat", "dog"], "train/") | classes(["eel"])
    with pytest.raises(InvalidPictures, match=r"4 of 12 pictures are in none of them: 'eel/0\.png'"):
        assert family(write_tree(tmp_path / "set", files)).training_classes


def test_a_class_that_is_called_train_is_a_class(tmp_path, write_tree, classes):
    names = ["train", "test", "bus", *(f"c{n}" for n in range(9))]
    assert family(write_tree(tmp_path / "set", classes(names))).training_classes == 8


def test_tables_that_do_not_fit_are_refused(tmp_path, write_tree, tabled):
    def refused(match, **changes):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        files = {name: data for name, data in (tabled | changes).items() if data is not None}
        with pytest.raises(InvalidPictures, match=match):
            assert family(write_tree(path, files)).training_classes

    refused(r"missing: val\.csv", **{"val.csv": None})
    pictures = dict.fromkeys(["images/p000.jpg", "images/p009.jpg"])
    refused("2 of 48 are not: 'images/p000.jpg', 'images/p009.jpg'", **pictures)
    again = tabled["train.csv"] + b"\np000.jpg,train0"
    refused("1 stand in them more often: 'images/p000.jpg'", **{"train.csv": again})
    refused("columns filename,label; got file,class", **{"test.csv": b"file,class\np1.jpg,x"})
    refused("line 3 has not", **{"test.csv": b"filename,label\np000.jpg,a\np001.jpg,\n"})
    refused("must be comma-separated text in UTF-8", **{"test.csv": b"\xff\xfe\x00"})
    refused("1 of 37 are not: 'images/../../secret.jpg'", **{"test.csv": b"filename,label\n../../secret.jpg,a"})


def test_pictures_outside_of_classes_are_refused(tmp_path, write_tree, make_picture):
    with pytest.raises(InvalidPictures, match="got 1 pictures, 1 of them in no folder"):
        assert family(write_tree(tmp_path / "loose", {"0.png": make_picture(0)})).training_classes
    with pytest.raises(InvalidPictures, match="got 0 pictures"):
        assert family(write_tree(tmp_path / "none", {"c/readme.txt": b""})).training_classes


def test_a_broken_picture_is_named(tmp_path, write_tree, classes):
    files = classes([f"c{n:02d}" for n in range(12)])
    files["c03/2.png"] = files["c03/2.png"][:40]
    with pytest.raises(InvalidPictures, match=r"could not read 'c03/2\.png' in '.*/set'"):
        assert family(write_tree(tmp_path / "set", files)).training_classes
    files["c03/2.png"] = b"<html>not found</html>"
    with pytest.raises(InvalidPictures, match=r"could not read 'c03/2\.png' in '.*/page'"):
        assert family(write_tree(tmp_path / "page", files)).training_classes


def test_too_few_classes_or_pictures_are_refused_with_numbers(tmp_path, make_zip, classes):
    path = make_zip(classes([f"c{n:02d}" for n in range(12)]))
    with pytest.raises(InvalidPictures, match=r"9-way tasks need at least 9 train classes; '.*set\.zip' has 8; lower"):
        family(path, ways=9).sample(np.random.default_rng(0), 1)
    with pytest.raises(InvalidPictures, match=r"3-way tasks need at least 3 validation classes; .* has 2"):
        family(path).sample_validation(np.random.default_rng(0), 1)
    with pytest.raises(InvalidPictures, match=r"need 3 \+ 2 pictures of each class, .* has 4; lower shots or queries"):
        family(path, shots=3).sample(np.random.default_rng(0), 1)


def test_mini_imagenet_says_what_to_put_where(tmp_path):
    wanted = r"must be at '.*/mini-imagenet' or '.*/mini-imagenet\.zip'.* not downloaded\. Put there a folder images"
    with pytest.raises(MissingData, match=wanted):
        MiniImageNet(data=str(tmp_path)).sample(np.random.default_rng(0), 1)


@pytest.mark.parametrize("place", ["root", "root/mini-imagenet"])
def test_mini_imagenet_is_found_as_the_set_and_under_the_root(tmp_path, write_tree, tabled, place):
    write_tree(tmp_path / place, tabled)
    each = MiniImageNet(data=str(tmp_path / "root"), ways=3, queries=2, size=8)
    assert each.training_classes == 6
    assert each.examples(each.sample_test(np.random.default_rng(0), 2)).query_inputs.shape == (2, 6, 3, 8, 8)
    assert list(each.variants()) == ["1 shot", "2 shots", "input noise 0.3"]


def test_mini_imagenet_takes_no_other_layout(tmp_path, write_tree, classes):
    write_tree(tmp_path / "mini-imagenet", classes(["a", "b", "c"], "train/"))
    with pytest.raises(InvalidPictures, match=r"must have train\.csv, val\.csv, test\.csv next to the folder images"):
        assert MiniImageNet(data=str(tmp_path)).training_classes


@pytest.mark.parametrize("name", ["image-folder", "mini-imagenet"])
def test_families_say_their_shapes_without_data(name):
    each = metarl.make_family(name)
    assert (each.kind, each.input_shape, each.outputs, each.queries) == ("classification", (3, 84, 84), 5, 15)


def test_photographs_are_told_apart_by_pixels_as_well_as_is_known(real_data, real_cache, monkeypatch):
    """Nearest neighbor by pixels reaches 0.34 on 5-way 1-shot tasks of the test classes; 3000 queries."""
    monkeypatch.setenv("METARL_CACHE", str(real_cache))
    each = MiniImageNet(data=str(real_data / "caltech101-84" / "caltech101-84.zip"))
    assert isinstance(each, FewShotFamily)
    assert [len(part) for part in each.table.splits.values()] == [64, 16, 20]
    episodes = each.examples(each.sample_test(np.random.default_rng(0), 40))
    support, query = (episodes[index].reshape(40, -1, 3 * 84 * 84) for index in (0, 2))
    cross = query @ support.transpose(0, 2, 1)
    nearest = ((support**2).sum(-1)[:, None] - 2.0 * cross).argmin(axis=-1)
    assert (nearest == episodes.query_targets).mean() == pytest.approx(0.34, abs=0.05)


def test_a_folder_that_holds_an_archive_is_told_to_name_it(tmp_path):
    (tmp_path / "shapes.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    with pytest.raises(InvalidPictures, match=r"got 0 pictures.*there is 'shapes.zip': name the archive itself"):
        ImageFolder(data=str(tmp_path)).sample(np.random.default_rng(0), 1)
