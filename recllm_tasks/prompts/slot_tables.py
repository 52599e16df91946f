"""The token table of a template's slot: built once a catalog and vocabulary, kept as a file.

Beside the dataset's records lies `tokens-<key>.npy` for each way of writing items. The key is what
fixes it: the catalog, the vocabulary, and how an item is written. A damaged file is replaced; in a
folder that cannot be written to, none is kept, and a line says so once. Every process maps the same
pages, and the tables of ten million items are no part of any TensorFlow graph.
"""

import functools
import hashlib
import json
import os

import seqio

from recllm_tasks import checksums, progress
from recllm_tasks.data.added_items import AddedItems
from recllm_tasks.data.catalog import FILE_NAME as CATALOG_FILE
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import table_file
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import Choice, Slot, User, Varied
from recllm_tasks.prompts.token_table import (
    TokenTable,
    check_boundaries,
    concatenate,
    item_table,
    item_texts,
    tokenise,
)


def slot_table(
    slot: Slot,
    source: CatalogSource,
    vocabulary: seqio.SentencePieceVocabulary,
    max_tokens: int | None,
) -> TokenTable:
    """Rows: the items in each of the slot's forms, then the masked and the empty text.

    For a `Choice`, one row an answer; for a `User`, one a user; a `Varied` has only its forms.

    Args:
      slot: of a template.
      source: whose catalog the items are of.
      vocabulary: of the tokens.
      max_tokens: of an item, see `token_table.item_table`; None is no limit.

    Raises:
      UserError: an item does not fit even without its text; or the vocabulary is not one that
        prompts can be assembled with, see `token_table.check_boundaries`.
    """
    if isinstance(slot, Choice):
        return tokenise(slot.answers, vocabulary)
    if isinstance(slot, User):
        return _user_table(slot.form, source.num_users(), vocabulary)
    catalog = source.catalog()
    texts = () if isinstance(slot, Varied) else (slot.mask, slot.empty)
    # A catalog that was not prepared, but made by a program, has no folder to keep tables in.
    folder = source.dataset_dir() if hasattr(source.info(), "fingerprint") else None
    added = getattr(source, "added", None)
    whole = _stored_table(slot.forms, texts, catalog, folder, vocabulary, None, added)
    if max_tokens is None or whole.lengths.max(initial=0) <= max_tokens:
        return whole
    return _stored_table(slot.forms, texts, catalog, folder, vocabulary, max_tokens, added)


@functools.lru_cache(maxsize=64)
def _stored_table(
    forms: tuple[str, ...],
    texts: tuple[str, ...],
    catalog: Catalog,
    folder: str | None,
    vocabulary: seqio.SentencePieceVocabulary,
    max_tokens: int | None,
    added: AddedItems | None,
) -> TokenTable:
    if folder is None:
        return _build(forms, texts, catalog, vocabulary, max_tokens)
    path = table_path(forms, texts, folder, vocabulary, max_tokens, added)
    stored = table_file.load(path)
    if stored is None:
        table = _build(forms, texts, catalog, vocabulary, max_tokens)
        try:
            table_file.save(path, table.values, table.splits)
        except (OSError, UserError) as error:  # read-only, or full
            progress.cache_unwritten(path, error)
        stored = table_file.load(path) or (table.values, table.splits)
    return TokenTable(*stored)


@functools.lru_cache(maxsize=64)
def _user_table(form: str, num_users: int, vocabulary: seqio.SentencePieceVocabulary) -> TokenTable:
    texts = [form.format(number=row + 1) for row in range(num_users)]
    table = tokenise(texts, vocabulary)
    check_boundaries(texts, table, vocabulary)
    return table


def _build(forms, texts, catalog, vocabulary, max_tokens) -> TokenTable:
    tables = [item_table(catalog, vocabulary, form, max_tokens) for form in forms]
    if not texts:
        return concatenate(tables)
    if max_tokens is None:
        for form, table in zip(forms, tables):
            check_boundaries(item_texts(catalog, form), table, vocabulary)
    return concatenate([*tables, tokenise(texts, vocabulary)])


def table_path(
    forms: tuple[str, ...],
    texts: tuple[str, ...],
    folder: str,
    vocabulary: seqio.SentencePieceVocabulary,
    max_tokens: int | None,
    added: AddedItems | None = None,
) -> str:
    """Where a table is kept."""
    facts = [
        table_file.FORMAT_VERSION,
        checksums.sha256(os.path.join(folder, CATALOG_FILE)),
        hashlib.sha256(vocabulary.sp_model).hexdigest(),
        forms,
        texts,
        max_tokens,
        *([added.digest] if added else []),
    ]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return os.path.join(folder, f"tokens-{key[:16]}.npy")
