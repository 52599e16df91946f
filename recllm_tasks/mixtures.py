"""The mixtures of the paper, registered with SeqIO for every published dataset on import.

ReAT = retrieval + MIM + MLM, RaAT = ranking + MIM + MLM + BPR, RpAT = rating + MIM + MLM,
UT = the three recommendation tasks, UT+AT = UT + MIM + MLM, UT+IE = UT + item embedding; P5 = the
three in P5's wording; and the ablations of Tables 4-6. Rates are equal unless gin says otherwise:
the paper gives none. `ids_reat`, `ids_raat`, `ids_rpat`, `ids_ut` and `ids_ut_at` are the same,
without MLM, made of the tasks whose prompts hold ids alone. Of two mixtures with them texts are
learned too: `ids_ut_ie`, UT+AT and item embedding; and `ids_text`, retrieval, MIM, MLM and item
embedding.

`register_stored` registers the tasks and mixtures of custom datasets. Every `recllm` command calls
it; call it yourself in Python, in a notebook or in a process that T5X or SeqIO started:

    from recllm_tasks import mixtures
    mixtures.register_stored("~/recllm_data")
    seqio.get_mixture_or_task("mystore_reat")

and in gin: `train/utils.DatasetConfig.mixture_or_task_name = @mixtures.stored()`, with
`mixtures.stored.name = "mystore_reat"`.
"""

import functools
import os
from collections.abc import Mapping

import gin
import seqio

from recllm_tasks import tasks
from recllm_tasks.data.dataset_info import list_datasets, open_dataset
from recllm_tasks.data.specs import SPECS
from recllm_tasks.errors import UserError, check_text
from recllm_tasks.prompts.source import data_dir as data_dir_in_force
from recllm_tasks.prompts.templates import Template, Wording

_IDS_UT = tuple(f"{tasks.IDS}{kind}" for kind in tasks.RECOMMENDATION_TASKS)

TASKS_OF = {
    "reat": ("retrieval", "mim", "mlm"),
    "raat": ("ranking", "mim", "mlm", "bpr"),
    "rpat": ("rating", "mim", "mlm"),
    "ut": ("retrieval", "ranking", "rating"),
    "ut_at": ("retrieval", "ranking", "rating", "mim", "mlm"),
    "ut_ie": ("retrieval", "ranking", "rating", "ie"),
    "p5": tuple(f"p5_{kind}" for kind in tasks.RECOMMENDATION_TASKS),
    "ids_reat": ("ids_retrieval", "ids_mim"),
    "ids_raat": ("ids_ranking", "ids_mim", "ids_bpr"),
    "ids_rpat": ("ids_rating", "ids_mim"),
    "ids_ut": _IDS_UT,
    "ids_ut_at": (*_IDS_UT, "ids_mim"),
    "ids_ut_ie": (*_IDS_UT, "ids_mim", "ie"),
    "ids_sequence_rank": ("ids_sequence", "ids_sequence_ranking"),
    "ids_sequence_ut": ("ids_sequence", "ids_sequence_ranking", "ids_sequence_rating"),
    "ids_sequence_mim": ("ids_sequence", "ids_mim"),
    "ids_sequence_ie": ("ids_sequence", "ie"),
    "ids_sequence_mlm": ("ids_sequence", "mlm"),
    "ids_sequence_bpr": ("ids_sequence", "ids_bpr"),
    "ids_text": ("ids_retrieval", "ids_mim", "mlm", "ie"),
    **{f"{kind}_mlm": (kind, "mlm") for kind in tasks.RECOMMENDATION_TASKS},
    **{f"{kind}_mlm_mim": (kind, "mlm", "mim") for kind in tasks.RECOMMENDATION_TASKS},
}


@gin.configurable(module="mixtures")
def rate(
    task: seqio.Task | seqio.Mixture,
    kind: str,
    rates: Mapping[str, float] | None = None,
    temperature: float | None = None,
) -> float:
    """A task's share in every mixture, relative to the others.

    Args:
      task: the task or mixture.
      kind: retrieval, ranking, rating, mim, mlm, bpr, ie, or ids_retrieval, p5_retrieval and so on.
      rates: rate by kind; 1 for kinds that are not named.
      temperature: None, our default, uses `rates` alone. T multiplies each rate by n^(1/T), where n
        is the number of training examples (Raffel et al. 2020, §3.5.2); 1 mixes in proportion to n.
    """
    share = float((rates or {}).get(kind, 1.0))
    if temperature is None:
        return share
    if not temperature > 0:
        raise UserError(
            f"mixtures.rate.temperature: got {temperature}, expected more than 0, or None for "
            "equal rates; correct it"
        )
    return share * task.source.num_examples() ** (1.0 / temperature)


def register(dataset: str) -> None:
    """Registers all mixtures of a dataset with SeqIO."""
    for mixture, kinds in TASKS_OF.items():
        seqio.MixtureRegistry.add(
            f"{dataset}_{mixture}",
            [(f"{dataset}_{kind}", functools.partial(rate, kind=kind)) for kind in kinds],
        )


def register_stored(data_dir: str | os.PathLike | None = None) -> list[str]:
    """Registers the tasks and mixtures of all prepared custom datasets.

    Our choice: an explicit call, because importing this module reads no file.

    Args:
      data_dir: TFDS's data folder, set for all tasks; by default the current one (SeqIO's override,
        $TFDS_DATA_DIR, or TFDS's default).

    Returns:
      The names of those datasets. A registered one is not registered again; an incomplete one is
      left out.
    """
    if data_dir is not None:
        seqio.set_tfds_data_dir_override(os.path.expanduser(data_dir))
    names = []
    for name in list_datasets(data_dir_in_force()):
        if name in SPECS:
            continue
        try:
            info = open_dataset(data_dir_in_force(), name)
        except UserError:
            continue
        names.append(name)
        register_dataset(name, Wording(info.noun, info.verb, info.verb_past))
    return names


def register_dataset(name: str, wording: Wording) -> None:
    """Registers the tasks and mixtures of one dataset, unless they are registered already."""
    if f"{name}_retrieval" not in seqio.TaskRegistry.names():
        tasks.register(name, wording)
        register(name)


def register_p5(dataset: str, templates: Mapping[str, Template]) -> None:
    """Registers tasks `<dataset>_p5_<name>` and makes them the mixture `<dataset>_p5`.

    Args:
      dataset: whose other tasks are registered.
      templates: by name, which starts with the kind of task; see `p5_file.read`. They replace those
        of an earlier call; without any, the mixture is that of Figure 1 again.
    """
    figure = [f"{dataset}_{kind}" for kind in TASKS_OF["p5"]]
    for name in list(seqio.TaskRegistry.names()):
        if name.startswith(f"{dataset}_p5_") and name not in figure:
            seqio.TaskRegistry.remove(name)
    for name, template in templates.items():
        kind = name.partition("_")[0]
        seqio.TaskRegistry.add(f"{dataset}_p5_{name}", **tasks.p5_task(dataset, kind, template))
    seqio.MixtureRegistry.remove(f"{dataset}_p5")
    seqio.MixtureRegistry.add(
        f"{dataset}_p5",
        [
            (name, functools.partial(rate, kind=name.removeprefix(f"{dataset}_")))
            for name in [f"{dataset}_p5_{n}" for n in templates] or figure
        ],
    )


@gin.configurable(module="mixtures")
def stored(name: str = gin.REQUIRED, data_dir: str | None = None) -> seqio.Task | seqio.Mixture:
    """A task or mixture by name, including those of custom datasets; for T5X's gin files.

    Raises `UserError` as `tasks.get` does.
    """
    register_stored(data_dir)
    return tasks.get(name)


@gin.configurable(module="mixtures")
def named(dataset: str = gin.REQUIRED, kind: str = gin.REQUIRED) -> str:
    """The name of a dataset's task or mixture, for gin/mixtures/*.gin."""
    check_text("DATASET", dataset)
    return f"{dataset}_{kind}"


for _spec in SPECS.values():
    register(_spec.name)
