"""A dataset's own vocabulary: SentencePiece, trained on its catalog and the tasks' wording."""

import io
import os
import string
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece
import tensorflow as tf

from recllm_tasks.data import id_schemes, options
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import templates
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.token_table import write_item
from recllm_tasks.prompts.vocabulary import SENTINELS, DatasetVocabulary

# Our choice: as many pieces as make the `tiny` model's vocabulary, 4,096 with the sentinels.
OWN_PIECES = 4096 - SENTINELS

# Our choice: ids are pieces of their own as long as they take no more than this share of the
# vocabulary, because a small model learns an item from one embedding faster than from digits.
MAX_SHARE_OF_IDS = 0.5


def ensure_vocabulary(source: CatalogSource) -> bool:
    """Trains the vocabulary beside the dataset's records unless it is there; whether it did."""
    path = source.vocabulary_file()
    if tf.io.gfile.exists(path):
        return False
    info = source.info()
    phrases = templates.fixed_phrases(templates.Wording(info.noun, info.verb, info.verb_past))
    texts = training_texts(source.catalog(), phrases)
    train_vocabulary(path, texts, source.catalog().short_id, phrases, info.ids)
    return True


def check_atomic_ids(source: CatalogSource, vocabulary: DatasetVocabulary) -> None:
    """Raises UserError where ids are to be atomic and are not one piece each of the vocabulary.

    Our choice: a published vocabulary gets no pieces added: its model has no embeddings of them.
    """
    if source.info().ids != options.ATOMIC:
        return
    for short_id in source.catalog().short_id:
        pieces = vocabulary.tokenizer.EncodeAsIds(short_id)
        if len(pieces) != 1:
            raise UserError(
                f"Vocabulary '{vocabulary.sentencepiece_model_file}' for '{source.dataset_name}': "
                f"got {len(pieces)} pieces for the atomic id {short_id}, expected one; bind "
                "vocabulary.sentencepiece_file.path to None for the dataset's own, in which each "
                "id is a piece, or prepare the dataset with --ids random or --ids semantic, which "
                "any vocabulary can write"
            )


def training_texts(catalog: Catalog, phrases: Iterable[str]) -> Iterator[tuple[str, int]]:
    """(text, how often a model reads it): items as often as they were bought, words each time.

    The phrases come word by word, so that prompts of one's own are made of known words too.
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
    """Trains a SentencePiece model and writes it to `path`, whole or not at all.

    Our choice: byte-pair encoding, because it makes whole pieces of frequent words; the unigram
    trainer only knows pieces that stand in two different words, and splits "Item" or "(1997)".
    Phrases of several words are one piece each: the wording is the same in every example, and a
    small model need not read it word by word; prompts become a third shorter.
    Ids 0, 1 and 2 are PAD, EOS and UNK, as T5 has them. Every character of the texts and of ASCII
    is covered, so that own tasks may use any words.

    Args:
      path: the file to write.
      texts: (text, how often the model will read it); the items, and the words of the prompts.
      short_ids: the catalog's ids.
      phrases: stretches of fixed words; with a space before them where they start a word.
      ids: their scheme. Random ones are pieces of their own where they are few enough. Atomic ones
        are always, and where they are many the vocabulary is so much larger. Of semantic ones each
        part is, such as "a200".
    """
    are_few = len(short_ids) <= MAX_SHARE_OF_IDS * OWN_PIECES
    symbols = [phrase for phrase in phrases if " " in phrase.strip()]
    if ids == options.SEMANTIC:
        symbols += id_schemes.code_pieces(short_ids)
    elif are_few or ids == options.ATOMIC:
        symbols += [f" {i}" for i in short_ids]
    pieces = OWN_PIECES + (0 if are_few or ids != options.ATOMIC else len(short_ids))
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
        user_defined_symbols=[symbol.replace(" ", "\u2581") for symbol in symbols],
        split_by_unicode_script=False,
        num_threads=1,
        minloglevel=2,
    )
    temporary = f"{path}.{os.getpid()}.tmp"
    with tf.io.gfile.GFile(temporary, "wb") as f:
        f.write(model.getvalue())
    tf.io.gfile.rename(temporary, path, overwrite=True)
