"""The mixtures of the paper for every dataset, registered with SeqIO when this module is imported.

ReAT = retrieval + MIM + MLM, RaAT = ranking + MIM + MLM + BPR, RpAT = rating + MIM + MLM,
UT = the three recommendation tasks, UT+AT = UT + MIM + MLM, UT+IE = UT + item embedding; and the
ablations of Tables 4-6. Rates are equal unless gin says otherwise: the paper names none.
"""

import functools
from collections.abc import Mapping

import gin
import seqio

from recllm_tasks import tasks
from recllm_tasks.data.specs import SPECS

TASKS_OF = {
    "reat": ("retrieval", "mim", "mlm"),
    "raat": ("ranking", "mim", "mlm", "bpr"),
    "rpat": ("rating", "mim", "mlm"),
    "ut": ("retrieval", "ranking", "rating"),
    "ut_at": ("retrieval", "ranking", "rating", "mim", "mlm"),
    "ut_ie": ("retrieval", "ranking", "rating", "ie"),
    **{f"{kind}_mlm": (kind, "mlm") for kind in tasks.RECOMMENDATION_TASKS},
    **{f"{kind}_mlm_mim": (kind, "mlm", "mim") for kind in tasks.RECOMMENDATION_TASKS},
}


@gin.configurable(module="mixtures")
def rate(
    task: seqio.Task | seqio.Mixture, kind: str, rates: Mapping[str, float] | None = None
) -> float:
    """A task's share in every mixture, relative to the others.

    Args:
      task: what SeqIO asks about.
      kind: retrieval, ranking, rating, mim, mlm, bpr or ie.
      rates: rate by kind; 1 for those that are not named.
    """
    del task
    return float((rates or {}).get(kind, 1.0))


def register(dataset: str) -> None:
    """Registers all mixtures of a dataset with SeqIO."""
    for mixture, kinds in TASKS_OF.items():
        seqio.MixtureRegistry.add(
            f"{dataset}_{mixture}",
            [(f"{dataset}_{kind}", functools.partial(rate, kind=kind)) for kind in kinds],
        )


for _spec in SPECS.values():
    register(_spec.name)
