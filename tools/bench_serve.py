"""Users per second of `recllm serve`, beside offline decoding and a plain server of transformers.

    tools/bench_serve.py RUN --data_dir ~/recllm_data --minutes 10
    tools/bench_serve.py RUN --data_dir ~/recllm_data --soak --minutes 30

Closed loops on the loopback address: every client asks for one user of the test split (or --users),
waits for the answer and asks again, over a connection that stays open. All get the same histories,
beam 20. "CPU ms" is the processor time for a user; HTTP in Python takes some tenths of a
millisecond a request, which a small model is faster than. `offline` is Recommender.recommend_rows
in batches of 32. `plain` is a Starlette service that calls transformers' generate for each request,
with the same weights and the same trie; it is given tokens, so that it has no prompts to write. It
needs torch and transformers.

--soak asks at 70 % of what 32 clients reach, at fixed times. A list is replaced after a third of
it. After two thirds the service gets SIGTERM with 64 requests in flight, and is started again.
"""

import argparse
import asyncio
import gc
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BEAMS = 20
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 32, 64])
    parser.add_argument("--minutes", type=float, default=3, help="of all clients together")
    parser.add_argument("--users", type=int, default=1, help="of a request to recllm (1)")
    parser.add_argument("--prior_weight", default="0")
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--no-plain", dest="plain", action="store_false")
    parser.add_argument("--worker", choices=("offline", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker == "offline":
        offline(args)
    elif args.worker == "plain":
        serve_plain(args)
    elif args.soak:
        soak(args)
    else:
        compare(args)


def compare(args) -> None:
    load = os.getloadavg()[0]
    print(f"{args.run}, {os.cpu_count()} cores, load average {load:.1f} before")
    found = json.loads(_worker(args, "offline").communicate()[0].splitlines()[-1])
    base, histories = found["users_per_second"], found["histories"]
    head = f"{'':10}{'clients':>8}{'users/s':>10}{'of offline':>12}{'p50 ms':>9}{'p99 ms':>9}"
    print(f"{head}{'p99/p50':>9}{'CPU ms':>8}{'MB':>7}{'errors':>8}")
    print(
        f"{'offline':10}{'':>8}{base:>10.1f}{1:>12.2f}{'':27}{found['cpu_ms']:>8.2f}"
        f"{found['megabytes']:>7.0f}"
    )
    parts = len(args.clients) * (1 + args.plain)
    seconds = 60 * args.minutes / parts
    with Service(args) as service:
        size = args.users
        groups = [histories[place : place + size] for place in range(0, len(histories), size)]
        bodies = [json.dumps({"histories": own, "k": 10}).encode() for own in groups]
        pid = service.process.pid
        _table("recllm", args.clients, service.port, bodies, seconds, base, pid, size)
    if args.plain:
        process = _worker(args, "plain")
        try:
            port = int(json.loads(process.stdout.readline())["port"])
            bodies = [json.dumps(prompt).encode() for prompt in found["prompts"]]
            _wait(port)
            _table("plain", args.clients, port, bodies, seconds, base, process.pid)
        finally:
            process.kill()
            process.wait()


def _table(name, clients, port, bodies, seconds, base, pid, size=1) -> None:
    asyncio.run(load(port, bodies, 4, seconds / 10))  # warm
    for number in clients:
        start, used = time.perf_counter(), _cpu_seconds(pid)
        times, errors = asyncio.run(load(port, bodies, number, seconds))
        users = size * len(times)
        rate = users / (time.perf_counter() - start)
        used = 1e3 * (_cpu_seconds(pid) - used) / max(1, users)
        p50, p99 = _percentiles(times)
        print(
            f"{name:10}{number:>8}{rate:>10.1f}{rate / base:>12.2f}{p50:>9.1f}{p99:>9.1f}"
            f"{p99 / p50:>9.1f}{used:>8.2f}{_megabytes(pid):>7.0f}{errors:>8}",
            flush=True,
        )


def _percentiles(times) -> tuple[float, float]:
    ranked = sorted(times) or [float("nan")]
    return 1e3 * statistics.median(ranked), 1e3 * ranked[int(0.99 * (len(ranked) - 1))]


async def load(port, bodies, clients, seconds) -> tuple[list[float], int]:
    """Seconds of each answer, and how many answers were none, of closed loops."""
    times, errors, end = [], 0, time.perf_counter() + seconds

    async def client(first) -> None:
        nonlocal errors
        place, pair = first, await _connect(port)
        while time.perf_counter() < end:
            start = time.perf_counter()
            if await _ask(pair, bodies[place % len(bodies)]) == 200:
                times.append(time.perf_counter() - start)
            else:
                errors += 1
            place += clients
        pair[1].close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return times, errors


async def _connect(port):
    return await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)


async def _ask(pair, body) -> int:
    """The status of an answer, which is read to its end."""
    reader, writer = pair
    head = f"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"content-length: (\d+)", answer, re.I)
    await reader.readexactly(int(length[1]))
    return int(answer.split()[1])


class Service:
    """`recllm serve` in a process of its own, ready."""

    def __init__(self, args, *more):
        program = "import sys; from recllm_tasks.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-P", "-c", program, "serve", args.run, "--port", "0"]
        command += ["--data_dir", args.data_dir, "-k", str(BEAMS), "--batch_size", str(BATCH)]
        command += ["--prior_weight", args.prior_weight, *more]
        handle, self._log = tempfile.mkstemp()
        os.close(handle)
        start = time.perf_counter()
        with open(self._log, "a") as log:
            self.process = subprocess.Popen(command, stderr=log)
        while not (found := re.search(r"serving .*:(\d+)/\n", self.lines())):
            if self.process.poll() is not None:
                sys.exit(self.lines())
            time.sleep(0.2)
        self.port = int(found[1])
        _wait(self.port)
        print(f"ready after {time.perf_counter() - start:.0f} s", flush=True)

    def lines(self) -> str:
        return Path(self._log).read_text()

    def megabytes(self) -> float:
        return _megabytes(self.process.pid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        os.unlink(self._log)


def _megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cpu_seconds(pid: int) -> float:
    """Of all threads; other programs of the machine disturb it less than wall time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait(port: int) -> None:
    import http.client

    for _ in range(3000):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit(f"the service at port {port} never got ready")


def soak(args) -> None:
    found = json.loads(_worker(args, "offline").communicate()[0].splitlines()[-1])
    histories = found["histories"]
    with tempfile.TemporaryDirectory() as folder:
        stock = Path(folder, "stock")
        names = sorted({name for own in histories for name in own})
        stock.write_text("\n".join(names))
        body = {"k": 10, "allow_lists": ["in_stock"]}
        bodies = [json.dumps({"histories": [own], **body}).encode() for own in histories]
        more = ("--list", f"in_stock={stock}")
        service = Service(args, *more)
        times, _ = asyncio.run(load(service.port, bodies, 32, 15))
        rate = 0.7 * len(times) / 15
        print(f"32 clients: {len(times) / 15:.1f} users/s; asking {rate:.1f} a second", flush=True)
        third = 20 * args.minutes
        memory = []
        for part in ("before the reload", "after it", "after SIGTERM and a new start"):
            times, statuses, late = asyncio.run(paced(service, bodies, rate, third, memory))
            p50, p99 = _percentiles(times)
            print(
                f"{part}: {len(times):,} answers, statuses {statuses}, p50 {p50:.0f} ms, ", end=""
            )
            print(f"p99 {p99:.0f} ms, {memory[0]:.0f} to {memory[-1]:.0f} MB", end="")
            print(f", questions at most {1000 * late:.0f} ms late", flush=True)
            if part == "before the reload":
                stock.with_suffix(".new").write_text("\n".join(names[::2]))
                os.replace(stock.with_suffix(".new"), stock)
            elif part == "after it":
                print(f"the new list: {'yes' if 'list in_stock' in service.lines() else 'no'}")
                statuses, code = asyncio.run(terminate(service, bodies))
                print(f"SIGTERM with 64 requests in flight: {statuses}, exit code {code}")
                service, memory = Service(args, *more), []
        service.__exit__()


async def paced(service, bodies, rate, seconds, memory):
    """Requests at fixed times, whatever the answers take.

    Returns:
      The seconds of each answer, how many had each status, and by how many seconds a request was
      late at most: what this program, or the whole machine, stood still. Then it catches up at
      once, which can fill the queue.
    """
    times, statuses, free, tasks, late = [], {}, [], set(), 0.0
    gc.freeze()
    start = time.perf_counter()

    async def one(place) -> None:
        # The service closes connections that nobody uses for half a minute.
        while free and free[-1][0].at_eof():
            free.pop()
        pair = free.pop() if free else await _connect(service.port)
        asked = time.perf_counter()
        try:
            status = await _ask(pair, bodies[place % len(bodies)])
        except (ConnectionError, asyncio.IncompleteReadError):
            statuses["closed"] = statuses.get("closed", 0) + 1
            return
        times.append(time.perf_counter() - asked)
        statuses[status] = statuses.get(status, 0) + 1
        free.append(pair)

    for place in range(int(rate * seconds)):
        await asyncio.sleep(max(0, start + place / rate - time.perf_counter()))
        late = max(late, time.perf_counter() - start - place / rate)
        task = asyncio.ensure_future(one(place))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if place % max(1, int(rate * 10)) == 0:
            memory.append(service.megabytes())
    await asyncio.gather(*tasks)
    for _, writer in free:
        writer.close()
    return times, statuses, late


async def terminate(service, bodies):
    """What 64 requests get that are in flight when SIGTERM comes, and the exit code."""

    async def one(place):
        try:
            return await _ask(await _connect(service.port), bodies[place % len(bodies)])
        except (OSError, asyncio.IncompleteReadError):
            return "cut off"

    tasks = [asyncio.ensure_future(one(place)) for place in range(64)]
    await asyncio.sleep(0.2)
    service.process.send_signal(signal.SIGTERM)
    found = await asyncio.gather(*tasks)
    code = await asyncio.get_running_loop().run_in_executor(None, service.process.wait)
    return {status: found.count(status) for status in set(found)}, code


def _worker(args, name: str) -> subprocess.Popen:
    command = [sys.executable, "-P", __file__, args.run, "--data_dir", args.data_dir]
    command += ["--worker", name, "--prior_weight", args.prior_weight]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _recommender(args):
    import recllm_tasks.mixtures
    from recllm_tasks.commands.session import number_or_text
    from recllm_tasks.recommender import Recommender
    from recllm_tasks.runs.decoding import Decoding

    os.environ["TFDS_DATA_DIR"] = args.data_dir
    recllm_tasks.mixtures.register_stored()
    weight = number_or_text(args.prior_weight)
    decoding = Decoding(num_beams=BEAMS, batch_size=BATCH, prior_weight=weight)
    return Recommender.from_run(args.run, decoding, data_dir=args.data_dir)


def offline(args) -> None:
    """Prints users a second, and the histories and prompts that all others get."""
    from recllm_tasks.prompts.source import SequenceSource

    recommender = _recommender(args)
    source = SequenceSource(recommender.source.dataset_name, data_dir=args.data_dir)
    batches = source.get_dataset("test", shuffle=False)
    rows = [row for batch in batches.take(2) for row in batch["history"].to_list()][:512]
    recommender.recommend_rows(rows, 10)  # compiles
    rates, used = [], time.process_time()
    for _ in range(3):
        start = time.perf_counter()
        recommender.recommend_rows(rows, 10)
        rates.append(len(rows) / (time.perf_counter() - start))
    used = time.process_time() - used
    names = recommender.catalog.short_id
    prompts = [
        {name: array.tolist() for name, array in prompt.items()}
        for prompt in recommender._prompts(rows)
    ]
    found = {
        "users_per_second": statistics.median(rates),
        "megabytes": _megabytes(os.getpid()),
        "cpu_ms": 1e3 * used / (3 * len(rows)),
        "histories": [[names[row] for row in own] for own in rows],
        "prompts": prompts,
    }
    print(json.dumps(found))


def serve_plain(args) -> None:
    """Starlette and `generate`, one request at a time, as in many tutorials."""
    import socket
    import threading

    import torch
    import transformers
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from recllm_tasks.models.formats import conversion
    from recllm_tasks.prompts.token_table import encode

    recommender = _recommender(args)
    answers = recommender._decoder.answers
    import seqio

    from recllm_tasks.engine import saved_run

    vocabulary = seqio.SentencePieceVocabulary(saved_run.load(args.run).vocabulary, extra_ids=100)
    values, splits = encode(answers, vocabulary)
    allowed: dict[tuple, set] = {}
    for start, end in itertools.pairwise(splits):
        item = tuple(values[start:end].tolist())
        for place, token in enumerate((*item, 1)):
            allowed.setdefault(item[:place], set()).add(token)
    listed = {prefix: sorted(tokens) for prefix, tokens in allowed.items()}
    deepest = max(map(len, listed)) + 1
    with tempfile.TemporaryDirectory() as folder:
        conversion.convert(conversion.open_any(args.run), "hf", Path(folder, "hf"))
        model = transformers.T5ForConditionalGeneration.from_pretrained(Path(folder, "hf")).eval()
    lock = threading.Lock()

    def generate(prompt):
        inputs = torch.tensor([prompt["inputs"]])
        begin = torch.tensor([[0, *prompt.get("beginning", [])]])
        with lock, torch.inference_mode():
            out = model.generate(
                inputs,
                decoder_input_ids=begin,
                num_beams=BEAMS,
                num_return_sequences=10,
                max_new_tokens=deepest,
                length_penalty=0.0,
                do_sample=False,
                eos_token_id=1,
                pad_token_id=0,
                prefix_allowed_tokens_fn=lambda _, tokens: listed.get(
                    tuple(tokens[begin.shape[1] :].tolist()), [0]
                ),
            )
        return out[:, begin.shape[1] :].tolist()

    async def recommend(request: Request):
        prompt = json.loads(await request.body())
        loop = asyncio.get_running_loop()
        return JSONResponse({"items": await loop.run_in_executor(None, generate, prompt)})

    async def ready(request: Request):
        return JSONResponse({})

    routes = [Route("/v1/recommend", recommend, methods=["POST"]), Route("/readyz", ready)]
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    config = uvicorn.Config(Starlette(routes=routes), log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
