"""The tasks of the paper, registered with SeqIO for every published dataset on import.

`<dataset>_{retrieval,ranking,rating,mim,mlm,bpr,ie}`. Registering reads no file: a dataset is
opened when its examples are asked for. Those of a dataset of one's own are registered by
`mixtures.register_stored`, which reads what is prepared. The pieces are public, so that a task of
one's own is a `seqio.TaskRegistry.add` with a `Template` of one's own: see README.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
from flax import struct

from recllm_tasks import metrics
from recllm_tasks.data.specs import SPECS
from recllm_tasks.errors import UserError, check_text
from recllm_tasks.prompts import candidates, masking, prefixes, ratings, templates
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.prompts.own_vocabulary import check_atomic_ids
from recllm_tasks.prompts.source import CatalogSource, ItemSource, SequenceSource
from recllm_tasks.prompts.templates import Choice, Wording
from recllm_tasks.prompts.token_table import write_item
from recllm_tasks.prompts.vocabulary import DatasetVocabulary

RECOMMENDATION_TASKS = ("retrieval", "ranking", "rating")

# What SeqIO's offline caching keeps: the windows. All after it is fitted to a run's lengths, or
# drawn anew every epoch.
_CACHE = seqio.CacheDatasetPlaceholder()


def features(source: CatalogSource) -> dict[str, seqio.Feature]:
    """The output features of all our tasks on one dataset."""
    vocabulary = DatasetVocabulary(source.vocabulary_file)
    return {name: seqio.Feature(vocabulary) for name in ("inputs", "targets")}


def ranked_items(
    source: CatalogSource, form: str = templates.SHORT_ID
) -> Callable[..., Mapping[str, float]]:
    """The metric function of tasks whose beams are ranked items: HR, NDCG, MRR, invalid share.

    Args:
      source: whose catalog the items are of.
      form: how the target writes an item; a beam that no item is written as is invalid.
    """

    def metric_fn(targets: Sequence[str], predictions: Sequence[Sequence[str]]):
        catalog, vocabulary = source.catalog(), features(source)["targets"].vocabulary
        # As decoding writes them: SentencePiece normalises characters and spaces.
        with vocabulary.opened():
            items = {
                vocabulary.decode(vocabulary.encode(write_item(catalog, form, row)))
                for row in range(len(catalog))
            }
        return metrics.ranking_metrics_with_validity(items.__contains__)(targets, predictions)

    return metric_fn


@struct.dataclass
class AnswerAuc(seqio.metrics.CollectingMetric):
    """AUC of the log-odds of the second answer against the first (paper §4.1: like or dislike).

    It reads the decoder's beams and their log-probabilities, `scores` [n, K]; with the two answers
    as the only beams the log-odds are exact.
    """

    model_output_type: seqio.metrics.ModelOutputType = (
        seqio.metrics.ModelOutputType.PREDICTION_WITH_AUX
    )
    answers: tuple[str, str] = ("no", "yes")

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
        log_odds = answer_log_odds(
            self.answers,
            [
                [vocabulary.decode([int(t) for t in beam]) for beam in beams]
                for beams in beams_NxKxT
            ],
            np.asarray(aux["scores"]),
        )
        labels = np.array([target == self.answers[1] for target in targets])
        return {"auc": metrics.auc(labels, log_odds)}, {"targets": targets, "score": log_odds}


def answer_log_odds(
    answers: tuple[str, str], beams: Sequence[Sequence[str]], scores_NxK: np.ndarray
) -> np.ndarray:
    """log p(answers[1]) - log p(answers[0]), float [n]; a missing one counts as the last beam."""
    log_odds = []
    for texts, scores in zip(beams, scores_NxK):
        found = dict(zip(texts, scores))
        log_odds.append(found.get(answers[1], min(scores)) - found.get(answers[0], min(scores)))
    return np.array(log_odds)


def recommendation_task(dataset: str, kind: str, wording: Wording) -> dict[str, Any]:
    """Arguments of `seqio.TaskRegistry.add` for retrieval, ranking or rating."""
    source = SequenceSource(
        dataset, needs_ratings=kind == "rating", with_negatives=kind == "ranking"
    )
    template = {
        "retrieval": templates.RETRIEVAL,
        "ranking": templates.RANKING,
        "rating": templates.RATING,
    }[kind]
    prepare = {
        "retrieval": [prefixes.cut_at_random("retrieval")],
        "ranking": [prefixes.cut_at_random("ranking"), candidates.list_candidates(source)],
        "rating": [ratings.mark_liked(source)],
    }[kind]
    evaluation = (
        {"metric_objs": [AnswerAuc.empty()]}
        if kind == "rating"
        else {"metric_fns": [ranked_items(source)]}
    )
    return {
        "source": source,
        "preprocessors": [_CACHE, *prepare, Prompt(template.worded(wording), source)],
        "output_features": features(source),
        "shuffle_buffer_size": None,
        **evaluation,
    }


def auxiliary_task(dataset: str, kind: str, wording: Wording) -> dict[str, Any]:
    """Arguments of `seqio.TaskRegistry.add` for MIM, MLM or BPR: training only (Table 10)."""
    source = SequenceSource(dataset, splits=["train"], with_negatives=kind == "bpr")
    if kind == "mim":
        prompt = Prompt(templates.MASKED_ITEM_MODELING.worded(wording), source)
        preprocessors = [
            masking.sample_items(source),
            prompt.fit,
            masking.mask_items(prompt),
            prompt,
        ]
    elif kind == "mlm":
        prompt = Prompt(templates.MASKED_LANGUAGE_MODELING, source)
        preprocessors = [
            masking.sample_items(source, masking.MIN_MLM_ITEMS),
            prompt,
            masking.corrupt_spans,
        ]
    else:
        prompt = Prompt(templates.PERSONALIZED_RANKING.worded(wording), source)
        preprocessors = [
            prefixes.cut_at_random("bpr"),
            candidates.pair_with_negative(source),
            prompt,
        ]
    return {
        "source": source,
        "preprocessors": [_CACHE, *preprocessors],
        "output_features": features(source),
        "shuffle_buffer_size": None,
    }


def register(dataset: str, wording: Wording) -> None:
    """Registers all tasks of a dataset with SeqIO."""
    for kind in RECOMMENDATION_TASKS:
        seqio.TaskRegistry.add(f"{dataset}_{kind}", **recommendation_task(dataset, kind, wording))
    for kind in ("mim", "mlm", "bpr"):
        seqio.TaskRegistry.add(f"{dataset}_{kind}", **auxiliary_task(dataset, kind, wording))
    source = ItemSource(dataset, templates.ITEM_ATTRIBUTES)
    seqio.TaskRegistry.add(
        f"{dataset}_ie",
        source=source,
        preprocessors=[_CACHE, Prompt(templates.ITEM_EMBEDDING, source)],
        output_features=features(source),
        shuffle_buffer_size=None,
    )


def prompt_of(task: seqio.Task) -> Prompt | None:
    """The prompt of a task that is built like ours, or None."""
    prompts = [step for step in task.preprocessors if isinstance(step, Prompt)]
    return prompts[-1] if prompts else None


def source_of(found: seqio.Task | seqio.Mixture) -> CatalogSource:
    """The prepared dataset that the first task of ours reads.

    Raises:
      UserError: no task of it reads a prepared dataset.
    """
    for task in seqio.get_subtasks(found):
        if isinstance(task.source, CatalogSource):
            return task.source
    raise UserError(
        f"No prepared dataset behind '{found.name}': got tasks over other sources, expected at "
        "least one over a SequenceSource; add one to the mixture"
    )


def answers(task: seqio.Task) -> list[str] | None:
    """All that a task's target can be, or None where it is free text.

    For a target that is one item: that item's text for each row of the catalog, in its order.
    """
    prompt = prompt_of(task)
    slot = prompt.template.answer if prompt else None
    if slot is None:
        return None
    if isinstance(slot, Choice):
        return list(slot.answers)
    catalog = prompt.source.catalog()
    return [write_item(catalog, slot.form, row) for row in range(len(catalog))]


def get(name: str) -> seqio.Task | seqio.Mixture:
    """The task or mixture of that name, with its data there and fit for it.

    Raises:
      UserError: no such name, the dataset is not prepared, or it lacks the ratings that are needed.
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
        if isinstance(task.source, SequenceSource):
            task.source.check()
            check_atomic_ids(task.source, task.output_features["inputs"].vocabulary)
    return found


for _spec in SPECS.values():
    register(_spec.name, Wording(_spec.noun, _spec.verb, _spec.verb_past))
