"""Decoding: what is refused, and names that tell settings apart."""

import itertools

import pytest

from recllm_tasks.errors import UserError
from recllm_tasks.runs.decoding import Decoding


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("constrained", "x", "True or False"),
        ("constrained", 1, "True or False"),
        ("exclude_history", "False", "True or False"),
        ("method", "greedy", "one of beam, score"),
        ("num_beams", 0, "a whole number of at least 1"),
        ("batch_size", 2.5, "a whole number of at least 1"),
        ("prior_weight", -1.0, "a number of at least 0"),
        ("prior_weight", float("nan"), "a number of at least 0"),
        ("prior_weight", "test", "a number of at least 0 or 'validation'"),
    ],
)
def test_a_wrong_setting_is_refused_under_its_macros_name(name, value, expected):
    with pytest.raises(UserError, match=f"{name.upper()}: got {value!r}, expected {expected}"):
        Decoding(**{name: value})


def test_settings_with_other_results_have_other_names():
    settings = itertools.product((10, 20), (True, False), (True, False), ("beam", "score"))
    names = {Decoding(*values).name for values in settings}
    assert len(names) == 16
    weights = (0, 1, 1.25, 1.250001, "validation")
    assert len({Decoding(prior_weight=weight).name for weight in weights}) == len(weights)
    assert Decoding(prior_weight=1.2).name == "beam20-prior1.2"
    assert Decoding().name == Decoding(batch_size=1).name == "beam20"


def test_text_has_no_prior():
    with pytest.raises(UserError, match=r"got 1\.5 with CONSTRAINED=False"):
        Decoding(constrained=False, prior_weight=1.5)
