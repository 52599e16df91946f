"""Two runs that recommend together, with the item-to-item prior if asked for.

    score(item) = (1 - w) log p_A(item) + w log p_B(item) + λ log p(item-to-item)

The runs may write items and prompts differently: each searches with its own trie. What either finds
are a user's candidates. Both score all of them exactly, so any weights rank them without decoding
again. An item that neither search finds is not ranked.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio

from recllm_tasks import __version__, metrics, progress, tasks
from recllm_tasks.engine import prior_choice, saved_run
from recllm_tasks.engine.decoding import Example, TaskDecoder, check_selection
from recllm_tasks.errors import UserError, check_number
from recllm_tasks.prompts.source import SequenceSource
from recllm_tasks.runs import memory, per_user
from recllm_tasks.runs.decoding import VALIDATION, Decoding
from recllm_tasks.runs.results import Results, by_target, name_of

# w, the share of the second run.
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

# λ of the searches for candidates where there is a prior; the ranking has its own.
_SEARCH_WEIGHT = 1.0


class Candidates(NamedTuple):
    """The candidates of a split's users, in the order of its records."""

    users: list[str]
    targets: np.ndarray  # int32 [U], catalog rows
    history: list[np.ndarray]  # of each user the catalog rows before the target
    rows: list[np.ndarray]  # of each user int [n], ascending
    log_probs: list[np.ndarray]  # of each user float [3, n]: of A, of B, of the prior

    def lists(self, weight: float, prior_weight: float, length: int) -> list[np.ndarray]:
        """Each user's best rows, at most `length`; of equal scores the earlier row comes first."""
        weights = np.array([1 - weight, weight, prior_weight])
        return [
            rows[np.argsort(-(weights @ log_probs), kind="stable")[:length]]
            for rows, log_probs in zip(self.rows, self.log_probs)
        ]

    def ranks(self, lists: Sequence[np.ndarray]) -> np.ndarray:
        """Of each target in its list: float64 [U], 1 is best, inf a miss."""
        return np.array(
            [
                metrics.rank_among(target, found.tolist())
                for target, found in zip(self.targets.tolist(), lists)
            ]
        )


class _Member:
    """A run and its retrieval task, in its own data folder."""

    def __init__(self, model_dir: str, data_dir: str | None, decoding: Decoding):
        self.data_dir = data_dir
        with _data_dir(data_dir):
            self.saved = saved_run.load(model_dir)
            found = self.saved.tasks(self.saved.run.mixture)
            name = prior_choice.task_to_choose_on(found)
            (self.task,) = (task for task in found if task.name == name)
            self.source = tasks.source_of(self.task)
            self.info, self.catalog = self.source.info(), self.source.catalog()
            lengths = self.saved.run.lengths
            self._decoder = TaskDecoder(
                self.task, self.saved.network, self.saved.mesh, decoding, lengths["targets"]
            )
        prompt = tasks.prompt_of(self.task)
        offers = prompt is not None and prompt.template.offers_candidates
        if offers or len(self._decoder.answers) != len(self.catalog):
            raise UserError(
                f"Ensemble with '{model_dir}': got '{name}' as its first task that ranks items, "
                "expected one that ranks the whole catalog, with one answer for each item; choose "
                "a run that was trained on retrieval"
            )

    def examples(self, split: str, num: int | None) -> list[Example]:
        with _data_dir(self.data_dir):
            dataset = self.task.get_dataset(
                dict(self.saved.run.lengths), split=split, shuffle=False
            )
            return list(dataset.take(-1 if num is None else num).as_numpy_iterator())

    def find(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """The rows that the search finds, of each example."""
        with progress.work(f"search with {self.saved.run.model}", len(examples)) as work:
            beams = self._decoder.decode(self.saved.params, examples, work.advance)
        # Every item has its own answer, so answers are rows.
        return [rows[rows >= 0] for rows in beams.rows_BxK]

    def log_probs(self, examples: Sequence[Example], rows: list[np.ndarray]) -> list[np.ndarray]:
        with progress.work(f"score with {self.saved.run.model}", len(examples)) as work:
            return self._decoder.log_probs(self.saved.params, examples, rows, work.advance)


@contextlib.contextmanager
def _data_dir(data_dir: str | None) -> Iterator[None]:
    """The folder of prepared datasets within the block; None leaves it."""
    before = seqio.LazyTfdsLoader("rec_sequences:1.0.0").data_dir
    seqio.set_tfds_data_dir_override(data_dir or before)
    try:
        yield
    finally:
        seqio.set_tfds_data_dir_override(before)


def _candidates(
    members: Sequence[_Member], split: str, num_examples: int | None = None
) -> Candidates:
    examples = [member.examples(split, num_examples) for member in members]
    users = [[bytes(example["user"]).decode() for example in own] for own in examples]
    if users[0] != users[1]:
        raise UserError(
            f"Users of the {split} split: got others in '{members[1].data_dir}', expected the same "
            "in the same order; prepare both datasets from the same files"
        )
    found = [member.find(own) for member, own in zip(members, examples)]
    rows = [np.union1d(*both).astype(np.int32) for both in zip(*found)]
    scored = [member.log_probs(own, rows) for member, own in zip(members, examples)]
    return Candidates(
        users[0],
        np.array([example["target"] for example in examples[0]], np.int32),
        [example["exclude"][:-1] for example in examples[0]],
        rows,
        [np.stack([a[0], b[0], a[1]]) for a, b in zip(*scored)],
    )


class Weights(NamedTuple):
    """w and λ, and NDCG@10 on validation of what they were chosen from."""

    weight: float
    prior_weight: float
    measured: dict[str, float]


def choose_weights(
    found: Candidates, weight: float | str, prior_weight: float | str, num_beams: int
) -> Weights:
    """The best of the grid on validation's candidates; a number stays as it is."""
    measured = {
        (w, prior): metrics.ndcg(found.ranks(found.lists(w, prior, num_beams)), 10)
        for w in (GRID if isinstance(weight, str) else (weight,))
        for prior in (prior_choice.GRID if isinstance(prior_weight, str) else (prior_weight,))
    }
    best = max(measured, key=lambda pair: measured[pair])
    return Weights(*best, {f"{w:g}, {prior:g}": value for (w, prior), value in measured.items()})


def ensemble(
    runs: Sequence[str],
    out: str,
    *,
    data_dirs: Sequence[str] = (),
    weight: float | str = VALIDATION,
    split: str = "test",
    decoding: Decoding = Decoding(),
    num_examples: int | None = None,
) -> Results:
    """Measures two runs together on retrieval, and writes results and per-user rows.

    Args:
      runs: the folders of A and B, trained on one dataset, which may have other ids.
      out: folder for the results, as `recllm eval` writes them; must exist.
      data_dirs: folder of prepared datasets of each run, one for both, or the default one.
      weight: w, or "validation".
      split: `validation` or `test`.
      decoding: of both searches. `num_beams` is also the length of the list; `prior_weight` is λ,
        which "validation" chooses together with w.
      num_examples: only the first users; None is all. Weights are chosen on all of validation.

    Raises:
      UserError: a run does not rank the catalog, or the runs' datasets differ in more than ids.
    """
    start = time.monotonic()
    memory.reset_peak()
    check_selection(split, num_examples)
    decoding.check_unrestricted()
    if weight != VALIDATION:
        check_number("--weight", weight, 0, np.nextafter(1, 2))
    prior_weight = decoding.prior_weight
    search = dataclasses.replace(decoding, prior_weight=_SEARCH_WEIGHT if prior_weight else 0.0)
    folders = [*data_dirs] * (2 if len(data_dirs) == 1 else 1) or [None, None]
    members = [_Member(run, folder, search) for run, folder in zip(runs, folders, strict=True)]
    _check_same_data(members, runs)
    measured = {}
    if isinstance(weight, str) or isinstance(prior_weight, str):
        weight, prior_weight, measured = choose_weights(
            _candidates(members, "validation"), weight, prior_weight, decoding.num_beams
        )
        progress.console.print(
            f"weight {weight:g} of the second run, prior weight {prior_weight:g}: validation "
            f"ndcg@10 {max(measured.values()):.4f}, of {len(measured)} tried"
        )
    decoding = dataclasses.replace(decoding, prior_weight=prior_weight)
    decoding = decoding.resolved(members[0].info.keeps_repeats)
    found = _candidates(members, split, num_examples)
    lists = found.lists(weight, prior_weight, decoding.num_beams)
    first, second = (member.saved.run for member in members)
    facts: dict[str, Any] = {
        "dataset": first.dataset,
        "fingerprint": members[0].info.fingerprint,
        "split_fingerprint": members[0].info.split_fingerprint,
        "ids": members[0].info.ids,
        "protocol": members[0].info.protocol,
        "model": f"{first.model} and {second.model}",
        "mixture": f"ensemble of {first.mixture} and {second.mixture}",
        "seen": decoding.seen,
        "split": split,
    }
    task = f"{first.dataset}_retrieval"
    path = per_user.path_of(out, name_of(split, decoding), task)
    lengths = np.array([len(history) for history in found.history], np.int32)
    source = SequenceSource(first.dataset, data_dir=members[0].data_dir)
    groups = source.co_occurrence().groups(found.history, found.targets)
    ranks = found.ranks(lists)
    rows = per_user.ranked(found.users, found.targets, lengths, ranks, lists, groups)
    per_user.write(path, [rows], {**facts, "task": task})
    files = {task: str(path.relative_to(out))}
    results = Results(
        **facts,
        records_digest=members[0].info.records_digest,
        ties=members[0].info.ties,
        version=__version__,
        decoding=decoding,
        settings={
            "runs": list(runs),
            "steps": [member.saved.step for member in members],
            "weight": weight,
            **({"validation_ndcg@10": measured} if measured else {}),
        },
        num_examples={task: len(found.users)},
        metrics={task: per_user.metrics(path)},
        by_target=by_target(out, files),
        per_user=files,
        peak_memory_bytes=memory.peak_bytes(),
        seconds=time.monotonic() - start,
    )
    results.save(out)
    return results


def _check_same_data(members: Sequence[_Member], runs: Sequence[str]) -> None:
    """Equal split fingerprints mean equal records and catalog rows, whatever the ids."""
    first, second = (member.info.split_fingerprint for member in members)
    if first != second:
        raise UserError(
            f"Ensemble of '{runs[0]}' and '{runs[1]}': got datasets "
            f"'{members[0].info.dataset}' and '{members[1].info.dataset}' with other records, "
            "expected one dataset, which may have other ids; choose runs on the same data"
        )
