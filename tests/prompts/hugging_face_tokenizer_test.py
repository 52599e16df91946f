"""tokenizer.json reads and writes what our vocabulary does, text by text."""

import io
import pathlib
import random

import gin
import pytest
import sentencepiece
import seqio
import transformers

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.data.prepare import prepare
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import masking, templates, token_table
from recllm_tasks.prompts.hugging_face_tokenizer import write_tokenizer
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.vocabulary import DatasetVocabulary

# Ranking with semantic ids in T5's vocabulary needs the most.
LENGTHS = {"inputs": 2048, "targets": 128}
KINDS = (
    *("retrieval", "ranking", "rating", "mim", "mlm", "bpr", "ie"),
    *("ids_retrieval", "ids_sequence", "ids_sequence_rating", "ids_ranking", "ids_rating"),
    *("ids_mim", "ids_bpr", "p5_retrieval", "p5_ranking", "p5_rating"),
)
FORMS = (templates.LISTED_ITEM, templates.ITEM, templates.SHORT_ID, "{brand}", "{categories}")

# What titles hold, decomposed, composed, wide, invisible, and what looks like our own pieces.
ODD = [
    *("", " ", "  a  b ", "tab\tline\r\nend", "▁", "x ▁ y▁", "nbsp\u00a0zero\u200bsoft\u00ad"),
    *("I12 I1345,I7;", "xI12", "Item ID: I3, Title: , Title: I4;", "[masked item];[masked item];"),
    *("</s>", "a</s><pad> <unk>", "Item ID:</s>", "<extra_id_0> a <extra_id_99>", "I12a200b7c0"),
    *("Les Misérables", "Les Mise\u0301rables", "Việt Nam", "Vie\u0323\u0302t", "ﬁne ½ ™ № ①"),
    *("ガンダム", "カ\u3099ンタ\u3099ム", "한국어", "\u1112\u1161\u11ab", "हिन्दी", "ПОДАРОК й"),
    *(
        "👨‍👩‍👧 👍🏽 ❤️",
        "ＦＵＬＬ　ＷＩＤＴＨ",
        "ﷺ",
        "“x” – … 10″",
        "yes no none; like dislike rate",
    ),
]


def _tokenizer(file, folder: pathlib.Path):
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(file, folder)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    # As in a converted folder: transformers must not read it in place of ours.
    (folder / "spiece.model").write_bytes(pathlib.Path(file).read_bytes())
    return transformers.AutoTokenizer.from_pretrained(folder)


def _assert_same(tokenizer, vocabulary, texts) -> None:
    texts = list(texts)
    read = tokenizer(texts).input_ids
    written = tokenizer.batch_decode(read, skip_special_tokens=True)
    for text, tokens, back in zip(texts, read, written, strict=True):
        assert tokens == [*vocabulary.encode(text), vocabulary.eos_id], text
        assert back == vocabulary.decode(tokens), text


def _random_texts(number: int) -> list[str]:
    rng = random.Random(0)
    # In transformers a sentinel is one anywhere, in ours after a space. No title has one.
    words = [text for text in ODD if text.isascii() and "extra_id" not in text]
    words += ["The", "(1996)", "$10,000.00", ", Title:"]
    letters = "abcdefghijklmnopqrstuvwxyzABCDI0123456789;:,.'()[]<>/&-"

    def word():
        if rng.random() < 0.5:
            return rng.choice(words)
        return "".join(rng.choices(letters, k=rng.randint(1, 9)))

    return [
        "".join(word() + rng.choice((" ", " ", "", "  ")) for _ in range(rng.randint(1, 12)))
        for _ in range(number)
    ]


def _assert_prompts_are_the_same(dataset, kind, tokenizer, most=None) -> int:
    """All training examples, or a number of them; the whole text gives the assembled tokens."""
    task, examples = tasks.get(f"{dataset}_{kind}"), 0
    prompt, vocabulary = tasks.prompt_of(task), task.output_features["inputs"].vocabulary
    writer = prompt.writer(LENGTHS, task.output_features)
    batches = task.source.training_batches(shuffle=most is not None, seed=0)
    with seqio.utils.map_seed_manager(0):
        for step in task.preprocessors[:-1]:
            if step is not masking.corrupt_spans:
                batches = seqio.utils.add_kwargs_to_transform(
                    step, sequence_length=LENGTHS, output_features=task.output_features
                )(batches)
    for batch in batches:
        for side, texts in zip(("inputs", "targets"), zip(*writer.texts(batch))):
            if side not in batch:
                continue
            read = tokenizer(list(texts)).input_ids
            for text, tokens, assembled in zip(texts, read, batch[side].to_list(), strict=True):
                ours = [token for token in assembled if token != vocabulary.eos_id]
                assert tokens == [*ours, vocabulary.eos_id], text
        examples += len(texts)
        if most is not None and examples >= most:
            break
    return examples


@pytest.fixture(scope="module")
def own(small_data_dir, tmp_path_factory):
    """(transformers' tokenizer, our vocabulary) of a small dataset's own vocabulary."""
    file = CatalogSource("gift_cards", data_dir=str(small_data_dir)).vocabulary_file()
    return _tokenizer(file, tmp_path_factory.mktemp("own")), DatasetVocabulary(file)


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    """The same for a unigram vocabulary, as T5's is."""
    words = "gift card of store very nice movie Item ID Title the user would watch next I1 I2 I3"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{words} {text}" for text in ODD if text.strip()] * 4),
        model_writer=model,
        model_type="unigram",
        vocab_size=170,
        hard_vocab_limit=False,
        character_coverage=0.98,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("unigram")
    file = folder / "spiece.model"
    file.write_bytes(model.getvalue())
    return _tokenizer(file, folder / "hf"), DatasetVocabulary(str(file))


def test_special_tokens_are_t5s(own):
    tokenizer, vocabulary = own
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert len(tokenizer) == vocabulary.vocab_size
    last = vocabulary.vocab_size - 1
    assert tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"]) == [last, last - 99]
    padded = tokenizer(["I1", "I1 I2"], padding=True)
    assert set(padded) == {"input_ids", "attention_mask"}
    assert padded["attention_mask"][0][-1] == 0


def test_items_are_the_same(own, small_data_dir):
    catalog = CatalogSource("gift_cards", data_dir=str(small_data_dir)).catalog()
    for form in FORMS:
        _assert_same(*own, token_table.item_texts(catalog, form))


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_the_same(small_data, own, kind):
    assert _assert_prompts_are_the_same("gift_cards", kind, own[0], most=200)


@pytest.mark.parametrize("which", ["own", "unigram"])
def test_odd_texts_are_the_same(which, request):
    tokenizer, vocabulary = request.getfixturevalue(which)
    _assert_same(tokenizer, vocabulary, ODD)
    if which == "own":
        _assert_same(tokenizer, vocabulary, _random_texts(2000))


def test_kinds_that_cannot_be_written_are_refused(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c"]),
        model_writer=model,
        model_type="char",
        vocab_size=9,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (tmp_path / "char.model").write_bytes(model.getvalue())
    with pytest.raises(UserError, match=r"char.model' for transformers: got model type 4"):
        write_tokenizer(tmp_path / "char.model", tmp_path)


@pytest.fixture(
    scope="module",
    params=[(i, v) for i in ("atomic", "random", "semantic") for v in ("own", "t5")],
    ids="-".join,
)
def toys(request, shared, tmp_path_factory):
    """Toys with one scheme of ids and one vocabulary in force; (tokenizer, vocabulary)."""
    from recllm_tasks.prompts.vocabulary_training import ensure_vocabulary

    ids, which = request.param
    if (ids, which) == ("atomic", "t5"):
        pytest.skip("T5's vocabulary has no atomic ids")
    folder = tmp_path_factory.mktemp("toys")
    prepare("toys", folder, shared / "data" / "toys_and_games", ids=ids)
    seqio.set_tfds_data_dir_override(str(folder))
    gin.clear_config()
    file = str(shared / "vocab" / "t5.spiece.model")
    if which == "t5":
        gin.bind_parameter("vocabulary.sentencepiece_file.path", file)
    else:
        ensure_vocabulary(CatalogSource("toys"))
        file = CatalogSource("toys").vocabulary_file()
    yield _tokenizer(file, tmp_path_factory.mktemp("hf")), DatasetVocabulary(file)
    gin.clear_config()
    seqio.set_tfds_data_dir_override(None)


@pytest.mark.slow
@pytest.mark.shared
def test_all_of_toys_is_the_same(toys):
    catalog = CatalogSource("toys").catalog()
    for form in (*FORMS, "{description}", "{price}"):
        _assert_same(*toys, token_table.item_texts(catalog, form))
    for kind in KINDS:
        if not kind.endswith("rating"):  # the published sequences have none
            assert _assert_prompts_are_the_same("toys", kind, toys[0])
