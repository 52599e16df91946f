"""What the paper prints about its datasets, to be shown beside one's own counts."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Samples:
    """Examples of one task; None is the paper's "DS", dynamic sampling."""

    train: int | None
    validation: int
    test: int


SAMPLED = Samples(None, 0, 0)

_RECOMMENDATION = {
    "toys": Samples(30_761, 3_000, 19_412),
    "beauty": Samples(36_582, 3_000, 22_363),
    "sports": Samples(47_320, 3_000, 35_598),
}

# Paper Table 10, by dataset and task.
TABLE_10: dict[str, dict[str, Samples]] = {
    dataset: {
        **dict.fromkeys(("retrieval", "ranking", "rating"), samples),
        **dict.fromkeys(("mim", "mlm", "bpr"), SAMPLED),
    }
    for dataset, samples in _RECOMMENDATION.items()
}
