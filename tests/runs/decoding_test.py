"""Decoding: what is refused, and names that tell settings apart."""

import itertools

import pytest

from recllm_tasks.errors import UserError
from recllm_tasks.runs.decoding import Decoding, seen_rule


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("constrained", "x", "True or False"),
        ("constrained", 1, "True or False"),
        ("seen", "kept", "leave_out or keep, or nothing for the dataset's default"),
        ("seen", True, "leave_out or keep"),
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
    rules = ((True, "keep"), (True, "leave_out"), (False, "keep"))
    settings = itertools.product((10, 20), rules, ("beam", "score"))
    names = {Decoding(beams, *rule, method).name for beams, rule, method in settings}
    assert len(names) == 12
    weights = (0, 1, 1.25, 1.250001, "validation")
    assert len({Decoding(seen="keep", prior_weight=w).name for w in weights}) == len(weights)
    assert Decoding(seen="keep", prior_weight=1.2).name == "beam20-prior1.2"
    assert Decoding(seen="keep").name == Decoding(seen="keep", batch_size=1).name == "beam20"


def test_text_has_no_prior():
    with pytest.raises(UserError, match=r"got 1\.5 with CONSTRAINED=False"):
        Decoding(constrained=False, prior_weight=1.5)


def test_a_rule_is_known_before_there_is_a_name():
    with pytest.raises(ValueError, match="got None, expected a resolved rule"):
        _ = Decoding().name


@pytest.mark.parametrize(
    ("asked", "keeps_repeats", "constrained", "rule"),
    [
        (None, False, True, "leave_out"),
        (None, True, True, "keep"),
        (None, False, False, "keep"),  # free text
        ("keep", False, True, "keep"),
        ("leave_out", True, True, "leave_out"),
    ],
)
def test_the_rule_is_the_datasets_unless_one_is_given(asked, keeps_repeats, constrained, rule):
    found = Decoding(seen=asked, constrained=constrained).resolved(keeps_repeats)
    assert found == Decoding(seen=rule, constrained=constrained)
    if constrained:
        assert seen_rule(asked, keeps_repeats) == rule


def test_free_text_cannot_leave_seen_items_out():
    with pytest.raises(UserError, match="SEEN: got 'leave_out' with CONSTRAINED=False"):
        Decoding(seen="leave_out", constrained=False)
