"""Time and memory of a report on synthetic runs of a large dataset.

    tools/bench_report.py
    tools/bench_report.py --users 35598 --items 18357 --rows 15 --keep /tmp/synthetic

Each run has retrieval, ranking and rating results with one row per user. Language models also have
a training log. All numbers are made up.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FINGERPRINT = "5" * 64
LISTED = 20
BASELINES = ("popularity", "item_to_item", "ease", "markov", "sasrec", "gru4rec", "caser", "hgn")
MIXTURES = ("reat", "raat", "rpat", "ut", "ut_at", "ut_ie", "retrieval", "retrieval_mlm", "ranking")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=35_598, help="default: as in Sports")
    parser.add_argument("--items", type=int, default=18_357)
    parser.add_argument("--rows", type=int, default=15)
    parser.add_argument("--keep", help="folder that keeps the runs and the report")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.keep or temporary)
        if not (folder / "runs").is_dir():
            write_dataset(folder / "data", args.items)
            write_runs(folder / "runs", args.users, args.items, args.rows)
        print(f"{args.rows} rows of {args.users:,} users, {args.items:,} items")
        print(f"{'stage':<34}{'seconds':>9}")
        parts = _stages(folder)
        for name, seconds in parts.items():
            print(f"{name:<34}{seconds:9.2f}")
        print(f"{'total, in this process':<34}{sum(parts.values()):9.2f}")
        start = time.perf_counter()
        arguments = ["report", folder / "runs", "--data_dir", folder / "data"]
        subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                "recllm_tasks.cli",
                *arguments,
                "--out",
                folder / "r.html",
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        print(f"{'recllm report, with startup':<34}{time.perf_counter() - start:9.2f}")
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(f"memory {memory:.2f} GiB; page {(folder / 'r.html').stat().st_size / 1e6:.2f} MB")


def _stages(folder: pathlib.Path) -> dict[str, float]:
    from recllm_tasks.report import conditions, markdown, page, report, runs, spreadsheet

    parts, start = {}, time.perf_counter()

    def done(name: str) -> None:
        nonlocal start
        parts[name], start = time.perf_counter() - start, time.perf_counter()

    found = runs.load([folder / "runs"])
    prepared = conditions.prepared_datasets([str(folder / "data")], found)
    done("results.json and catalog")
    made = report.build(found, prepared)
    done("users' results to tables and plots")
    page.render(made)
    markdown.render(made)
    spreadsheet.render(made)
    done("HTML, Markdown, CSV")
    return parts


def write_dataset(folder: pathlib.Path, num_items: int) -> None:
    """The parts of a prepared `sports` that a report reads; it has no records."""
    from recllm_tasks.data.catalog import Catalog
    from recllm_tasks.data.dataset_info import DatasetInfo, dataset_dir
    from recllm_tasks.data.statistics import Statistics

    directory = dataset_dir(folder, "sports")
    directory.mkdir(parents=True, exist_ok=True)
    popularity = np.random.default_rng(0).zipf(1.6, num_items).clip(1, 5_000)
    Catalog.build([f"A{n}" for n in range(num_items)], {}, popularity).save(directory)
    for name in ("dataset_info.json", "features.json"):
        (directory / name).touch()
    facts = dict.fromkeys(("noun", "verb", "verb_past"), "x")
    numbers = [0.0] * len(Statistics.__dataclass_fields__)
    DatasetInfo(
        dataset="sports",
        title="Sports & Outdoors",
        **facts,
        has_ratings=True,
        seed=0,
        k_core=5,
        duplicates_dropped=0,
        source_files={},
        fingerprint=FINGERPRINT,
        statistics=Statistics(*numbers),
    ).save(directory)


def write_runs(folder: pathlib.Path, num_users: int, num_items: int, num_rows: int) -> None:
    rng = np.random.default_rng(1)
    users = {
        "user": pa.array([f"U{n:06d}" for n in range(num_users)]),
        "target": pa.array(rng.integers(0, num_items, num_users), pa.int32()),
        "history": pa.array(4 + rng.geometric(0.2, num_users), pa.int32()),
    }
    liked = rng.random(num_users) < 0.8
    for row in range(num_rows):
        half = num_rows // 2
        baseline = row < half
        name = (BASELINES if baseline else MIXTURES)[(row if baseline else row - half) % 8]
        run = folder / f"{row:02d}_{name}"
        tables = {
            "sports_retrieval": _ranked(users, rng, num_items, 0.05 + 0.004 * row),
            "sports_ranking": _ranked(users, rng, num_items, 0.3 + 0.01 * row),
            "sports_rating": {
                **users,
                "liked": pa.array(liked),
                "score": pa.array(rng.normal(size=num_users) + liked * (0.4 + 0.02 * row)),
            },
        }
        _write_run(run, name, baseline, tables)


def _ranked(users: dict, rng, num_items: int, hits: float) -> dict:
    num_users = len(users["user"])
    ranks = np.where(rng.random(num_users) < hits, rng.integers(1, 21, num_users), np.inf)
    items = rng.integers(0, num_items, (num_users, LISTED), dtype=np.int32)
    items[rng.random(items.shape) < 0.01] = -1
    lists = pa.ListArray.from_arrays(
        pa.array(np.arange(0, items.size + 1, LISTED), pa.int32()), pa.array(items.reshape(-1))
    )
    return {**users, "rank": pa.array(ranks), "items": lists}


def _write_run(run: pathlib.Path, name: str, baseline: bool, tables: dict) -> None:
    from recllm_tasks import metrics
    from recllm_tasks.runs import per_user

    measured, files = {}, {}
    for task, columns in tables.items():
        path = per_user.path_of(run, "test", task)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        files[task] = str(path.relative_to(run))
        if "rank" in columns:
            measured[task] = metrics.rank_metrics(columns["rank"].to_numpy())
        else:
            liked = columns["liked"].to_numpy(zero_copy_only=False)
            measured[task] = {"auc": metrics.auc(liked, columns["score"].to_numpy())}
    number = len(next(iter(tables.values()))["user"])
    results = {
        "dataset": "sports",
        "fingerprint": FINGERPRINT,
        "model": name if baseline else "tiny",
        "split": "test",
        "ties": "published",
        "metrics": measured,
        "per_user": files,
        "num_examples": dict.fromkeys(measured, number),
        "decode_seconds": dict.fromkeys(measured, 100.0),
        "seconds": 320.0,
        "peak_memory_bytes": 3 << 30,
        "parameters": 700_000,
        "version": "synthetic",
    }
    if not baseline:
        results |= {"mixture": f"sports_{name}", "step": 10_000, "seed": 0}
        _write_log(run)
    (run / "results.json").write_text(json.dumps(results))


def _write_log(run: pathlib.Path) -> None:
    from clu import metric_writers

    writer = metric_writers.create_default_writer(str(run), just_logging=False)
    for step in range(20, 10_001, 20):
        writer.write_scalars(step, {"loss": 1 + 5 / (1 + step / 800)})
        if step % 1_000 == 0:
            writer.write_scalars(step, {"validation/sports_retrieval/ndcg@10": step / 4e5})
    writer.flush()
    writer.close()


if __name__ == "__main__":
    main()
