"""Token rows of a catalog: every item written in one form, tokenised once.

The T5 vocabulary never merges across a space, so a prompt's tokens are the tokens of its words in
a row; an item's tokens can be made ahead and gathered.
"""

import array
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.errors import UserError
from recllm_tasks.prompts.lookalikes import break_lookalikes

# Texts that SentencePiece encodes in one call, on all cores; their Python lists take some 5 MB.
_CHUNK = 1 << 14


@dataclasses.dataclass(frozen=True, eq=False)
class TokenTable:
    """Texts and their tokens, row by row.

    Attributes:
      texts: what each row says.
      values: int32 [total], the tokens of all rows, one after the other.
      splits: int64 [rows + 1]; row r is values[splits[r]:splits[r + 1]].
    """

    texts: tuple[str, ...]
    values: np.ndarray
    splits: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int32 [rows]."""
        return np.diff(self.splits).astype(np.int32)

    def ragged(self) -> tf.RaggedTensor:
        return tf.RaggedTensor.from_row_splits(self.values, self.splits, validate=False)


def tokenise(texts: Sequence[str], vocabulary: seqio.Vocabulary) -> TokenTable:
    """Tokens of each text, each starting a word."""
    values, splits = encode(texts, vocabulary)
    return TokenTable(tuple(texts), values.astype(np.int32), splits)


def encode(texts: Iterable[str], vocabulary: seqio.Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of all texts, in as little memory as they need: millions of ids are encoded here.

    Returns:
      The tokens, one text after the other, uint16 where the vocabulary is small enough and else
      int32; and int64 [texts + 1], where each text begins.
    """
    values = array.array("H" if vocabulary.vocab_size <= 1 << 16 else "i")
    lengths = array.array("i", [0])
    texts = iter(texts)
    while chunk := list(itertools.islice(texts, _CHUNK)):
        rows = vocabulary.tokenizer.EncodeAsIds(chunk)
        lengths.extend(map(len, rows))
        values.extend(itertools.chain.from_iterable(rows))
    return np.asarray(values), np.cumsum(lengths, dtype=np.int64)


def concatenate(tables: Sequence[TokenTable]) -> TokenTable:
    """The rows of all tables, in order."""
    starts = np.cumsum([0, *(len(t.values) for t in tables)])
    return TokenTable(
        texts=tuple(text for t in tables for text in t.texts),
        values=np.concatenate([t.values for t in tables]).astype(np.int32),
        splits=np.concatenate(
            [[0], *(t.splits[1:] + start for t, start in zip(tables, starts))]
        ).astype(np.int64),
    )


def write_item(catalog: Catalog, form: str, row: int, max_words: int | None = None) -> str:
    """One item in the words of `form`; its long texts keep at most `max_words` words each.

    Nothing in the item's texts reads like a piece of the prompt (`lookalikes`).
    """
    texts = {column: break_lookalikes(getattr(catalog, column)[row]) for column in _TEXT_COLUMNS}
    if max_words is not None:
        texts = {column: " ".join(text.split()[:max_words]) for column, text in texts.items()}
    return form.format(short_id=catalog.short_id[row], **texts)


_TEXT_COLUMNS = ("title", "brand", "price", "categories", "description")


@functools.lru_cache(maxsize=64)
def item_table(
    catalog: Catalog, vocabulary: seqio.Vocabulary, form: str, max_tokens: int | None
) -> TokenTable:
    """Every item of the catalog written as `form`, in at most `max_tokens` tokens.

    An item that is too long keeps its id and as many whole words of its text as fit, and whatever
    the form says after them.

    Raises:
      UserError: an item does not fit even without its text.
    """
    table = tokenise([write_item(catalog, form, row) for row in range(len(catalog))], vocabulary)
    if max_tokens is None or table.lengths.max() <= max_tokens:
        return table
    texts = list(table.texts)
    for row in np.flatnonzero(table.lengths > max_tokens):
        texts[row] = _shortened(catalog, vocabulary, form, int(row), max_tokens)
    return tokenise(texts, vocabulary)


def _shortened(
    catalog: Catalog, vocabulary: seqio.Vocabulary, form: str, row: int, max_tokens: int
) -> str:
    """The item with as many words of its texts as fit, found by bisection."""

    def length(num_words: int) -> int:
        return len(vocabulary.encode(write_item(catalog, form, row, num_words)))

    if length(0) > max_tokens:
        raise UserError(
            f"Too few tokens for item '{catalog.short_id[row]}' written as '{form}': got room for "
            f"{max_tokens}, expected at least {length(0)}; raise the task's feature length"
        )
    fits, too_many = (
        0,
        1 + max(len(getattr(catalog, column)[row].split()) for column in _TEXT_COLUMNS),
    )
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if length(middle) <= max_tokens:
            fits = middle
        else:
            too_many = middle
    return write_item(catalog, form, row, fits)
