"""Measures the input pipeline on UT+AT of one dataset: examples a second, beside other ways.

    python tools/bench_pipeline.py --data_dir DATA --vocabulary t5.spiece.model --dataset toys
    python tools/bench_pipeline.py … --against REV     # this checkout beside another commit

One table, in one run: our batches, unpacked and packed; our tasks through `seqio.get_dataset`; the
same tasks as text, rendered with tf.strings and tokenised by `seqio.preprocessors.tokenize`,
through `seqio.get_dataset`; the Hugging Face fast tokenizer on strings that are ready. Also what
must at least be copied beside what memory copies, the share of padding, the time to the first
batch, the time of imports, memory over epochs, and how many training steps one host feeds. Rating
is left out where the dataset has no ratings.

Every way runs until `--seconds` are over, after a warm-up; the process and its threads alone.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

LENGTHS = {"inputs": 1024, "targets": 128}

# Parameters of encoder and decoder without embeddings, rows of a batch (paper §4.1), and what a
# step computes: 6 FLOPs a parameter and token, forward and backward.
_MODELS = {"FLAN-T5-XL": (1.22e9, 1.56e9, 16), "FLAN-T5-Base": (0.085e9, 0.113e9, 64)}
# Peak bfloat16 FLOP/s as the makers state them, of which a good training run reaches half.
_MACHINES = {"TPU v4-8": 4 * 275e12, "8 x A100": 8 * 312e12}
_REACHED = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--dataset", default="toys")
    parser.add_argument("--vocabulary", help="SentencePiece model; the dataset's own by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--epochs", type=int, default=10, help="over which memory is watched")
    parser.add_argument(
        "--against", metavar="REV", help="measure this checkout and that commit in turn, no more"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of --against")
    parser.add_argument("--first_batch", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.against:
        against(args.against, args)
        return
    start = time.perf_counter()
    mixture = set_up(args.dataset, args.data_dir, args.vocabulary)
    if args.first_batch:
        first_batch(mixture, time.perf_counter() - start)
        return
    print(f"{mixture}, {LENGTHS['inputs']}/{LENGTHS['targets']}, {os.cpu_count()} cores, ", end="")
    print(f"load average {os.getloadavg()[0]:.1f}\n", flush=True)
    bench = Bench(mixture, args)
    bench.run()


def set_up(dataset: str, data_dir: str, vocabulary: str | None) -> str:
    """Registers a mixture of what UT+AT has on this dataset; its name."""
    import gin
    import seqio

    import recllm_tasks.mixtures as mixtures

    seqio.set_tfds_data_dir_override(os.path.expanduser(data_dir))
    mixtures.register_stored(data_dir)
    if vocabulary:
        gin.bind_parameter("vocabulary.sentencepiece_file.path", vocabulary)
    has_ratings = seqio.TaskRegistry.get(f"{dataset}_rating").source.info().has_ratings
    kinds = [kind for kind in mixtures.TASKS_OF["ut_at"] if has_ratings or kind != "rating"]
    name = f"{dataset}_bench"
    seqio.MixtureRegistry.add(name, [f"{dataset}_{kind}" for kind in kinds], default_rate=1.0)
    return name


def first_batch(mixture: str, imports: float) -> None:
    from recllm_tasks.pipeline import training as batches

    start = time.perf_counter()
    next(batches.training_batches(mixture, LENGTHS, 16, seed=0))
    print(f"RESULT {imports:.2f} {time.perf_counter() - start:.2f}")


def register_as_text(mixture: str) -> str:
    """The mixture again, its prompts rendered as strings and tokenised; its name."""
    import seqio
    from seqio import preprocessors

    from recllm_tasks.prompts.assembly import Prompt
    from recllm_tasks.prompts.batches import unbatch

    names = []
    for task in seqio.MixtureRegistry.get(mixture).tasks:
        prompt = next(step for step in task.preprocessors if isinstance(step, Prompt))
        # Spans stay as they are: the text way has less to do.
        steps = list(itertools.takewhile(lambda step, p=prompt: step is not p, task.preprocessors))
        steps += [render(prompt), unbatch, preprocessors.tokenize, preprocessors.append_eos]
        names.append(f"{task.name}_text")
        seqio.TaskRegistry.add(
            names[-1],
            source=task.source,
            preprocessors=steps,
            output_features=task.output_features,
            shuffle_buffer_size=None,
        )
    seqio.MixtureRegistry.add(f"{mixture}_text", names, default_rate=1.0)
    return f"{mixture}_text"


def render(prompt):
    """A preprocessor that writes `inputs` and `targets` as strings."""
    import tensorflow as tf

    from recllm_tasks.prompts.batches import num_examples
    from recllm_tasks.prompts.templates import MASKED_ITEM, Choice
    from recllm_tasks.prompts.token_table import item_texts

    def preprocess(dataset, sequence_length=None, output_features=None):
        writer = prompt.writer(sequence_length, output_features)
        catalog = prompt.source.catalog()
        texts = {}
        for slot in (*prompt.template.inputs, *prompt.template.targets):
            if isinstance(slot, Choice):
                texts[slot] = tf.constant(slot.answers)
            elif not isinstance(slot, str):
                forms = [form for form in (slot.form, slot.last_form) if form]
                rows = [text for form in forms for text in item_texts(catalog, form)]
                texts[slot] = tf.constant([*rows, MASKED_ITEM, slot.empty])

        def side(parts, writer_side, batch):
            words = []
            for part in parts:
                if isinstance(part, str):
                    words.append(part)
                else:
                    written = tf.gather(texts[part], writer_side.rows(part, batch))
                    words.append(tf.strings.reduce_join(written, axis=1, separator=" "))
            num = tf.fill([num_examples(batch)], "")
            return tf.strings.join([num, *words], separator=" ")

        def write(batch):
            batch = writer.fit(batch)
            return {
                **batch,
                "inputs": side(prompt.template.inputs, writer.inputs, batch),
                "targets": side(prompt.template.targets, writer.targets, batch),
            }

        return dataset.map(write, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


class Bench:
    """The measurements, and the table."""

    def __init__(self, mixture: str, args):
        self._mixture, self._args = mixture, args
        self._rates: dict[str, float] = {}

    def run(self) -> None:
        text = register_as_text(self._mixture)
        self._speeds(text)
        self._table()
        self._start()
        self._memory()

    def _speeds(self, text: str) -> None:
        for pack in (False, True):
            kind = "packed" if pack else "unpacked"
            self._measure(f"ours, {kind}", self._ours(pack))
            self._measure(f"ours through get_dataset, {kind}", self._seqio(self._mixture, pack))
            self._measure(f"text through get_dataset, {kind}", self._seqio(text, pack))
        self._measure("Hugging Face tokenizer alone", self._hugging_face(text))

    def _measure(self, name: str, counts) -> None:
        """Counts examples for `--seconds`, after a fifth of them."""
        next(counts)
        end = time.perf_counter() + 0.2 * self._args.seconds
        while time.perf_counter() < end:
            next(counts)
        start, examples = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < self._args.seconds:
            examples += next(counts)
        counts.close()
        self._rates[name] = examples / seconds
        print(f"{name}: {self._rates[name]:,.0f} examples/s", flush=True)

    def _ours(self, pack: bool):
        from recllm_tasks.pipeline import training as batches

        tokens, room = {}, {}
        stream = batches.training_batches(self._mixture, LENGTHS, 64, seed=0, pack=pack)
        for number, batch in enumerate(stream):
            if pack and number < 200:
                for name in ("encoder_input_tokens", "decoder_target_tokens"):
                    tokens[name] = tokens.get(name, 0) + int((batch[name] > 0).sum())
                    room[name] = room.get(name, 0) + batch[name].size
                self._padding = {name: 1 - tokens[name] / room[name] for name in tokens}
                self._padding["both"] = 1 - sum(tokens.values()) / sum(room.values())
            if pack:
                self._bytes_of_row = sum(array.nbytes for array in batch.values()) / 64
                self._rows_an_example = 64 / batches.num_examples(batch)
            yield batches.num_examples(batch) if pack else 64

    def _seqio(self, mixture: str, pack: bool):
        import seqio

        dataset = seqio.get_dataset(
            mixture,
            task_feature_lengths=LENGTHS,
            dataset_split="train",
            shuffle=True,
            num_epochs=None,
            feature_converter=seqio.EncDecFeatureConverter(pack=pack),
            seed=0,
        )
        for batch in dataset.batch(64).prefetch(4).as_numpy_iterator():
            yield int(batch["decoder_segment_ids"].max(axis=1).sum()) if pack else 64

    def _hugging_face(self, text: str):
        import seqio

        tokenizer, strings = hugging_face_tokenizer(self._args), []
        for name in (task.name for task in seqio.MixtureRegistry.get(text).tasks):
            strings += some_strings(name, 1024)
        size = 1024
        for start in itertools.cycle(range(0, len(strings), size)):
            inputs, targets = zip(*strings[start : start + size])
            tokenizer.encode_batch_fast(list(inputs), add_special_tokens=False)
            tokenizer.encode_batch_fast(list(targets), add_special_tokens=False)
            yield len(inputs)

    def _table(self) -> None:
        rates = self._rates
        print("\n| against | times as fast | asked |\n|---|---:|---:|")
        for kind, asked in (("unpacked", "10"), ("packed", "8")):
            ours, text = rates[f"ours, {kind}"], rates[f"text through get_dataset, {kind}"]
            print(f"| the same tasks as text, {kind} | {ours / text:.1f} | {asked} |")
        alone = rates["Hugging Face tokenizer alone"]
        print(f"| Hugging Face fast tokenizer alone | {rates['ours, unpacked'] / alone:.1f} | 3 |")
        rows = rates["ours, packed"] * self._rows_an_example
        copied, memcpy = rows * self._bytes_of_row, memcpy_rate()
        print(f"\npacked rows: {rows:,.0f} a second, {copied / 1e9:.3f} GB/s of features; ", end="")
        print(f"memcpy: {memcpy / 1e9:.1f} GB/s, {memcpy / copied:.0f} times as much")
        shares = ", ".join(f"{name} {share:.2%}" for name, share in self._padding.items())
        print(f"padding in packed batches: {shares}; no packing leaves less than ", end="")
        print(f"{least_padding(self._mixture):.2%} of both")
        for model, (encoder, decoder, batch) in _MODELS.items():
            flops = 6 * batch * (encoder * LENGTHS["inputs"] + decoder * LENGTHS["targets"])
            eaten = ", ".join(
                f"{name} eats {peak * _REACHED / flops:.1f}" for name, peak in _MACHINES.items()
            )
            print(f"{model}: this host feeds {rows / batch:,.0f} steps/s of {batch} rows; {eaten}")

    def _start(self) -> None:
        command = [sys.executable, "-P", *sys.argv, "--first_batch"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        imports, first = done.stdout.split("RESULT ")[1].split()
        print(f"\nstart to first packed batch, tables built: {first} s; imports: {imports} s")
        recllm = os.path.join(os.path.dirname(sys.executable), "recllm")
        for name, command in (
            ("import recllm_tasks", [sys.executable, "-P", "-c", "import recllm_tasks"]),
            ("recllm --help", [recllm, "--help"]),
        ):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            print(f"{name}: {time.perf_counter() - start:.2f} s")

    def _memory(self) -> None:
        import seqio

        from recllm_tasks.pipeline import training as batches

        tasks = seqio.MixtureRegistry.get(self._mixture).tasks
        epoch = len(tasks) * tasks[0].source.num_examples()
        used, seen = [], 0
        for batch in batches.training_batches(self._mixture, LENGTHS, 64, seed=0):
            seen += batches.num_examples(batch)
            if seen >= epoch * (len(used) + 1):
                used.append(resident_mb())
                if len(used) == self._args.epochs:
                    break
        print(f"memory at the end of epochs 1 to {len(used)}, MB: {' '.join(map(str, used))}; ")
        print(f"peak of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")


def resident_mb() -> int:
    import psutil

    return psutil.Process().memory_info().rss >> 20


def memcpy_rate() -> float:
    """Bytes a second that one thread copies, of arrays larger than any cache."""
    import numpy as np

    source = np.ones(1 << 28, np.uint8)
    copy = np.empty_like(source)
    np.copyto(copy, source)
    start = time.perf_counter()
    for _ in range(8):
        np.copyto(copy, source)
    return 8 * source.nbytes / (time.perf_counter() - start)


def least_padding(mixture: str, num: int = 8) -> float:
    """A bound for any packing of the first blocks: the share of both sides that is left empty.

    An example that leaves no room for the shortest of a side has a row to itself; the others need
    at least as many rows as their inputs fill, or their targets.
    """
    import numpy as np
    import seqio

    from recllm_tasks.pipeline.training import blocks_of

    blocks = blocks_of(seqio.get_mixture_or_task(mixture), LENGTHS, 0).take(num)
    sides = [[block[side].row_lengths().numpy() for block in blocks] for side in LENGTHS]
    lengths = np.array([np.concatenate(side) for side in sides])
    room = np.array(list(LENGTHS.values()))
    alone = (room - lengths.min(axis=1) < lengths.T).any(axis=1)
    rows = alone.sum() + np.ceil((lengths[:, ~alone].sum(axis=1) / room).max())
    return 1 - lengths.sum() / (rows * room.sum())


def some_strings(task_name: str, num: int) -> list[tuple[str, str]]:
    """`inputs` and `targets` of a task's first examples, before they are tokenised."""
    import seqio

    from recllm_tasks.prompts.batches import unbatch

    task = seqio.TaskRegistry.get(task_name)
    dataset = task.source.get_dataset("train", shuffle=False)
    with seqio.utils.map_seed_manager(0):
        for step in itertools.takewhile(lambda step: step is not unbatch, task.preprocessors):
            dataset = seqio.utils.add_kwargs_to_transform(
                step, sequence_length=LENGTHS, output_features=task.output_features
            )(dataset)
    examples = unbatch(dataset).take(num).as_numpy_iterator()
    return [tuple(example[side].decode() for side in LENGTHS) for example in examples]


# Measures a checkout, whichever it is: run with PYTHONPATH naming it.
_WORKER = """
import json, os, sys, time
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import gin, seqio
import recllm_tasks.mixtures as mixtures
try:
    from recllm_tasks.pipeline import training
except ImportError:
    from recllm_tasks.engine import batches as training
dataset, data_dir, vocabulary, lengths, what, seconds, skipped = json.loads(sys.argv[1])
seqio.set_tfds_data_dir_override(data_dir)
mixtures.register_stored(data_dir)
if vocabulary:
    gin.bind_parameter("vocabulary.sentencepiece_file.path", vocabulary)
rated = seqio.TaskRegistry.get(f"{dataset}_rating").source.info().has_ratings
kinds = [kind for kind in mixtures.TASKS_OF["ut_at"] if rated or kind != "rating"]
seqio.MixtureRegistry.add("bench", [f"{dataset}_{kind}" for kind in kinds], default_rate=1.0)
begin = time.perf_counter()
if what == "padded through get_dataset":
    made = seqio.get_dataset(
        "bench", task_feature_lengths=lengths, dataset_split="train", shuffle=True, seed=0,
        num_epochs=None, feature_converter=seqio.EncDecFeatureConverter(pack=False),
    ).batch(64).prefetch(4).as_numpy_iterator()
else:
    skip = skipped if what.startswith("skip") else 0
    made = training.training_batches("bench", lengths, 64, 0, skip, pack="unpacked" not in what)
next(made)
first = time.perf_counter() - begin
if what.startswith(("first", "skip")):
    print("RESULT", 1 / first, flush=True)
    os._exit(0)
end = time.perf_counter() + seconds / 5
while time.perf_counter() < end:
    next(made)
begin, examples = time.perf_counter(), 0
while (passed := time.perf_counter() - begin) < seconds:
    batch = next(made)
    examples += int(batch["decoder_segment_ids"].max(axis=1).sum()) if what == "packed" else 64
print("RESULT", examples / passed, flush=True)
os._exit(0)
"""

_MEASURED = {
    "packed": "examples/s",
    "unpacked": "examples/s",
    "padded through get_dataset": "examples/s",
    "first batch": "1/s",
    "skip to a step": "1/s",
}
# Batches of 64 rows that are left out.
_SKIPPED = 500


def against(revision: str, args) -> None:
    """Measures this checkout and another commit in turn, each round the other one first."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with tempfile.TemporaryDirectory() as folder:
        other = os.path.join(folder, "other")
        git = ["git", "-C", root, "worktree"]
        subprocess.run([*git, "add", "--detach", "-q", other, revision], check=True)
        try:
            print(f"| | {revision} | here | times as fast |\n|---|---:|---:|---:|")
            for what, unit in _MEASURED.items():
                found: dict[str, list[float]] = {other: [], root: []}
                for turn in range(args.rounds):
                    for checkout in (other, root) if turn % 2 else (root, other):
                        found[checkout].append(_measured(checkout, what, args))
                before, here = (statistics.median(found[checkout]) for checkout in (other, root))
                ratios = [new / old for new, old in zip(found[root], found[other])]
                print(
                    f"| {what}, {unit} | {before:,.2f} | {here:,.2f} | "
                    f"{statistics.median(ratios):.2f} |",
                    flush=True,
                )
        finally:
            subprocess.run([*git, "remove", "--force", other], check=True)


def _measured(checkout: str, what: str, args) -> float:
    vocabulary = args.vocabulary and os.path.abspath(args.vocabulary)
    data_dir = os.path.abspath(os.path.expanduser(args.data_dir))
    asked = [args.dataset, data_dir, vocabulary, LENGTHS, what, args.seconds, _SKIPPED]
    done = subprocess.run(
        [sys.executable, "-P", "-c", _WORKER, json.dumps(asked)],
        env={**os.environ, "PYTHONPATH": checkout},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if "RESULT" not in done.stdout:
        raise SystemExit(f"{checkout}, {what}:\n{done.stderr[-3000:]}")
    return float(done.stdout.split("RESULT ")[1])


def hugging_face_tokenizer(args):
    """T5's fast tokenizer as Hugging Face makes it of a SentencePiece unigram model."""
    import tokenizers
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    with open(args.vocabulary, "rb") as f:
        model.ParseFromString(f.read())
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.Unigram(pieces, model.trainer_spec.unk_id, byte_fallback=False)
    )
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
            tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    return tokenizer


if __name__ == "__main__":
    main()
