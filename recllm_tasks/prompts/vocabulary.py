"""Vocabularies: each dataset's own small one, or a published one bound in gin."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin
import numpy as np
import seqio
import tensorflow as tf
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from recllm_tasks import checksums
from recllm_tasks.errors import UserError

FILE_NAME = "vocabulary.model"

# T5's sentinels at the end of every vocabulary, for span corruption (Raffel et al. 2020).
SENTINELS = 100

_DAMAGED = "restore the file, or retrain a dataset's own with `recllm prepare … --overwrite`"


# How often files were replaced; what was read before is read again.
_replaced = 0


def forget_vocabularies() -> None:
    """Drops SentencePiece models that are kept by path, because a file was replaced."""
    global _replaced
    _replaced += 1
    seqio.vocabularies._load_model_internal.cache_clear()


def read_model(path: str | os.PathLike) -> Any:
    """The message ModelProto of a SentencePiece file."""
    messages: Any = sentencepiece_model_pb2  # its names are made when it is imported
    model = messages.ModelProto()
    model.ParseFromString(pathlib.Path(path).read_bytes())
    return model


@gin.configurable(module="vocabulary")
def sentencepiece_file(path: str | None = None) -> str | None:
    """The SentencePiece model of all registered tasks; None is each dataset's own."""
    return path


class DatasetVocabulary(seqio.SentencePieceVocabulary):
    """SentencePiece with T5's 100 sentinels; the file is opened when it is first needed.

    Importing the tasks therefore reads nothing.
    """

    def __init__(self, file: str | Callable[[], str]):
        """Args:
        file: a SentencePiece model; or a function that returns the dataset's own, which
          `vocabulary.sentencepiece_file.path` in gin overrides.
        """
        self._file = file
        self._opened, self._read_after = None, _replaced
        self._texts: dict[bytes, str] | None = None
        super().__init__("", extra_ids=SENTINELS)

    @property
    def sentencepiece_model_file(self) -> str:
        if isinstance(self._file, str):
            return self._file
        return sentencepiece_file() or self._file()

    def _model_context(self):
        if self._opened is not None:
            return self._opened
        path = self.sentencepiece_model_file
        if path != self._sentencepiece_model_file or self._read_after != _replaced:
            if not tf.io.gfile.exists(path):
                raise UserError(
                    f"No vocabulary at '{path}': expected a SentencePiece model; "
                    "bind vocabulary.sentencepiece_file.path to one, or prepare the dataset"
                )
            checksums.check(os.path.dirname(path), _DAMAGED, [os.path.basename(path)])
            self._sentencepiece_model_file, self._model = path, None
            self._read_after = _replaced
        try:
            return super()._model_context()
        except (RuntimeError, ValueError, DecodeError) as error:
            self._sentencepiece_model_file = ""
            raise UserError(
                f"Damaged vocabulary '{path}': got {error}, expected a SentencePiece model; "
                f"{_DAMAGED}"
            ) from error

    def __eq__(self, other):
        return (
            isinstance(other, DatasetVocabulary)
            and self.sentencepiece_model_file == other.sentencepiece_model_file
        )

    def __hash__(self):
        return hash(self.sentencepiece_model_file)

    def __getstate__(self):
        closed = {"_sentencepiece_model_file": "", "_opened": None, "_texts": None}
        return {**super().__getstate__(), **closed}

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """A context that looks up the file once and decodes each distinct array of ids once.

        Speeds up loops over many texts: beams mostly repeat the same items. The file must not
        change in the meantime.
        """
        before = self._opened, self._texts
        self._opened, self._texts = self._model_context(), {}
        try:
            yield
        finally:
            self._opened, self._texts = before

    def decode(self, ids):
        if self._texts is None or not isinstance(ids, np.ndarray):
            return super().decode(ids)
        key = ids.tobytes()
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = super().decode(ids.tolist())
        return text

    def decode_with_sentinels(self, ids: Sequence[int]) -> str:
        """The text of `ids`, with `<extra_id_0>` for the first sentinel; stops at EOS."""
        words, run = [], []
        for token in ids:
            if token == self.eos_id:
                break
            if token >= self.vocab_size - SENTINELS:
                words += [super().decode(run), f"<extra_id_{self.vocab_size - 1 - token}>"]
                run = []
            else:
                run.append(int(token))
        return " ".join(word for word in [*words, super().decode(run)] if word)
