"""Preparing a dataset from Python: files, or tables of pandas, Polars or Arrow.

    import recllm_tasks

    recllm_tasks.prepare("mystore", interactions=orders, items=products, data_dir="~/recllm_data",
                         columns="user=customer,item=sku,time=date,title=name")

`recllm prepare` is the same.
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recllm_tasks.data.dataset_info import DatasetInfo, open_dataset
from recllm_tasks.data.formats import Reading
from recllm_tasks.data.prepare import prepare as prepare_records
from recllm_tasks.data.specs import DatasetSpec, custom_spec
from recllm_tasks.errors import UserError
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.source import data_dir as data_dir_in_force
from recllm_tasks.prompts.vocabulary_training import ensure_vocabulary

_WORDING = ("noun", "verb", "title")


def prepare(
    dataset: str | DatasetSpec,
    *,
    interactions: Any = None,
    items: Any = None,
    data_dir: str | Path | None = None,
    raw_dir: str | Path | None = None,
    columns: str | None = None,
    format: str | None = None,
    progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> DatasetInfo:
    """Stores a dataset and its vocabulary; does nothing if it is there, made from the same data.

    Args:
      dataset: a published name, or a new one for `interactions`.
      interactions: files, patterns or tables (pandas, Polars, Arrow, or whatever offers
        `__arrow_c_stream__`); one of them or a list.
      items: the same, with the texts of items.
      data_dir: folder of prepared datasets; None is $TFDS_DATA_DIR or TFDS's default.
      raw_dir: folder of the files of a published dataset.
      columns: names of columns by role, `user=customer,item=sku,…`, as in `formats.custom_format`.
      format: a published format.
      progress: called with a line of text now and then.
      **settings: those of `formats.Reading`, of `options.Options` (`k_core=5`, `repeats="keep"`),
        the wording (`noun`, `verb`, `title`) and what `data.prepare.prepare` takes besides
        (`embeddings`, `bad_records`, `overwrite`, `append`).

    Raises:
      UserError: each message names the file or column, the line and the setting that helps.
    """
    data_dir = os.path.expanduser(str(data_dir or data_dir_in_force()))
    reading = Reading(
        **{
            field.name: settings.pop(field.name)
            for field in dataclasses.fields(Reading)
            if field.name in settings
        }
    )
    wording = {name: settings.pop(name) for name in _WORDING if name in settings}
    with tempfile.TemporaryDirectory(prefix="recllm-") as scratch:
        if interactions is not None:
            if isinstance(dataset, DatasetSpec):
                raise UserError(
                    f"dataset '{dataset.name}': got a spec with its own files and interactions, "
                    "expected one of them; leave one out"
                )
            spec: str | DatasetSpec = custom_spec(
                dataset,
                list(_files("interactions", interactions, scratch)),
                list(_files("items", items, scratch)) if items is not None else (),
                columns=columns,
                format=format,
                reading=reading,
                **wording,
            )
        elif items is not None or columns or format:
            raise UserError(
                f"interactions of '{dataset}': got none beside items, columns or a format, "
                "expected those of a custom dataset; give interactions"
            )
        else:
            spec = dataset
        prepare_records(spec, data_dir, raw_dir, progress=progress, **settings)
    name = spec if isinstance(spec, str) else spec.name
    ensure_vocabulary(CatalogSource(name, data_dir=data_dir))
    return open_dataset(data_dir, name)


def _files(what: str, given: Any, scratch: str) -> Iterator[str]:
    """Paths of files, patterns or tables; a table is written to `scratch`."""
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    for number, each in enumerate(given if several else [given]):
        if isinstance(each, str | os.PathLike):
            yield os.fspath(each)
            continue
        path = Path(scratch) / f"{what}{number or ''}.parquet"
        # The index and what else pandas notes beside the columns are no data.
        pq.write_table(_table(what, each).replace_schema_metadata(), path)
        yield str(path)


def _table(what: str, given: Any) -> pa.Table:
    try:
        if isinstance(given, pa.Table):
            return given
        if type(given).__module__.partition(".")[0] == "pandas":
            return pa.Table.from_pandas(given, preserve_index=False)
        if hasattr(given, "to_arrow"):
            return given.to_arrow()
        if hasattr(given, "__arrow_c_stream__"):
            return pa.table(given)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(
            f"table of {what}: got {str(error).splitlines()[0]}, expected columns of one type "
            "each; convert that column, for instance with astype(str)"
        ) from error
    raise UserError(
        f"{what}: got a {type(given).__name__}, expected a file, or a table of pandas, Polars or "
        "Arrow; convert it"
    )
