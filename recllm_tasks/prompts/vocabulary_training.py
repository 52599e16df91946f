"""Trains a dataset's own SentencePiece vocabulary on its catalog and the tasks' wording."""

import io
import os
import string
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import sentencepiece
import tensorflow as tf
from google.protobuf.message import DecodeError

from recllm_tasks import checksums
from recllm_tasks.data import id_schemes, options
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import templates
from recllm_tasks.prompts.source import CatalogSource, forget_datasets
from recllm_tasks.prompts.token_table import write_item
from recllm_tasks.prompts.vocabulary import SENTINELS, DatasetVocabulary, read_model

# Our choice: the size of the `tiny` model's vocabulary, 4,096 with the sentinels.
NUM_PIECES = 4096 - SENTINELS

# Our choice: each id is one piece as long as ids take no more than this share of the vocabulary,
# because a small model learns an item from one embedding faster than from digits.
MAX_SHARE_OF_IDS = 0.5

# SentencePiece's sign for a space, and its number of pieces that are matched before others.
_SPACE, _USER_DEFINED = "\u2581", 4


def ensure_vocabulary(source: CatalogSource) -> bool:
    """Trains the vocabulary next to the records if it is missing; returns whether it wrote it.

    That of a dataset that was appended to gets pieces for new ids, if known ones are pieces. What
    this process has read of datasets before is forgotten.
    """
    forget_datasets()
    path = source.vocabulary_file()
    info = source.info()
    if tf.io.gfile.exists(path):
        return bool(info.appended) and extend_vocabulary(path, source.catalog().short_id)
    phrases = templates.fixed_phrases(templates.Wording(info.noun, info.verb, info.verb_past))
    texts = training_texts(source.catalog(), phrases)
    train_vocabulary(path, texts, source.catalog().short_id, phrases, info.ids)
    return True


def check_atomic_ids(source: CatalogSource, vocabulary: DatasetVocabulary) -> None:
    """Raises UserError if ids are atomic but the vocabulary splits one of them.

    Our choice: no pieces are added to a published vocabulary, because its model has no embeddings
    for them.
    """
    if source.info().ids != options.ATOMIC:
        return
    for short_id in source.catalog().short_id:
        pieces = vocabulary.tokenizer.EncodeAsIds(short_id)
        if len(pieces) != 1:
            raise UserError(
                f"Vocabulary '{vocabulary.sentencepiece_model_file}' for '{source.dataset_name}': "
                f"got {len(pieces)} pieces for the atomic id {short_id}, expected one; bind "
                "vocabulary.sentencepiece_file.path to None to use the dataset's own vocabulary, "
                "where each id is a piece, or prepare the dataset with --ids random or --ids "
                "semantic, which any vocabulary can write"
            )


def training_texts(catalog: Catalog, phrases: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yields (text, weight): items weighted by their train count, words by the sum of all counts.

    Phrases are split into words, so that custom prompts consist of known words too.
    """
    counts = [max(1, int(count)) for count in catalog.train_count]
    for row, count in enumerate(counts):
        yield write_item(catalog, templates.LISTED_ITEM, row), count
        yield write_item(catalog, templates.SHORT_ID + ", " + templates.SHORT_ID + ".", row), 1
    for word in dict.fromkeys(word for phrase in phrases for word in phrase.split()):
        yield word, sum(counts)


def train_vocabulary(
    path: str,
    texts: Iterable[tuple[str, int]],
    short_ids: Sequence[str],
    phrases: Iterable[str] = (),
    ids: str = options.RANDOM,
) -> None:
    """Trains a SentencePiece model and writes it to `path` atomically, its checksum before it.

    Our choice: byte-pair encoding, because it keeps frequent words whole. The unigram trainer only
    considers pieces that occur in two different words, so it splits "Item" or "(1997)". Phrases of
    several words become one piece each: the wording is the same in every example, a small model
    need not read it word by word, and prompts become a third shorter. Ids 0, 1 and 2 are PAD, EOS
    and UNK, as in T5. All characters of the texts and of printable ASCII are covered, so that
    custom tasks can use any words.

    Args:
      path: the file to write.
      texts: (text, weight) of the items and of the prompts' words.
      short_ids: the catalog's ids.
      phrases: the prompts' fixed words, with a leading space where a phrase starts a word.
      ids: the id scheme. Random ids are one piece each if they are few enough. Atomic ids always
        are; if there are many, the vocabulary grows by their number. Semantic ids have one piece
        per part, such as "a200".
    """
    are_few = len(short_ids) <= MAX_SHARE_OF_IDS * NUM_PIECES
    symbols = [phrase for phrase in phrases if " " in phrase.strip()]
    if ids == options.SEMANTIC:
        symbols += id_schemes.code_pieces(short_ids)
    elif are_few or ids == options.ATOMIC:
        symbols += [f" {i}" for i in short_ids]
    pieces = NUM_PIECES + (0 if are_few or ids != options.ATOMIC else len(short_ids))
    model = io.BytesIO()
    lines = (f"{' '.join(text.split())}\t{count}" for text, count in texts)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        input_format="tsv",
        model_type="bpe",
        vocab_size=pieces,
        hard_vocab_limit=False,
        character_coverage=1.0,
        required_chars=string.ascii_letters + string.digits + string.punctuation,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        user_defined_symbols=[symbol.replace(" ", _SPACE) for symbol in symbols],
        split_by_unicode_script=False,
        num_threads=1,
        minloglevel=2,
    )
    _write(path, model.getvalue())


def extend_vocabulary(path: str, short_ids: Sequence[str]) -> bool:
    """Adds the ids that are not one piece to a vocabulary in which the first one is.

    The other pieces keep their numbers; the sentinels, which follow the last piece, move. Returns
    whether any was added.
    """
    pieces = DatasetVocabulary(path).tokenizer.EncodeAsIds(list(short_ids))
    new = [short_id for short_id, its in zip(short_ids, pieces) if len(its) > 1]
    if not new or len(pieces[0]) > 1:
        return False
    model = read_model(path)
    for short_id in new:
        piece = model.pieces.add()
        piece.piece, piece.score, piece.type = f"{_SPACE}{short_id}", 0.0, _USER_DEFINED
    model.trainer_spec.vocab_size = len(model.pieces)
    _write(path, model.SerializeToString(deterministic=True))
    return True


def grown_rows(before: str, now: str) -> np.ndarray | None:
    """Where the embeddings of a vocabulary come from, if `extend_vocabulary` made it of another.

    Args:
      before: SentencePiece file.
      now: SentencePiece file.

    Returns:
      For each id of `now`, sentinels included, that of `before`, or -1 for a new piece, int32; None
      if `now` is no extension of `before`, or `before` is no vocabulary.
    """
    try:
        old, new = (
            [(piece.piece, piece.type) for piece in read_model(path).pieces]
            for path in (before, now)
        )
    except DecodeError:
        return None
    added = new[len(old) :]
    if new[: len(old)] != old or any(kind != _USER_DEFINED for _, kind in added):
        return None
    sentinels = np.arange(len(old), len(old) + SENTINELS)
    return np.concatenate([np.arange(len(old)), np.full(len(added), -1), sentinels]).astype(
        np.int32
    )


def _write(path: str, content: bytes) -> None:
    """Replaces the file atomically, its checksum before it."""
    checksums.expect(os.path.dirname(path), os.path.basename(path), content)
    temporary = f"{path}.{os.getpid()}.tmp"
    with tf.io.gfile.GFile(temporary, "wb") as f:
        f.write(content)
    tf.io.gfile.rename(temporary, path, overwrite=True)
    forget_datasets()
