"""Every learner of the study of forgetting has a run that can be trained."""

import pytest

from metarl.experiments.forgetting_settings import SETTINGS, run_config
from metarl.experiments.kinds import kind_of_run


@pytest.mark.parametrize("family", SETTINGS)
def test_every_learner_of_the_study_can_be_trained(family):
    setting = SETTINGS[family]
    for name, row in setting.rows.items():
        config = run_config(setting, name, 3)
        assert (config.family_name, config.train.algorithm, config.train.seed) == (family, row.algorithm, 3)
        assert kind_of_run(config).settle(config, config) == config
        assert all(getattr(config.train, key) == value for key, value in row.changes.items())


@pytest.mark.parametrize("family", SETTINGS)
def test_what_is_pictured_is_part_of_the_study(family):
    rows = SETTINGS[family].rows
    for name, holding in SETTINGS[family].pictured:
        assert holding in rows[name].holdings
