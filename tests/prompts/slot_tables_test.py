"""Token tables: built once, kept whole, no part of a graph, refused where they would not do."""

import errno
import os
import pathlib
import shutil

import numpy as np
import pytest
import sentencepiece
import seqio
import tensorflow as tf

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import slot_tables, table_file, templates, token_table
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.vocabulary import DatasetVocabulary

SLOT = templates.Items("history")


@pytest.fixture
def source(small_data_dir, tmp_path):
    """A copy of the small dataset, to write beside."""
    shutil.copytree(small_data_dir, tmp_path / "data")
    seqio.set_tfds_data_dir_override(str(tmp_path / "data"))
    for table in (tmp_path / "data").rglob("tokens-*"):
        table.unlink()
    yield CatalogSource("gift_cards")
    seqio.set_tfds_data_dir_override(None)


def _table(source):
    slot_tables._stored_table.cache_clear()
    return slot_tables.slot_table(SLOT, source, tasks.features(source)["inputs"].vocabulary, None)


def _files(source):
    return [name for name in os.listdir(source.dataset_dir()) if name.startswith("tokens-")]


def test_a_table_is_built_once_and_mapped(source, monkeypatch):
    built = _table(source)
    assert len(_files(source)) == 1
    monkeypatch.setattr(slot_tables, "_build", None)
    again = _table(source)
    assert not again.values.flags.writeable
    np.testing.assert_array_equal(built.values, again.values)
    np.testing.assert_array_equal(built.splits, again.splits)
    vocabulary = tasks.features(source)["inputs"].vocabulary
    text = token_table.write_item(source.catalog(), SLOT.form, 3)
    assert again.values[again.splits[3] : again.splits[4]].tolist() == vocabulary.encode(text)


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_a_damaged_file_is_replaced(source, damage):
    # A copy: the table itself is mapped from the file that is damaged here.
    built = np.array(_table(source).values)
    (name,) = _files(source)
    path = pathlib.Path(source.dataset_dir(), name)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-9]
    elif damage == "changed":
        content[-9] ^= 1
    else:
        content = b"no table"
    path.write_bytes(content)
    assert table_file.load(path) is None
    np.testing.assert_array_equal(_table(source).values, built)
    assert table_file.load(path) is not None


def test_a_folder_that_cannot_be_written_to_keeps_none_and_says_so_once(
    source, monkeypatch, capsys
):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(table_file, "save", refuse)
    for _ in range(2):
        assert len(_table(source)) == len(source.catalog()) + 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("Permission denied; what is computed") == 1
    assert "cannot write to" in said
    assert not _files(source)


def test_a_changed_catalog_has_another_table(source):
    _table(source)
    with open(os.path.join(source.dataset_dir(), "catalog.parquet"), "ab") as f:
        f.write(b" ")
    _table(source)
    assert len(_files(source)) == 2


@pytest.mark.usefixtures("small_data")
def test_the_table_is_no_part_of_the_graph():
    task = seqio.TaskRegistry.get("gift_cards_retrieval")
    writer = tasks.prompt_of(task).writer({"inputs": 512, "targets": 64}, task.output_features)

    @tf.function(
        input_signature=[
            tf.RaggedTensorSpec([None, None], tf.int32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def write(history, target):
        batch = {"history": history, "target": target}
        return writer.write(writer.fit(batch))["inputs"]

    graph = write.get_concrete_function().graph.as_graph_def()
    largest = max(node.ByteSize() for node in graph.node)
    assert (
        largest
        < slot_tables.slot_table(
            SLOT, task.source, task.output_features["inputs"].vocabulary, None
        ).values.nbytes
    )


def _train(path, texts, **settings):
    with open(path, "wb") as f:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=f, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            hard_vocab_limit=False, minloglevel=2, **settings,
        )  # fmt: skip
    return DatasetVocabulary(lambda: str(path))


def test_pieces_across_spaces_are_refused(source, tmp_path):
    texts = list(token_table.item_texts(source.catalog(), SLOT.form)) * 20
    across = _train(
        tmp_path / "across.model", texts, vocab_size=400, user_defined_symbols=["nice;\u2581Item"]
    )
    with pytest.raises(UserError, match=r"across.model' cannot assemble .* across a space; bind"):
        slot_tables.slot_table(SLOT, source, across, None)


def test_bytes_for_unknown_characters_are_no_obstacle(source, tmp_path):
    texts = list(token_table.item_texts(source.catalog(), SLOT.form)) * 20
    with_bytes = _train(tmp_path / "bytes.model", texts, vocab_size=600, byte_fallback=True)
    catalog = source.catalog()
    catalog.title[0] = "☃ snow ☃"
    try:
        table = slot_tables.slot_table(SLOT, source, with_bytes, None)
    finally:
        slot_tables._stored_table.cache_clear()
    tokens = table.values[: table.splits[1]].tolist()
    assert any(with_bytes.tokenizer.IsByte(token) for token in tokens)
