import pytest

from recllm_tasks.data import records
from recllm_tasks.data.prepare import dataset_dir, prepare

pytest.importorskip("apache_beam", reason="needs apache-beam")


@pytest.mark.parametrize("options", [[], ["--direct_running_mode=multi_processing"]])
def test_the_same_files_as_without_beam(tmp_path, raw_dir, monkeypatch, options):
    from recllm_tasks.data.beam import write_on_beam

    monkeypatch.setattr(records, "USERS_A_SHARD", 3)
    files = []
    for data_dir, write in (
        (tmp_path / "beam", lambda shards: write_on_beam(shards, options)),
        (tmp_path / "here", None),
    ):
        prepare("gift_cards", data_dir, raw_dir, write=write)
        folder = dataset_dir(data_dir, "gift_cards")
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert "rec_sequences-test.tfrecord-00002-of-00003" in files[0]
    # Parquet names the version of its writer, so files are compared within one environment.
    assert files[0] == files[1]
