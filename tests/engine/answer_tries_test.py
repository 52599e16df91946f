"""The answers of tasks, and the trie beside the dataset: when it is built, when it is read."""

import dataclasses
import io
import itertools
import pathlib

import gin
import jax
import numpy as np
import pytest
import sentencepiece
import seqio

from recllm_tasks import tasks
from recllm_tasks.engine import answer_tries
from recllm_tasks.engine.answer_tries import answers_of
from recllm_tasks.models.trie import Trie
from recllm_tasks.prompts import templates, token_table
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.prompts.source import CatalogSource, SequenceSource

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


@pytest.fixture
def folder(small_data_dir):
    """The dataset's folder, without tries before and after."""

    def clear():
        for file in folder.glob("trie-*"):
            file.unlink()

    folder = small_data_dir / "rec_sequences" / "gift_cards" / "1.0.0"
    clear()
    yield folder
    clear()


@pytest.fixture
def encoded(monkeypatch):
    """How many texts were encoded, call by call."""
    calls = []

    def encode(texts, vocabulary):
        calls.append(len(texts))
        return token_table.encode(texts, vocabulary)

    monkeypatch.setattr(answer_tries, "encode", encode)
    return calls


def _task(form):
    source = SequenceSource("gift_cards")
    template = templates.Template(("A:",), (templates.Items("target", form),))
    return seqio.Task("own", source, tasks.features(source), [Prompt(template, source)])


def _byte_fallback(path: pathlib.Path) -> str:
    """A vocabulary of lower-case letters; all else is written in bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a few lower case words only"] * 10),
        model_writer=model,
        model_type="bpe",
        vocab_size=290,
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return str(path)


@pytest.fixture(params=["own", "bytes", "published"])
def vocabulary(request, tmp_path):
    if request.param == "own":
        return tasks.features(CatalogSource("gift_cards"))["targets"].vocabulary
    if request.param == "bytes":
        path = _byte_fallback(tmp_path / "bytes.model")
    else:
        path = str(request.getfixturevalue("shared") / "vocab" / "t5.spiece.model")
    return seqio.SentencePieceVocabulary(path, extra_ids=100)


def test_texts_are_encoded_as_one_by_one(vocabulary, monkeypatch):
    monkeypatch.setattr(token_table, "_CHUNK", 7)
    texts = [f"I{n}" for n in range(1, 40)] + ["Gift ☂ card é", "", "  a   b "]
    values, splits = token_table.encode(iter(texts), vocabulary)
    assert values.dtype == np.uint16
    rows = [values[a:b].tolist() for a, b in itertools.pairwise(splits)]
    assert rows == [vocabulary.encode(text) for text in texts]


def test_the_trie_of_any_vocabulary_holds_its_sequences(vocabulary):
    texts = [f"I{n * n + 1}" for n in range(300)]
    trie = Trie.from_tokens(*token_table.encode(texts, vocabulary), vocabulary.eos_id)
    rows = [tuple(vocabulary.encode(text)) for text in texts]
    found = {}
    level = [((), 0)]
    for prefix, node in level:
        for edge in range(trie.child_start[node], trie.child_start[node + 1]):
            token = int(trie.child_token[edge])
            if token == vocabulary.eos_id:
                found[prefix] = int(trie.end_row[node])
            else:
                level.append(((*prefix, token), edge + 1))
    assert found == {row: i for i, row in enumerate(rows)}


def test_a_catalogs_trie_is_built_once_for_each_form(folder, encoded):
    built, read = answers_of(_task("{short_id}")), answers_of(_task("{short_id}"))
    assert encoded == [36]
    assert built.texts == read.texts == SequenceSource("gift_cards").catalog().short_id
    assert built.text_of_answer.tolist() == list(range(36))
    jax.tree.map(np.testing.assert_array_equal, built.trie, read.trie)
    answers_of(_task("{short_id} {title}"))
    assert encoded == [36, 36]
    assert len(list(folder.glob("trie-*"))) == 2


def test_tasks_over_one_catalog_share_its_trie(folder, encoded):
    for kind in ("retrieval", "ranking"):
        answers_of(tasks.get(f"gift_cards_{kind}"))
    assert len(encoded) == 1


def test_another_vocabulary_or_another_dataset_is_another_trie(
    folder, encoded, tmp_path, monkeypatch
):
    own = answers_of(_task("{short_id}"))
    path = _byte_fallback(tmp_path / "bytes.model")
    gin.bind_parameter("vocabulary.sentencepiece_file.path", path)
    other = answers_of(_task("{short_id}"))
    assert encoded == [36, 36]
    assert other.trie.num_nodes != own.trie.num_nodes
    info = dataclasses.replace(SequenceSource("gift_cards").info(), fingerprint="another")
    monkeypatch.setattr(CatalogSource, "info", lambda self: info)
    answers_of(_task("{short_id}"))
    assert encoded == [36, 36, 36]
    assert len(list(folder.glob("trie-*"))) == 3


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "of other items"])
def test_a_damaged_file_is_replaced(damage, folder, encoded):
    before = answers_of(_task("{short_id}"))
    (file,) = folder.glob("trie-*")
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[-200] ^= 4
    file.unlink()  # the mapped one stays as it is
    if damage == "of other items":
        answer_tries.trie_file.save(Trie.build([[7], [8]]), file)
    else:
        content = {"truncated": whole[:-9], "changed": bytes(changed), "empty": b""}[damage]
        file.write_bytes(content)
    after = answers_of(_task("{short_id}"))
    assert encoded == [36, 36]
    assert file.read_bytes() == whole
    jax.tree.map(np.testing.assert_array_equal, before.trie, after.trie)


def test_a_folder_that_cannot_be_written_to_keeps_no_trie_and_says_so(
    folder, encoded, monkeypatch, capsys
):
    expected = answers_of(_task("{short_id}"))
    # Not even root can make a file in /proc, and elsewhere there is no such folder.
    monkeypatch.setattr(answer_tries, "trie_path", lambda *_: "/proc/trie.npy")
    found = answers_of(_task("{short_id}"))
    assert encoded == [36, 36]
    jax.tree.map(np.testing.assert_array_equal, expected.trie, found.trie)
    assert "cannot write to '/proc': " in capsys.readouterr().err


def test_two_answers_are_kept_nowhere(folder):
    rating = answers_of(tasks.get("gift_cards_rating"))
    assert rating.texts == ["no", "yes"]
    assert rating.trie.num_items == 2
    assert not list(folder.glob("trie-*"))
    assert answers_of(tasks.get("gift_cards_mim")) is None


def test_items_of_one_text_are_one_answer_and_those_without_none():
    texts, index = answer_tries._distinct(["b", "", "a", "b", "a", ""])
    assert texts == ["b", "a"]
    assert index.tolist() == [0, -1, 1, 0, 1, -1]
    assert index.dtype == np.int32
