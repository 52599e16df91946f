"""What the benchmarks against other libraries share."""

import importlib.util
from pathlib import Path

_PATH = Path(__file__).resolve().parents[2] / "tools" / "side_by_side.py"
_SPEC = importlib.util.spec_from_file_location("side_by_side", _PATH)
side_by_side = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(side_by_side)


def test_every_subject_is_at_every_place_once():
    competitors = dict.fromkeys("abc", 0)
    orders = ["".join(name for name, _ in side_by_side.in_turn(competitors, n)) for n in range(3)]
    assert orders == ["abc", "bca", "cab"]
    assert side_by_side.in_turn(competitors, 3) == side_by_side.in_turn(competitors, 0)
