"""Vocabularies: damaged files, and decoding many texts."""

import pathlib

import numpy as np
import pytest

from recllm_tasks.errors import UserError
from recllm_tasks.prompts.vocabulary import FILE_NAME, DatasetVocabulary


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_damaged_file_is_reported_and_a_restored_one_read(small_data_dir, tmp_path, kept):
    whole = next(small_data_dir.rglob(FILE_NAME)).read_bytes()
    path = pathlib.Path(tmp_path) / FILE_NAME
    vocabulary = DatasetVocabulary(lambda: str(path))
    with pytest.raises(UserError, match="No vocabulary at"):
        vocabulary.encode("Item")
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match=r"Damaged vocabulary '.*vocabulary\.model'"):
        vocabulary.encode("Item")
    path.write_bytes(whole)
    assert vocabulary.decode(vocabulary.encode("Item")) == "Item"


def test_an_opened_vocabulary_decodes_each_array_once(small_data_dir, monkeypatch):
    path = str(next(small_data_dir.rglob(FILE_NAME)))
    vocabulary = DatasetVocabulary(lambda: path)
    beams = np.array([[*vocabulary.encode("I7"), vocabulary.eos_id, 0, 5]], np.int32)
    expected = [vocabulary.decode(beam.tolist()) for beam in beams]
    with vocabulary.opened():
        assert [vocabulary.decode(beam) for beam in np.tile(beams, (3, 1))] == expected * 3
        monkeypatch.setattr(type(vocabulary), "_decode", None)
        assert [vocabulary.decode(beam) for beam in beams] == expected
    monkeypatch.undo()
    assert vocabulary.decode(beams[0]) == expected[0] == "I7"
