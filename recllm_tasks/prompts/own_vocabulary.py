"""A dataset's own vocabulary: SentencePiece, trained on its catalog and the tasks' wording."""

import io
import os
import string
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece
import tensorflow as tf

from recllm_tasks.data.specs import get_spec
from recllm_tasks.prompts import templates
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.token_table import write_item
from recllm_tasks.prompts.vocabulary import SENTINELS

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
    train_vocabulary(path, training_texts(source), source.catalog().short_id)
    return True


def training_texts(source: CatalogSource) -> Iterator[tuple[str, int]]:
    """(text, how often a model reads it): items as often as they were bought, words each time."""
    catalog = source.catalog()
    counts = [max(1, int(count)) for count in catalog.train_count]
    for row, count in enumerate(counts):
        yield write_item(catalog, templates.LISTED_ITEM, row), count
        yield write_item(catalog, templates.SHORT_ID + ", " + templates.SHORT_ID + ".", row), 1
    spec = get_spec(source.dataset_name)
    wording = templates.Wording(spec.noun, spec.verb, spec.verb_past)
    for words in templates.all_words(wording):
        yield words, sum(counts)


def train_vocabulary(path: str, texts: Iterable[tuple[str, int]], short_ids: Sequence[str]) -> None:
    """Trains a SentencePiece model and writes it to `path`, whole or not at all.

    Our choice: byte-pair encoding, because it makes whole pieces of frequent words; the unigram
    trainer only knows pieces that stand in two different words, and splits "Item" or "(1997)".
    Ids 0, 1 and 2 are PAD, EOS and UNK, as T5 has them. Every character of the texts and of ASCII
    is covered, so that own tasks may use any words.

    Args:
      path: the file to write.
      texts: (text, how often the model will read it); the wording and the items.
      short_ids: the catalog's ids, made pieces of their own where they are few enough.
    """
    whole_ids = len(short_ids) <= MAX_SHARE_OF_IDS * OWN_PIECES
    model = io.BytesIO()
    lines = (f"{' '.join(text.split())}\t{count}" for text, count in texts)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        input_format="tsv",
        model_type="bpe",
        vocab_size=OWN_PIECES,
        hard_vocab_limit=False,
        character_coverage=1.0,
        required_chars=string.ascii_letters + string.digits + string.punctuation,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        user_defined_symbols=[f"\u2581{i}" for i in short_ids] if whole_ids else [],
        split_by_unicode_script=False,
        num_threads=1,
        minloglevel=2,
    )
    temporary = f"{path}.{os.getpid()}.tmp"
    with tf.io.gfile.GFile(temporary, "wb") as f:
        f.write(model.getvalue())
    tf.io.gfile.rename(temporary, path, overwrite=True)
