"""A local sentence-transformers model embeds the items' texts; other folders are refused."""

import json
import shutil

import numpy as np
import pytest

from recllm_tasks import cli
from recllm_tasks.data import text_model
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import dataset_dir, open_dataset
from recllm_tasks.data.id_schemes import write_codes
from recllm_tasks.data.item_embeddings import check_embeddings
from recllm_tasks.data.semantic_ids import assign_codes
from recllm_tasks.errors import UserError

pytest.importorskip("sentence_transformers")

WORDS = ["red", "blue", "green", "doll", "car", "puzzle", "of", "wood", "large", "small"]
TEXTS = ["red doll", "blue car of wood", "", "large green puzzle of wood", "nothing known red"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of a small BERT with random weights, mean pooling."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("model")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    bert = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
    )
    bert.save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    part = Transformer(str(folder / "bert"))
    pooling = Pooling(part.get_embedding_dimension(), "mean")
    SentenceTransformer(modules=[part, pooling], device="cpu").save(str(folder / "whole"))
    return folder / "whole"


def test_embeddings_are_the_means_of_the_last_layer(model):
    import torch
    import transformers

    done = []
    found = text_model.embed_with_model(check_embeddings(model).path, TEXTS, done.append)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    bert = transformers.AutoModel.from_pretrained(model).eval()
    for text, embedding in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            mean = bert(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean), atol=1e-5)
    assert found.dtype == np.float32
    assert sum(done) == len(TEXTS)


def test_ids_come_from_the_models_embeddings(model, tmp_path):
    log = [
        f"u{user},i{(user * 7 + place) % 30},{place}" for user in range(40) for place in range(9)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *log]))
    items = [f"i{item},{WORDS[item % 5]} {WORDS[5 + item // 6]}" for item in range(30)]
    (tmp_path / "items.csv").write_text("\n".join(["item,title", *items]))
    files = ["--interactions", tmp_path / "log.csv", "--items", tmp_path / "items.csv"]
    ids = ["--ids", "semantic", "--embeddings", model, "--data_dir", tmp_path / "data"]
    assert cli.main(list(map(str, ["prepare", "shop", *files, *ids]))) == 0
    catalog = Catalog.load(dataset_dir(tmp_path / "data", "shop"))
    texts = [f"{title}   " for title in catalog.title]
    embeddings = text_model.embed_with_model(model, texts, lambda done: None)
    assert list(catalog.short_id) == list(write_codes(assign_codes(embeddings, 0)))
    info = open_dataset(tmp_path / "data", "shop")
    assert info.source_files["whole"] == check_embeddings(model).sha256


def test_another_model_is_another_source(model, tmp_path):
    shutil.copytree(model, tmp_path / "same")
    assert check_embeddings(tmp_path / "same").sha256 == check_embeddings(model).sha256
    (tmp_path / "same" / "config.json").write_text("{}")
    assert check_embeddings(tmp_path / "same").sha256 != check_embeddings(model).sha256


def _change_modules(folder, **changes):
    modules = json.loads((folder / "modules.json").read_text())
    modules[0] |= changes
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    ("damage", "got"),
    [
        (lambda f: (f / "modules.json").unlink(), "no modules.json"),
        (lambda f: (f / "modules.json").write_text("{"), "an unreadable modules.json"),
        (lambda f: (f / "modules.json").write_text("[3]"), "an invalid modules.json"),
        (lambda f: _change_modules(f, type="os.system"), "a module of type 'os.system'"),
        (lambda f: _change_modules(f, path="../.."), "the path '../..'"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "a pickle"),
    ],
)
def test_a_bad_folder_is_refused_before_anything_is_read(model, tmp_path, damage, got):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    damage(folder)
    with pytest.raises(UserError) as error:
        check_embeddings(folder)
    assert f"embeddings for '{folder}': got " in str(error.value)
    assert got in str(error.value)


def test_an_incomplete_model_is_reported_in_one_line(model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="a model that cannot be loaded") as error:
        text_model.embed_with_model(check_embeddings(folder).path, TEXTS, lambda done: None)
    assert "\n" not in str(error.value)


def test_without_the_library_a_folder_says_what_to_install(model, monkeypatch):
    monkeypatch.setattr(text_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="sentence-transformers to read a model; install it"):
        check_embeddings(model)
