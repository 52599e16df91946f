"""The tasks, registered with SeqIO for every published dataset on import.

The paper's are `<dataset>_{retrieval,ranking,rating,mim,mlm,bpr,ie}`. Five of them exist with items
written as ids alone, `<dataset>_ids_{retrieval,ranking,rating,mim,bpr}`; `<dataset>_ids_sequence`
is retrieval whose history the decoder reads, as in `<dataset>_ids_sequence_rating`, and
`<dataset>_ids_sequence_ranking` asks a model of sequences for the best of the candidates; three are
in P5's wording, for comparison, `<dataset>_p5_{retrieval,ranking,rating}`. Registering reads no
file: a dataset is opened when its examples are requested. `mixtures.register_stored` registers the
tasks of custom datasets. The parts are public: a custom task is a `seqio.TaskRegistry.add` with a
custom `Template`, see docs/tutorials/custom_task.md.
"""

import copy
import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import seqio
from flax import struct

from recllm_tasks import metrics
from recllm_tasks.data.added_items import AddedItems
from recllm_tasks.data.specs import SPECS
from recllm_tasks.errors import UserError, check_text
from recllm_tasks.prompts import candidates, masking, p5, ratings, templates
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.prompts.batches import unbatch
from recllm_tasks.prompts.source import (
    LAST,
    LATEST,
    SPLITS,
    BatchSource,
    CatalogSource,
    ItemSource,
    SequenceSource,
)
from recllm_tasks.prompts.targets import end_at_random, targets_of
from recllm_tasks.prompts.templates import Choice, Template, Wording
from recllm_tasks.prompts.token_table import write_item
from recllm_tasks.prompts.vocabulary import DatasetVocabulary
from recllm_tasks.prompts.vocabulary_training import check_atomic_ids

RECOMMENDATION_TASKS = ("retrieval", "ranking", "rating")

# Of the kinds whose prompts hold ids alone.
IDS = "ids_"

_TEMPLATES = {
    "retrieval": templates.RETRIEVAL,
    "ranking": templates.RANKING,
    "rating": templates.RATING,
    "mim": templates.MASKED_ITEM_MODELING,
    "mlm": templates.MASKED_LANGUAGE_MODELING,
    "bpr": templates.PERSONALIZED_RANKING,
    "ids_retrieval": templates.IDS_RETRIEVAL,
    "ids_sequence": templates.IDS_SEQUENCE,
    "ids_sequence_ranking": templates.IDS_SEQUENCE_RANKING,
    "ids_sequence_rating": templates.IDS_SEQUENCE_RATING,
    "ids_ranking": templates.IDS_RANKING,
    "ids_rating": templates.IDS_RATING,
    "ids_mim": templates.IDS_MASKED_ITEM_MODELING,
    "ids_bpr": templates.IDS_PERSONALIZED_RANKING,
}


def features(source: CatalogSource) -> dict[str, seqio.Feature]:
    """The output features of all our tasks on one dataset."""
    vocabulary = DatasetVocabulary(source.vocabulary_file)
    return {name: seqio.Feature(vocabulary) for name in ("inputs", "targets")}


@dataclasses.dataclass(frozen=True)
class RankedItems:
    """HR, NDCG, MRR and the share of invalid beams, for tasks whose beams are ranked items.

    Attributes:
      source: its catalog lists the items.
      form: how the target writes an item; a beam that matches no item is invalid.
      vocabulary: the task's; None is that of `features`.
    """

    source: CatalogSource
    form: str = templates.SHORT_ID
    vocabulary: DatasetVocabulary | None = None

    def __call__(self, targets: Sequence[str], predictions: Sequence[Sequence[str]]):
        if len(targets) and not any(targets):
            raise UserError(
                f"Metrics on '{self.source.dataset_name}': got examples without a target, expected "
                f"those of validation or test; the split {LATEST!r} cannot be measured: correct "
                "SPLIT"
            )
        catalog = self.source.catalog()
        vocabulary = self.vocabulary or DatasetVocabulary(self.source.vocabulary_file)
        # As decoding writes them: SentencePiece normalises characters and spaces.
        with vocabulary.opened():
            items = {
                vocabulary.decode(vocabulary.encode(write_item(catalog, self.form, row)))
                for row in range(len(catalog))
            }
        return metrics.ranking_metrics_with_validity(items.__contains__)(targets, predictions)


@struct.dataclass
class AnswerAuc(seqio.metrics.CollectingMetric):
    """AUC of the log-odds of the answers for like against those for dislike (paper §4.1).

    It reads the decoder's beams and their log-probabilities, `scores` [n, K]. The log-odds are
    exact if the answers are the only beams. For answers other than no and yes, see `answer_auc`.
    """

    model_output_type: seqio.metrics.ModelOutputType = (
        seqio.metrics.ModelOutputType.PREDICTION_WITH_AUX
    )

    def answers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The answers for dislike, and those for like."""
        return ("no",), ("yes",)

    def actual_compute(
        self,
        task_dataset_as_numpy,
        task_output_features,
        target_field_name: str = "targets",
        cached_targets=None,
    ):
        beams_NxKxT, aux = self.values["model_output"]
        vocabulary = task_output_features[target_field_name].vocabulary
        targets = cached_targets or [
            vocabulary.decode([int(t) for t in example[target_field_name]])
            for example in task_dataset_as_numpy
        ]
        answers = self.answers()
        log_odds = answer_log_odds(
            answers,
            [
                [vocabulary.decode([int(t) for t in beam]) for beam in beams]
                for beams in beams_NxKxT
            ],
            np.asarray(aux["scores"]),
        )
        labels = np.array([target in answers[1] for target in targets])
        return {"auc": metrics.auc(labels, log_odds)}, {"targets": targets, "score": log_odds}


def answer_auc(answers: Callable[[], tuple[tuple[str, ...], tuple[str, ...]]]) -> AnswerAuc:
    """`AnswerAuc` of other answers; `answers` is called when they are needed."""

    @struct.dataclass
    class GroupedAnswerAuc(AnswerAuc):
        def answers(self):
            return answers()

    return GroupedAnswerAuc.empty()


def answer_log_odds(
    answers: tuple[Sequence[str], Sequence[str]],
    beams: Sequence[Sequence[str]],
    scores_NxK: np.ndarray,
) -> np.ndarray:
    """log p(answers[1]) - log p(answers[0]), float [n]; a missing one counts as the last beam."""
    log_odds = []
    for texts, scores in zip(beams, scores_NxK):
        found = dict(zip(texts, scores))
        against, wanted = (
            np.logaddexp.reduce([found.get(answer, min(scores)) for answer in group])
            for group in answers
        )
        log_odds.append(wanted - against)
    return np.array(log_odds)


def recommendation_task(
    dataset: str, kind: str, wording: Wording, *, data_dir: str | None = None
) -> dict[str, Any]:
    """Arguments of `seqio.TaskRegistry.add` for retrieval, ranking or rating, in text or ids."""
    measured = kind.removeprefix(IDS).removeprefix("sequence_")
    splits = (*SPLITS, LATEST) if measured in ("retrieval", "sequence") else SPLITS
    source = _source(dataset, kind, data_dir, splits)
    evaluation = (
        {"metric_objs": [AnswerAuc.empty()]}
        if measured == "rating"
        else {"metric_fns": [RankedItems(source)]}
    )
    prompt = Prompt(_TEMPLATES[kind].worded(wording), source)
    return {
        "source": source,
        "preprocessors": [*_steps(source, measured), prompt, unbatch],
        "output_features": features(source),
        "shuffle_buffer_size": None,
        **evaluation,
    }


def p5_task(dataset: str, kind: str, template: Template) -> dict[str, Any]:
    """Arguments of `seqio.TaskRegistry.add` for retrieval, ranking or rating as P5 asks for it."""
    source, slot = _source(dataset, kind), template.answer
    evaluation = {}
    if isinstance(slot, Choice):
        metric = answer_auc(lambda: p5.answers_by_liking(slot, source.info().like_threshold))
        evaluation = {"metric_objs": [metric]}
    elif slot is not None:
        evaluation = {"metric_fns": [RankedItems(source, slot.form)]}
    steps = [*_steps(source, kind), p5.number_user(source)]
    return {
        "source": source,
        "preprocessors": [*steps, Prompt(template, source), unbatch],
        "output_features": features(source),
        "shuffle_buffer_size": None,
        **evaluation,
    }


def _source(
    dataset: str, kind: str, data_dir: str | None = None, splits: Sequence[str] = SPLITS
) -> SequenceSource:
    if kind == f"{IDS}sequence_ranking":
        return SequenceSource(dataset, splits=("validation", "test"), data_dir=data_dir)
    measured = kind.removeprefix(IDS).removeprefix("sequence_")
    return SequenceSource(
        dataset,
        splits=splits,
        needs_ratings=measured == "rating",
        with_negatives=measured == "ranking",
        targets=targets_of(kind),
        data_dir=data_dir,
    )


def _steps(source: SequenceSource, kind: str) -> list[Callable]:
    """The preprocessors of a recommendation task before its prompt."""
    return {
        "retrieval": [end_at_random(source)],
        "sequence": [end_at_random(source)],
        "ranking": [
            *([end_at_random(source)] if "train" in source.splits else []),
            candidates.list_candidates(source),
        ],
        "rating": [ratings.mark_liked(source)],
    }[kind]


def auxiliary_task(dataset: str, kind: str, wording: Wording) -> dict[str, Any]:
    """Arguments of `seqio.TaskRegistry.add` for MIM, MLM or BPR: training only (Table 10)."""
    learned = kind.removeprefix(IDS)
    is_bpr = learned == "bpr"
    source = SequenceSource(
        dataset,
        splits=["train"],
        needs_history=not is_bpr,
        with_negatives=is_bpr,
        targets=targets_of(kind) if is_bpr else LAST,
    )
    prompt = Prompt(_TEMPLATES[kind].worded(wording), source)
    preprocessors = {
        "mim": [masking.sample_items(source), masking.mask_items(prompt), prompt],
        "mlm": [
            masking.sample_items(source, masking.MIN_MLM_ITEMS),
            prompt,
            masking.corrupt_spans,
        ],
        "bpr": [end_at_random(source), candidates.pair_with_negative(source), prompt],
    }[learned]
    return {
        "source": source,
        "preprocessors": [*preprocessors, unbatch],
        "output_features": features(source),
        "shuffle_buffer_size": None,
    }


def register(dataset: str, wording: Wording) -> None:
    """Registers all tasks of a dataset with SeqIO."""
    for kind in RECOMMENDATION_TASKS:
        for form in (kind, f"{IDS}{kind}"):
            task = recommendation_task(dataset, form, wording)
            seqio.TaskRegistry.add(f"{dataset}_{form}", **task)
        p5_task_of_kind = p5_task(dataset, kind, p5.FIGURE_1[kind])
        seqio.TaskRegistry.add(f"{dataset}_p5_{kind}", **p5_task_of_kind)
    for kind in (f"{IDS}sequence", f"{IDS}sequence_ranking", f"{IDS}sequence_rating"):
        task = recommendation_task(dataset, kind, wording)
        seqio.TaskRegistry.add(f"{dataset}_{kind}", **task)
    for kind in ("mim", "mlm", "bpr", "ids_mim", "ids_bpr"):
        seqio.TaskRegistry.add(f"{dataset}_{kind}", **auxiliary_task(dataset, kind, wording))
    source = ItemSource(dataset, templates.ITEM_ATTRIBUTES)
    seqio.TaskRegistry.add(
        f"{dataset}_ie",
        source=source,
        preprocessors=[Prompt(templates.ITEM_EMBEDDING, source), unbatch],
        output_features=features(source),
        shuffle_buffer_size=None,
    )


def vocabulary_size(name: str, multiple: int = 128) -> int:
    """Embeddings that a model needs for a task or mixture, for `network.T5Config.vocab_size`.

    Args:
      name: of a task or mixture whose dataset is prepared.
      multiple: the size is rounded up to a multiple of this, which matrix products like.

    Raises:
      UserError: as `get`.
    """
    size = get(name).output_features["inputs"].vocabulary.vocab_size
    return -(-size // multiple) * multiple


def with_vocabulary(task: seqio.Task, path: str) -> seqio.Task:
    """A copy of the task, not registered, that uses the SentencePiece model in `path`.

    Features with a vocabulary of another class keep it.

    Raises:
      UserError: atomic ids that the vocabulary does not write as one piece each.
    """
    vocabulary = DatasetVocabulary(path)
    if isinstance(task.source, SequenceSource):
        check_atomic_ids(task.source, vocabulary)
    return task.replace(
        output_features={
            name: dataclasses.replace(feature, vocabulary=vocabulary)
            if isinstance(feature.vocabulary, DatasetVocabulary)
            else feature
            for name, feature in task.output_features.items()
        },
        metric_fns=[
            dataclasses.replace(metric, vocabulary=vocabulary)
            if isinstance(metric, RankedItems)
            else metric
            for metric in task.metric_fns
        ],
    )


def with_added_items(task: seqio.Task, added: AddedItems | None) -> seqio.Task:
    """A copy of the task, not registered, whose prompts and answers have the added items too.

    The examples are the same. A task that reads no prepared dataset stays as it is.

    Raises:
      UserError: the items were added to another dataset.
    """
    if added is None or not isinstance(task.source, CatalogSource):
        return task
    added.check(task.source.dataset_name, task.source.info().fingerprint)
    source = copy.copy(task.source)
    source.added = added
    steps = [
        Prompt(step.template, source) if isinstance(step, Prompt) else step
        for step in task.preprocessors
    ]
    return task.replace(source=source, preprocessors=steps)


def kind_of(task: str, dataset: str) -> str | None:
    """What a task of ours on that dataset measures, one of `RECOMMENDATION_TASKS`, by its name.

    `toys_retrieval`, `toys_ids_retrieval` and `toys_p5_retrieval_2_7` are all retrieval. None for
    other tasks.
    """
    if task == f"{dataset}_{IDS}sequence":
        return "retrieval"
    names = "|".join(RECOMMENDATION_TASKS)
    of_ids = rf"{re.escape(dataset)}_(?:{IDS})?(?:sequence_)?({names})"
    form = rf"{of_ids}|{re.escape(dataset)}_p5_({names})(?:_.*)?"
    found = re.fullmatch(form, task)
    return found and (found[1] or found[2])


def retrieval_kind(mixture: str, dataset: str) -> str:
    """`retrieval`, `ids_retrieval` or `ids_sequence`: which a model that learned `mixture` answers.

    The first that the mixture holds; of a mixture without, what its name says: those of the tasks
    with ids start with `ids_`.
    """
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    held = seqio.get_subtasks(seqio.get_mixture_or_task(mixture)) if mixture in known else []
    kinds = ("retrieval", f"{IDS}retrieval", f"{IDS}sequence")
    forms = {f"{dataset}_{kind}": kind for kind in kinds}
    named = mixture.removeprefix(f"{dataset}_")
    by_name = kinds[1] if named.startswith(IDS) else kinds[0]
    by_name = kinds[2] if named.startswith(kinds[2]) else by_name
    return next((forms[task.name] for task in held if task.name in forms), by_name)


def learns_retrieval(mixture: str, dataset: str) -> bool:
    """Whether a mixture holds a retrieval task, so that its model can recommend."""
    subtasks = seqio.get_subtasks(seqio.get_mixture_or_task(mixture))
    return any(kind_of(task.name, dataset) == "retrieval" for task in subtasks)


def prompt_of(task: seqio.Task) -> Prompt | None:
    """The prompt of a task that has one of ours, or None."""
    prompts = [step for step in task.preprocessors if isinstance(step, Prompt)]
    return prompts[-1] if prompts else None


def source_of(found: seqio.Task | seqio.Mixture) -> CatalogSource:
    """The prepared dataset of the first task that reads one.

    Raises:
      UserError: no task reads a prepared dataset.
    """
    for task in seqio.get_subtasks(found):
        if isinstance(task.source, CatalogSource):
            return task.source
    raise UserError(
        f"No prepared dataset behind '{found.name}': got tasks over other sources, expected at "
        "least one over a SequenceSource; add one to the mixture"
    )


def answers(task: seqio.Task) -> list[str] | None:
    """All valid target strings of a task, or None where the target is free text.

    For a target that is one item: that item's text for each row of the catalog, in its order.
    """
    prompt = prompt_of(task)
    if prompt is None or prompt.template.answer is None:
        return None
    slot = prompt.template.answer
    if isinstance(slot, Choice):
        return list(slot.answers)
    catalog = prompt.source.catalog()
    return [write_item(catalog, slot.form, row) for row in range(len(catalog))]


def get(name: str) -> seqio.Task | seqio.Mixture:
    """The task or mixture of that name; checks that its data is prepared and suits it.

    Raises:
      UserError: no such name, a task without `unbatch`, or a dataset that is not prepared or lacks
        the ratings that are needed.
    """
    check_text("MIXTURE_OR_TASK_NAME", name)
    try:
        found = seqio.get_mixture_or_task(name)
    except ValueError as error:
        known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or ["toys_retrieval"]
        raise UserError(
            f"Unknown task or mixture '{name}': got a name that is not registered, expected "
            f"<dataset>_<kind>, for instance {', '.join(close)}; `recllm show` lists them all"
        ) from error
    for task in seqio.get_subtasks(found):
        if not isinstance(task.source, BatchSource):
            continue
        if unbatch not in task.preprocessors:
            raise UserError(
                f"Preprocessors of '{task.name}': got none that ends the batches, expected "
                "`unbatch`; add it after the last step that works on batches"
            )
        task.source.check()
        check_atomic_ids(task.source, task.output_features["inputs"].vocabulary)
    return found


for _spec in SPECS.values():
    register(_spec.name, Wording(_spec.noun, _spec.verb, _spec.verb_past))
