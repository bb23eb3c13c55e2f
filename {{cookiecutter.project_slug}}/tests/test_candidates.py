"""Every candidate of [train] fits, predicts and can be saved; the settings name what exists."""

from jollyboat.store import project_settings
from jollyboat.testing import check_candidate

import pytest


@pytest.mark.parametrize("name", project_settings().train.candidates)
def test_a_candidate_fits_predicts_and_is_saved(name):
    check_candidate(name)


def test_each_further_section_of_the_settings_belongs_to_a_candidate():
    settings = project_settings()

    assert set(settings.model_extra) <= set(settings.train.candidates)
