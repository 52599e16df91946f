"""P5's representation: the wording of the paper's Figure 1(a), users and items as numbers."""

import numpy as np
import pytest
import seqio
import tensorflow as tf
from scipy import stats

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.options import Options
from recllm_tasks.prompts import p5
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.vocabulary import DatasetVocabulary
from recllm_tasks.prompts.vocabulary_training import train_vocabulary

# Figure 1(a1)-(a3) of the paper.
FIGURE = {
    "retrieval": (
        "I find the purchase history list of user_15466: 4110 -> 4467 -> 4468 -> 4472 I wonder "
        "what is the next item to recommend to the user. Can you help me decide?",
        "1581",
    ),
    "ranking": (
        "Pick the most suitable item from the following list and recommend to user_250: 4915 , "
        "1823 , 3112 , 3821 , 3773 , 520",
        "520",
    ),
    "rating": ("What star rating do you think user_23 will give item_7391?", "5.0"),
}
EXAMPLES = {
    "retrieval": {"user_row": 15465, "history": [4109, 4466, 4467, 4471], "target": 1580},
    "ranking": {
        "user_row": 249,
        "history": [0],
        "candidates": [4914, 1822, 3111, 3820, 3772, 519],
        "target": 519,
    },
    "rating": {"user_row": 22, "history": [0], "target": 7390, "target_star": 4},
}


class FigureSource(CatalogSource):
    """As many items and users as the figure names."""

    def __init__(self, items=7391):
        super().__init__("figure_1")
        names, empty = [f"I{number}" for number in range(1, items + 1)], [""] * items
        texts = dict.fromkeys(("title", "brand", "price", "categories", "description"), empty)
        counts = np.ones(items, np.int64)
        self._catalog = Catalog(item=names, short_id=names, train_count=counts, **texts)

    def catalog(self):
        return self._catalog

    def info(self):
        return Options(candidates=6)

    def num_users(self):
        return 15466


@pytest.fixture(scope="module")
def source():
    return FigureSource()


@pytest.fixture(scope="module", params=["own", "t5"])
def vocabulary(request, tmp_path_factory):
    if request.param == "t5":
        path = request.getfixturevalue("shared") / "vocab" / "t5.spiece.model"
    else:
        path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
        texts = [(text, 1) for sides in FIGURE.values() for text in sides]
        train_vocabulary(str(path), texts * 3, ())
    return DatasetVocabulary(lambda: str(path))


def _batch(example, size):
    """`size` examples that are all the same."""
    return {
        name: tf.ragged.constant([value] * size, tf.int32, row_splits_dtype=tf.int64)
        if isinstance(value, list)
        else tf.fill([size], value)
        for name, value in example.items()
    }


@pytest.mark.parametrize("kind", list(FIGURE))
def test_the_figure_word_for_word_and_its_tokens(kind, source, vocabulary):
    features = {name: seqio.Feature(vocabulary) for name in ("inputs", "targets")}
    prompt = Prompt(p5.FIGURE_1[kind], source)
    writer = prompt.writer({"inputs": 256, "targets": 16}, features)
    for size in (1, 3):
        batch = _batch(EXAMPLES[kind], size)
        assert writer.texts(batch) == [FIGURE[kind]] * size
        written = writer.write(writer.fit(batch))
        for side, text in zip(("inputs", "targets"), FIGURE[kind]):
            tokens = [*vocabulary.encode(text), vocabulary.eos_id]
            assert written[side].to_list() == [tokens] * size


@pytest.mark.usefixtures("small_data")
class TestTasks:
    def test_a_users_number_is_its_own_in_every_split_and_in_no_order(self):
        numbers = {}
        for split in ("train", "validation", "test"):
            for example in _examples("p5_retrieval", split):
                numbers.setdefault(example["user"], set()).add(int(example["user_row"]))
                assert f"user_{example['user_row'] + 1}:" in example["inputs_pretokenized"]
        rows = [row for (row,) in (numbers[user] for user in sorted(numbers))]
        assert sorted(rows) == list(range(len(numbers)))
        # Five standard deviations of two orders that have nothing to do with each other.
        correlation = stats.spearmanr(rows, range(len(rows))).statistic
        assert abs(correlation) < 5 / np.sqrt(len(rows) - 1)

    def test_stars_are_the_ratings(self):
        ratings = set()
        for example in _examples("p5_rating", "test"):
            assert example["targets_pretokenized"] == f"{example['target_rating']:.1f}"
            ratings.add(float(example["target_rating"]))
        assert len(ratings) == 5

    def test_answers_are_the_numbers_of_the_catalog(self):
        task = seqio.TaskRegistry.get("gift_cards_p5_retrieval")
        size = len(task.source.catalog())
        assert tasks.answers(task) == [str(number) for number in range(1, size + 1)]
        assert tasks.answers(seqio.TaskRegistry.get("gift_cards_p5_rating")) == list(
            p5.STARS.answers
        )


def test_liking_is_more_than_three_stars():
    assert p5.answers_by_liking(p5.STARS, 3.0) == (("1.0", "2.0", "3.0"), ("4.0", "5.0"))
    beams, scores = [["5.0", "1.0", "4.0", "2.0", "3.0"]], np.log([[0.4, 0.2, 0.2, 0.15, 0.05]])
    log_odds = tasks.answer_log_odds(p5.answers_by_liking(p5.STARS, 3.0), beams, scores)
    assert log_odds == pytest.approx([np.log(0.6 / 0.4)])


def _examples(kind, split):
    """Examples with their sides as text."""
    task = seqio.TaskRegistry.get(f"gift_cards_{kind}")
    dataset = task.get_dataset({"inputs": 512, "targets": 16}, split=split, shuffle=False)
    vocabulary = task.output_features["inputs"].vocabulary
    for example in dataset.as_numpy_iterator():
        texts = {
            f"{side}_pretokenized": vocabulary.decode(example[side].tolist()[:-1])
            for side in ("inputs", "targets")
        }
        yield {**example, **texts}
