"""The valid answers of a task: their texts, and the trie of their tokens for beam search."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import seqio

from recllm_tasks import progress, tasks
from recllm_tasks.engine import trie_file
from recllm_tasks.errors import UserError
from recllm_tasks.models.trie import Trie
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import Items
from recllm_tasks.prompts.token_table import encode


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """The distinct texts among a task's answers.

    Attributes:
      texts: the A texts, none empty.
      text_of_answer: int32 [N], the text of each of `tasks.answers`; -1 for an empty one.
      trie: its rows are indices into `texts`.
    """

    texts: Sequence[str]
    text_of_answer: np.ndarray
    trie: Trie

    @property
    def own_text_of_answer(self) -> np.ndarray:
        """`text_of_answer` where no other answer has the same text, else -1; int32 [N]."""
        counts = np.bincount(self.text_of_answer[self.text_of_answer >= 0], minlength=1)
        own = (self.text_of_answer >= 0) & (counts[self.text_of_answer] == 1)
        return np.where(own, self.text_of_answer, np.int32(-1))


def answers_of(task: seqio.Task) -> Answers | None:
    """The answers of a task, or None if its target is free text.

    A catalog's trie is built once and cached beside the dataset's records as `trie-<key>.npy`. The
    key covers everything that determines it: the dataset's fingerprint, the items that were added
    to it, the vocabulary, and how an item is written. A damaged file is replaced. In a read-only
    folder nothing is cached, and a line says so once.
    """
    prompt, listed = tasks.prompt_of(task), tasks.answers(task)
    if prompt is None or listed is None:
        return None
    texts, text_of_answer = _distinct(listed)
    vocabulary = task.output_features["targets"].vocabulary
    slot, source = prompt.template.answer, prompt.source
    if not isinstance(slot, Items):
        return Answers(texts, text_of_answer, _build(texts, vocabulary))
    path = trie_path(source, vocabulary, slot.form)
    trie = trie_file.load(path)
    if trie is None or trie.num_items != len(texts):
        trie = _build(texts, vocabulary)
        try:
            trie_file.save(trie, path)
        except (OSError, UserError) as error:  # read-only, or full
            progress.cache_unwritten(path, error)
    return Answers(texts, text_of_answer, trie)


def trie_path(source: CatalogSource, vocabulary: seqio.SentencePieceVocabulary, form: str) -> str:
    """The file that caches the trie of a catalog's items, written as `form`."""
    facts = [
        trie_file.FORMAT_VERSION,
        source.info().fingerprint,
        hashlib.sha256(vocabulary.sp_model).hexdigest(),
        vocabulary.eos_id,
        form,
        *([source.added.digest] if source.added else []),
    ]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return os.path.join(source.dataset_dir(), f"trie-{key[:16]}.npy")


def _distinct(listed: list[str]) -> tuple[list[str], np.ndarray]:
    """The distinct texts in order of first appearance, and each one's index among them."""
    column = pa.array((text or None for text in listed), pa.large_string()).dictionary_encode()
    index = column.indices.fill_null(-1).to_numpy().astype(np.int32)
    if len(column.dictionary) == len(listed):
        return listed, index
    return column.dictionary.to_pylist(), index


def _build(texts: list[str], vocabulary: seqio.Vocabulary) -> Trie:
    return Trie.from_tokens(*encode(texts, vocabulary), vocabulary.eos_id)
