"""`recllm catalog`: items that came after training."""

import argparse
import os

from recllm_tasks.commands import session
from recllm_tasks.errors import UserError
from recllm_tasks.progress import console

SUMMARY = "add new items to a trained run, without training"
EPILOG = """\
Items that came after training get semantic ids by what they are like, and can be recommended by
`recommend`, `serve` and `infer`, and stand in histories. Ids of other items stay. The model has
seen nobody buy them, and neither has the item-to-item prior, which knows their texts. Random and
atomic ids say nothing about a new item, and are refused.

The items lie in added_items.json in the run's folder; deleting it takes them back. Answers that are
written to files record its digest. `recllm eval` measures the dataset as it is, without them. A
running `recllm serve` has to be restarted.

examples:
  recllm catalog add /tmp/run --data_dir ~/recllm_data --items new_products.csv \\
    --columns item=sku,title=name
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("add",), help="add: give ids to new items")
    parser.add_argument("run_dir", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--items",
        nargs="+",
        required=True,
        metavar="FILE",
        help="files or patterns with the new items; items that exist already are left as they are",
    )
    parser.add_argument(
        "--columns", metavar="ROLE=NAME,…", help="column names, as in `recllm prepare`"
    )
    parser.add_argument("--format", help="of published files, as in `recllm prepare`")
    session.add_reading_arguments(parser)
    parser.add_argument(
        "--embeddings",
        metavar="PATH",
        help="what the dataset was prepared with; a file must have the new items too",
    )
    session.add_data_arguments(parser)


def run(args) -> int:
    session.use_data_dir(args)
    from recllm_tasks.data.added_items import AddedItems, add_items, check_scheme
    from recllm_tasks.data.item_embeddings import check_embeddings
    from recllm_tasks.data.metadata import read_metadata
    from recllm_tasks.data.sources import check_source, find_sources
    from recllm_tasks.data.specs import custom_spec
    from recllm_tasks.files import locked
    from recllm_tasks.prompts.source import CatalogSource
    from recllm_tasks.runs.run_folder import VOCABULARY, Run

    run_dir = os.path.expanduser(args.run_dir)
    of_run = Run.load(run_dir)
    source = CatalogSource(of_run.dataset)
    info = source.info()
    of_run.check_dataset(info.dataset, info.fingerprint, info.records_digest)
    check_scheme(info)
    reading = session.reading_of(args)
    spec = custom_spec(
        "new_items", (), args.items, columns=args.columns, format=args.format, reading=reading
    )
    _, paths = find_sources(spec, None)
    texts = read_metadata(spec, [check_source(path) for path in paths], None)
    vectors = check_embeddings(args.embeddings) if args.embeddings else None
    for line in texts.notes():
        _say(line)
    with locked(run_dir, "training or addition"):
        before = AddedItems.load(run_dir)
        _say(f"computing the codes of the {len(source.catalog()):,} items of {info.dataset}")
        done = add_items(info, source.catalog(), before, texts, vectors)
        if done.new:
            assert done.items is not None
            _check_writable(done.items.catalog.short_id, os.path.join(run_dir, VOCABULARY))
            done.items.save(run_dir)
    if done.known:
        _say(f"{len(done.known):,} items exist already, such as {done.known[0]!r}")
    if done.without_text:
        _say(
            f"{len(done.without_text):,} items left out, such as {done.without_text[0]!r}: no "
            "words in their texts that the dataset's items have"
        )
    total = len(done.items.catalog) if done.items else 0
    _say(f"{done.new:,} items added to {args.run_dir}; {total:,} in all, nobody's yet")
    return 0


def _check_writable(short_ids, vocabulary_file: str) -> None:
    """Raises UserError unless the vocabulary can write every id."""
    from recllm_tasks.prompts.vocabulary import DatasetVocabulary

    vocabulary = DatasetVocabulary(vocabulary_file)
    for short_id in short_ids:
        if vocabulary.decode(vocabulary.encode(short_id)) != short_id:
            raise UserError(
                f"Vocabulary '{vocabulary_file}': got none of its pieces for the id {short_id}, "
                "expected one that can write it; prepare the dataset with the new items, and train "
                "again"
            )


def _say(line: str) -> None:
    # Lines quote what files hold.
    console.print(line, markup=False, highlight=False, soft_wrap=True)
