"""What a folder for transformers has besides the parameters, so that it works without us.

tokenizer.json   our tokens, see prompts/hugging_face_tokenizer.py
catalog.jsonl    one item a line: its names, its text in a history, its tokens as an answer
recommender.json how a history becomes a prompt, and which items may be recommended
recommend.py     recommends items with transformers alone
README.md        a model card
"""

import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import seqio

import recllm_tasks
from recllm_tasks import progress, tasks
from recllm_tasks.data.dataset_info import DatasetInfo
from recllm_tasks.engine.recommend_script import SCRIPT
from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write
from recllm_tasks.models import hub
from recllm_tasks.models.formats.checkpoint import Source
from recllm_tasks.models.formats.conversion import CARD, last_parts
from recllm_tasks.models.formats.parameters import shapes_of
from recllm_tasks.prompts import hugging_face_tokenizer
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.templates import Wording
from recllm_tasks.runs import results, run_folder
from recllm_tasks.runs.decoding import Decoding
from recllm_tasks.runs.run_folder import Run

CATALOG, SETTINGS, PROGRAM = "catalog.jsonl", "recommender.json", "recommend.py"

# Decimals of the metrics on the card.
_DECIMALS = 4


def write(
    folder: pathlib.Path, source: Source, name: str | None = None, needs_catalog: bool = False
) -> bool:
    """Writes the files into an existing folder; returns whether a catalog is among them.

    Args:
      folder: of the converted checkpoint.
      source: what it was converted from.
      name: OWNER/NAME on the Hugging Face Hub, if it will be there.
      needs_catalog: whether it is an error that a run's dataset is not in the data folder.

    Raises:
      UserError: see `needs_catalog`; or the vocabulary cannot be a `tokenizer.json`.
    """
    if source.vocabulary is not None:
        hugging_face_tokenizer.write_tokenizer(source.vocabulary, folder)
    model_dir = pathlib.Path(source.where).parents[1]
    if source.vocabulary is None or not (model_dir / run_folder.FILE_NAME).is_file():
        _write(folder / CARD, _card(source, name, None, None, None))
        return False
    run = Run.load(str(model_dir))
    info = _info(run, needs_catalog)
    if info is not None:
        _write_recommender(folder, run, str(source.vocabulary))
    _write(folder / CARD, _card(source, name, run, info, _measured(model_dir, source.step)))
    return info is not None


def _write(path: pathlib.Path, text: str) -> None:
    with atomic_write(path) as f:
        f.write(text)


def _info(run: Run, is_needed: bool) -> DatasetInfo | None:
    try:
        info = CatalogSource(run.dataset).info()
        run.check_dataset(run.dataset, info.fingerprint, info.records_digest)
    except UserError:
        if is_needed:
            raise
        return None
    return info


def _write_recommender(folder: pathlib.Path, run: Run, vocabulary_file: str) -> None:
    info = CatalogSource(run.dataset).info()
    kind = tasks.retrieval_kind(run.mixture, run.dataset)
    wording = Wording(info.noun, info.verb, info.verb_past)
    task = seqio.Task(
        f"{run.dataset}_{kind}", **tasks.recommendation_task(run.dataset, kind, wording)
    )
    task = tasks.with_vocabulary(task, vocabulary_file)
    prompt, answers = tasks.prompt_of(task), tasks.answers(task)
    assert prompt is not None
    assert answers is not None
    question = prompt.writer(run.lengths, task.output_features).question_text()
    catalog = tasks.source_of(task).catalog()
    tokens = task.output_features["targets"].vocabulary.tokenizer.EncodeAsIds(answers)

    def lines() -> Iterator[dict[str, Any]]:
        for row in range(len(catalog)):
            yield {**catalog.names(row), "text": question.items(row), "tokens": tokens[row]}

    with (
        progress.work("write the catalog", len(catalog)) as work,
        atomic_write(folder / CATALOG) as f,
    ):
        for line in lines():
            f.write(json.dumps(line, ensure_ascii=False) + "\n")
            work.advance(1)
    settings = {
        "before": " ".join(question.before),
        "after": " ".join(question.after),
        "read_by_decoder": question.by_decoder,
        "window": info.window,
        "max_history_tokens": question.room,
        "leaves_out_seen": Decoding().resolved(info.keeps_repeats).seen == "leave_out",
    }
    _write(folder / SETTINGS, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    _write(folder / PROGRAM, SCRIPT)


def _measured(model_dir: pathlib.Path, step: int | None) -> results.Results | None:
    """What was measured on test with this checkpoint; without the prior, if there is such."""
    found = [
        results.read(path) for path in sorted((model_dir / results.FOLDER).glob("*.json"))
    ] or [results.read(path) for path in [model_dir / results.LATEST] if path.is_file()]
    found = [r for r in found if (r.step, r.split) == (step, "test") and r.decoding is not None]
    return min(found, key=lambda r: str(r.decoding and r.decoding.prior_weight), default=None)


def _card(
    source: Source,
    name: str | None,
    run: Run | None,
    info: DatasetInfo | None,
    measured: results.Results | None,
) -> str:
    numbers = sum(math.prod(shape) for shape in shapes_of(source.config).values())
    config = source.config
    lines = [
        *_head(run),
        "",
        f"# {'A recommender for ' + run.dataset if run else 'T5'}",
        "",
        f"A T5 encoder-decoder of {numbers:,} parameters ({config.num_encoder_layers} and "
        f"{config.num_decoder_layers} layers, width {config.emb_dim}, {config.vocab_size:,} "
        f"tokens), converted by recllm_tasks {recllm_tasks.__version__}.",
    ]
    if run:
        lines += [
            f"It was trained on the mixture `{run.mixture}` of the dataset `{run.dataset}` "
            f"(step {source.step}, seed {run.seed}, model `{run.model}`), after *Aligning Large "
            "Language Models with Recommendation Knowledge* (Cao et al., 2024): a user's history "
            "is a prompt, and the answer is the next item's id.",
            "",
            "## Data",
            "",
            _data(run, info),
        ]
    if measured:
        lines += ["", "## Results", "", *_metrics(measured)]
    use = _use(name, has_catalog=info is not None, has_tokenizer=source.vocabulary is not None)
    lines += ["", "## Use", "", *use]
    lines += ["", "## Limits and license", "", *_limits(run)]
    return "\n".join(lines) + "\n"


def _head(run: Run | None) -> Iterator[str]:
    """What the Hub reads. A license is stated only by those who publish the model."""
    yield "---"
    yield "library_name: transformers"
    yield "pipeline_tag: text2text-generation"
    if run and run.initial_checkpoint and run.initial_checkpoint.startswith(hub.SCHEME):
        parsed = hub.parse(run.initial_checkpoint)
        assert parsed is not None
        yield f"base_model: {parsed[0]}"
    yield "tags:"
    if run:
        yield "- recommendation"
    yield "- t5"
    yield "---"


def _data(run: Run, info: DatasetInfo | None) -> str:
    if info is None:
        return f"The dataset was not at hand; its fingerprint is `{run.fingerprint}`."
    counts = info.statistics
    return (
        f"{counts.users:,} users, {counts.items:,} items and {counts.interactions:,} interactions; "
        f"ids are {info.ids}; the last {info.window} items of a user are shown. Fingerprint "
        f"`{run.fingerprint}`."
    )


def _metrics(measured: results.Results) -> Iterator[str]:
    """A table: one row a task."""
    keys = list(dict.fromkeys(key for found in measured.metrics.values() for key in found))
    decoding = measured.decoding
    assert decoding is not None
    prior = (
        f", with an item-to-item prior of weight {decoding.prior_weight}, which is not part of "
        "this folder"
        if decoding.prior_weight
        else ""
    )
    yield f"On the test split, {decoding.num_beams} beams{prior}:"
    yield ""
    yield f"| task | users | {' | '.join(keys)} |"
    yield f"|---|{'---:|' * (len(keys) + 1)}"
    for task, found in measured.metrics.items():
        cells = [
            f"{found[key]:.{_DECIMALS}f}" if isinstance(found.get(key), float) else "–"
            for key in keys
        ]
        yield f"| {task} | {measured.num_examples.get(task, 0):,} | {' | '.join(cells)} |"


def _use(name: str | None, *, has_catalog: bool, has_tokenizer: bool) -> Iterator[str]:
    where = name or "FOLDER"
    yield "```python"
    yield "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer"
    yield ""
    yield f'model = AutoModelForSeq2SeqLM.from_pretrained("{where}")'
    if has_tokenizer:
        yield f'tokenizer = AutoTokenizer.from_pretrained("{where}")'
    yield "```"
    yield ""
    if has_tokenizer:
        yield "Tokens are those of training. Special tokens are not read from text."
    else:
        yield "The vocabulary is not in this folder; use that of the original model."
    if has_catalog:
        yield ""
        yield (
            f"`{CATALOG}` lists the items and `{PROGRAM}` recommends them: `generate` follows a "
            "trie of their tokens, so that every answer is an item. It needs torch and "
            "transformers only."
        )
        yield ""
        yield "```bash"
        if name:
            yield f"hf download {name} --local-dir FOLDER && cd FOLDER"
        yield f"python {PROGRAM} I17 I4 -k 10"
        yield "```"
        yield ""
        yield "```python"
        yield f"from {PROGRAM.removesuffix('.py')} import Recommender  # with FOLDER on sys.path"
        yield ""
        yield 'Recommender().recommend(["I17", "I4"], k=10)'
        yield "```"


def _limits(run: Run | None) -> Iterator[str]:
    if run:
        yield (
            "- It knows the items of its catalog and no others, and no user beyond the history "
            "that it is shown."
        )
        yield (
            "- What was bought often is recommended often; look at what it leaves out before "
            "people see it."
        )
        yield (
            "- Where ids have several tokens of different numbers, `generate` may drop an item "
            "that ends outside of the best beams of its step; more beams help."
        )
        start = last_parts(run.initial_checkpoint or "")
        origin = f"`{start}`, whose license holds" if start else "random parameters"
        yield (
            f"- License: none is chosen here. Training started from {origin}; the terms of the "
            "interaction data apply too. State yours before you publish this."
        )
    else:
        yield "- License: that of the model that this was converted from."
