"""Measures `prepare` on logs of growing size: seconds per stage, peak memory of all processes.

    python tools/bench_prepare.py WORK --sizes 1_000_000 10_000_000 100_000_000 --format parquet

Makes the logs with tools/make_log.py in WORK, where they stay for the next run, prepares each in a
separate process, and prints a Markdown table. Memory is the sum over the process tree of the
proportional set size (PSS: a page shared by two processes counts once), sampled twice a second.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

_TOOLS = Path(__file__).parent
_PREPARE = """
import json, sys
from recllm_tasks.data.prepare import prepare
from recllm_tasks.data.specs import custom_spec
data_dir, interactions, items = sys.argv[1:]
columns = "user=reviewerID,item=asin,rating=overall,time=unixReviewTime,categories=category"
say = lambda text: print(text, file=sys.stderr, flush=True)
spec = custom_spec("shop", [interactions], [items], columns=columns)
statistics = prepare(spec, data_dir, progress=say)
print("\\n" + json.dumps(statistics.to_json()))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("work", type=Path, help="folder for the logs and the datasets")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--format", choices=("json", "csv", "parquet"), default="json")
    args = parser.parse_args()
    runs = [measure(args.work, size, args.format) for size in args.sizes]
    print(table(runs))


def measure(work: Path, size: int, kind: str) -> dict:
    """Prepares a log of `size` interactions: its statistics, `stages`, `seconds`, `peak` bytes."""
    raw_dir, data_dir = work / f"{size}.{kind}", work / f"{size}.{kind}.data"
    if not raw_dir.is_dir():
        command = [sys.executable, str(_TOOLS / "make_log.py"), str(raw_dir)]
        subprocess.run([*command, "--interactions", str(size), "--format", kind], check=True)
    shutil.rmtree(data_dir, ignore_errors=True)
    start, cpu = time.monotonic(), cpu_seconds()
    log = work / f"{size}.{kind}.log"
    with log.open("w") as messages:
        items, interactions = sorted(raw_dir.iterdir(), key=lambda path: path.stat().st_size)
        command = [sys.executable, "-c", _PREPARE]
        command += map(str, (data_dir, interactions, items))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, text=True)
        peak = watch(process)
    if process.returncode:
        sys.exit(f"bench_prepare: prepare failed; see {log}")
    run = {"size": size, "seconds": time.monotonic() - start, "peak": peak}
    run["cpu"] = cpu_seconds() - cpu
    run["disk"] = sum(path.stat().st_size for path in data_dir.rglob("*") if path.is_file())
    run["stages"] = read_stages(log.read_text())
    return run | json.loads(process.stdout.read().splitlines()[-1])


def cpu_seconds() -> float:
    """Processor time of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def watch(process: subprocess.Popen) -> int:
    """Peak memory of `process` and its descendants in bytes; returns when it ends."""
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for member in [root, *root.children(recursive=True)]:
                try:
                    total += member.memory_full_info().pss
                except psutil.Error:
                    continue
        except psutil.Error:
            continue
        peak = max(peak, total)
        time.sleep(0.5)
    return peak


def read_stages(text: str) -> dict[str, float]:
    """Seconds per stage, from the last line that `prepare` prints."""
    return {
        name: float(seconds)
        for line in text.splitlines()
        if line.startswith("shop: seconds: ")
        for name, seconds in (
            part.rsplit(" ", 1) for part in line.split("seconds: ", 1)[1].split(", ")
        )
    }


def table(runs: list[dict]) -> str:
    """One row per stage, one column per size."""
    stages = list(dict.fromkeys(stage for run in runs for stage in run["stages"]))
    rows = [["", *(f"{run['size']:,}" for run in runs)], ["---"] + ["---:"] * len(runs)]
    rows += [
        ["interactions after the core", *(f"{run['interactions']:,}" for run in runs)],
        ["users / items", *(f"{run['users']:,} / {run['items']:,}" for run in runs)],
    ]
    for stage in stages:
        rows.append([f"{stage} (s)", *(f"{run['stages'].get(stage, 0):.1f}" for run in runs)])
    rows.append(["whole run (s)", *(f"{run['seconds']:.1f}" for run in runs)])
    rows.append(["processor time (s)", *(f"{run['cpu']:.1f}" for run in runs)])
    micros = [run["cpu"] / run["size"] * 1e6 for run in runs]
    rows.append(["µs per interaction", *(f"{value:.1f}" for value in micros)])
    rows.append(["peak memory (GB)", *(f"{run['peak'] / 1e9:.2f}" for run in runs)])
    rows.append(["dataset (GB)", *(f"{run['disk'] / 1e9:.2f}" for run in runs)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    main()
