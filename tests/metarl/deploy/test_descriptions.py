"""Spaces through JSON: the same again, or refused before anything large is made."""

from __future__ import annotations

from collections import OrderedDict

import msgspec
import numpy as np
import pytest
from gymnasium import spaces

from metarl.deploy.descriptions import SpaceDescription, build_space, describe_space
from metarl.spaces import UnsupportedSpace

SPACES = [
    spaces.Box(-1.0, 1.0, (3,), np.float64),
    spaces.Box(-np.inf, np.inf, ()),
    spaces.Box(0, 255, (2, 2, 3), np.uint8),
    spaces.Box(np.array([-0.1, -np.inf], np.float32), np.array([1 / 3, np.inf], np.float32)),
    spaces.Box(0, 2**63 - 3, (1,), np.int64),
    spaces.Box(0, 1, (2,), np.bool_),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [0, 5]], dtype=np.int32),
    spaces.MultiBinary((2, 3)),
    spaces.MultiBinary(3),
    spaces.Dict(OrderedDict(z=spaces.Discrete(3), a=spaces.Tuple((spaces.Box(0, 1, (2, 2)), spaces.Discrete(2))))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_comes_back_as_it_was(space):
    written = msgspec.json.encode(describe_space(space))
    assert build_space(msgspec.json.decode(written, type=SpaceDescription), spaces.flatdim(space)) == space


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Dict({1: spaces.Discrete(2)})], ids=str)
def test_a_space_that_json_cannot_hold_is_refused(space):
    with pytest.raises(UnsupportedSpace, match="saved"):
        describe_space(space)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"space":"Box","shape":[1000000,10000000],"dtype":"float32","low":0,"high":1}', "more numbers"),
        ('{"space":"Box","shape":[-5],"dtype":"float32","low":0,"high":1}', "at least 1"),
        ('{"space":"Box","shape":[2],"dtype":"float32","low":[0],"high":1}', "one number or 2, got 1"),
        ('{"space":"Box","shape":[2],"dtype":"float32","low":1,"high":0}', "not be above"),
        ('{"space":"Box","shape":[1],"dtype":"int8","low":-400,"high":1}', "-400"),
        ('{"space":"Box","shape":[1],"dtype":"int8","low":null,"high":1}', "infinity"),
        ('{"space":"Discrete","n":1000000000000,"start":0,"dtype":"int64"}', "more numbers"),
        ('{"space":"Discrete","n":-1,"start":0,"dtype":"int64"}', "at least 1"),
        ('{"space":"MultiDiscrete","shape":[2],"nvec":[2],"start":[0],"dtype":"int64"}', "2 numbers each, got 1 and 1"),
        ('{"space":"MultiDiscrete","shape":[1],"nvec":[2],"start":[-1],"dtype":"uint8"}', "-1"),
        ('{"space":"MultiBinary","shape":[0]}', "at least 1"),
        ('{"space":"Tuple","parts":[%s,%s]}' % (('{"space":"MultiBinary","shape":[60]}',) * 2), "more numbers"),
        ('{"space":"Dict","parts":[%s,%s]}' % (('["a",{"space":"MultiBinary","shape":[3]}]',) * 2), "must differ"),
        ('{"space":"Box","shape":[1],"dtype":"O","low":0,"high":1}', "Invalid enum"),
        ('{"space":"Text"}', "Invalid value"),
    ],
)  # fmt: skip
def test_a_description_that_is_not_of_a_space_is_refused(content, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_space(msgspec.json.decode(content, type=SpaceDescription), 100)


@pytest.mark.parametrize("shape", [[9] * 100_000, [10**18] * 40, [10**18, 10**18]], ids=["long", "both", "large"])
def test_a_shape_of_too_many_or_too_large_axes_is_refused_at_once(shape):
    document = msgspec.json.encode({"space": "MultiBinary", "shape": shape})
    with pytest.raises((ValueError, msgspec.ValidationError)):
        build_space(msgspec.json.decode(document, type=SpaceDescription), 10**6)
