"""How many users a second constrained beam search serves: ours beside others and the hardware.

    tools/bench_decode.py --dataset toys --data_dir ~/recllm_data --vocabulary t5.spiece.model
    tools/bench_decode.py --shape tiny --batch 32 --length 256 512

The same random weights, the same real retrieval prompts, beam 20, float32. Every subject runs in
a process of its own, so that its peak memory is its own; all take turns, round by round, and the
medians are compared. Subjects: `ours` (log-probabilities over the whole vocabulary),
`ours, catalog` (over the trie's children alone), `transformers` (torch, `generate` with
`prefix_allowed_tokens_fn` over the same trie), `ctranslate2` (8 new tokens, no trie; left out
where it cannot be imported).

The limit is the matmul FLOPs that our search needs at padded length, over the peak of a large
float32 matmul measured in the same run.
"""

import argparse
import dataclasses
import importlib.util
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BEAMS = 20
NEW_TOKENS = 8

SHAPES = {
    "small": {
        "emb_dim": 512,
        "mlp_dim": 1024,
        "num_encoder_layers": 8,
        "num_decoder_layers": 8,
        "num_heads": 6,
        "head_dim": 64,
    },
    "tiny": {
        "emb_dim": 128,
        "mlp_dim": 256,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "head_dim": 32,
    },
}


@dataclasses.dataclass(frozen=True)
class Work:
    """What all subjects are given; `prompts` maps a length to int32 tokens [users, length]."""

    sizes: dict
    weights: str  # a folder that transformers wrote
    prompts: dict[int, np.ndarray]
    items: list[tuple[int, ...]]  # tokens of each item, without EOS
    threads: int


def main() -> None:
    args = _parse()
    with tempfile.TemporaryDirectory() as folder:
        work = _make_work(args, folder)
        found = [name for name in args.subjects if SUBJECTS[name].available()]
        for name in sorted(set(args.subjects) - set(found)):
            print(f"{name}: cannot be imported, left out")
        workers = {name: _Worker(name, work) for name in found}
        for length in args.length:
            for batch in args.batch:
                _compare(args, work, workers, length, batch)
        for worker in workers.values():
            worker.stop()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="toys", help="a prepared dataset")
    parser.add_argument("--data_dir", required=True, help="where it was prepared")
    parser.add_argument("--vocabulary", help="SentencePiece model; default: the dataset's own")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--length", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    return parser.parse_args()


def _make_work(args, folder: str) -> Work:
    os.environ["TFDS_DATA_DIR"] = args.data_dir
    import gin

    from recllm_tasks import tasks

    if args.vocabulary:
        gin.bind_parameter("vocabulary.sentencepiece_file.path", args.vocabulary)
    task = tasks.get(f"{args.dataset}_retrieval")
    vocabulary = task.output_features["targets"].vocabulary
    prompts = {}
    for length in args.length:
        dataset = task.get_dataset({"inputs": length, "targets": 64}, split="test", shuffle=False)
        rows = np.zeros((max(args.batch), length), np.int32)
        for row, example in zip(rows, dataset.take(len(rows)).as_numpy_iterator()):
            row[: len(example["inputs"])] = example["inputs"]
        prompts[length] = rows
    items = [tuple(vocabulary.encode(text)) for text in tasks.answers(task)]
    sizes = {**SHAPES[args.shape], "vocab_size": -(-vocabulary.vocab_size // 128) * 128}
    _write_weights(sizes, folder)
    return Work(sizes, folder, prompts, items, len(os.sched_getaffinity(0)))


def _write_weights(sizes: dict, folder: str) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=sizes["vocab_size"],
        d_model=sizes["emb_dim"],
        num_heads=sizes["num_heads"],
        d_kv=sizes["head_dim"],
        d_ff=sizes["mlp_dim"],
        num_layers=sizes["num_encoder_layers"],
        num_decoder_layers=sizes["num_decoder_layers"],
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    _untie(model)
    model.lm_head.weight.data.normal_(0, 0.2)
    model.save_pretrained(folder)


def _untie(model) -> None:
    """transformers 5 ties the head to the table whatever the config says, and then scales by it."""
    import torch

    model.config.tie_word_embeddings = False
    model.config.scale_decoder_outputs = False
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))


class _Worker:
    """A subject in a process of its own."""

    def __init__(self, name: str, work: Work):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(name, work, theirs), daemon=True)
        self._process.start()

    def run(self, length: int, batch: int) -> dict:
        self._pipe.send((length, batch))
        return self._pipe.recv()

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join()


def _serve(name: str, work: Work, pipe) -> None:
    subject = SUBJECTS[name](work)
    while (asked := pipe.recv()) is not None:
        length, batch = asked
        start = time.perf_counter()
        beams = subject.run(work.prompts[length][:batch])
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        pipe.send({"seconds": seconds, "beams": beams, "peak": peak})


def _beams(tokens, scores) -> list[dict]:
    """For each user the log-probability of each hypothesis, by its tokens up to EOS."""
    return [
        {tuple(t[: t.index(1) + 1]): s for t, s in zip(own, row) if 1 in t and s > -1e6}
        for own, row in zip(tokens, scores)
    ]


def _compare(args, work: Work, workers: dict, length: int, batch: int) -> None:
    first = {name: worker.run(length, batch) for name, worker in workers.items()}
    seconds = {name: [] for name in workers}
    gflops = []
    last = {}
    for _ in range(args.rounds):
        gflops.append(_matmul_gflops())
        for name, worker in workers.items():
            last[name] = worker.run(length, batch)
            seconds[name].append(last[name]["seconds"])
    peak = statistics.median(gflops)
    rate = {name: batch / statistics.median(times) for name, times in seconds.items()}
    print(f"\n{args.shape}, inputs {length}, batch {batch}, beam {BEAMS}, {work.threads} threads")
    head = ("subject", "users/s", "ours is", "of limit", "limit", "peak GiB", "warm-up s", "scores")
    print("{:18}{:>9}{:>9}{:>10}{:>9}{:>10}{:>11}{:>10}".format(*head))
    for name in workers:
        limit = peak * 1e9 / SUBJECTS[name].flops(work, length)
        ratio = rate["ours"] / rate[name] if "ours" in rate else float("nan")
        print(
            f"{name:18}{rate[name]:9.2f}{ratio:8.2f}x{rate[name] / limit:9.0%}{limit:9.1f}"
            f"{last[name]['peak']:10.1f}{first[name]['seconds']:11.1f}"
            f"{_difference(last, name):>10}"
        )
    print(f"float32 matmul: {peak:.0f} GFLOP/s")
    sys.stdout.flush()


def _difference(last: dict, name: str) -> str:
    """Greatest difference from transformers' log-probabilities, over the items that both found.

    transformers drops items that end outside of the best 20 of a step (ids have several lengths);
    an item of its own that we lack, and that is better than our last one, counts as infinity.
    """
    if not SUBJECTS[name].comparable or "transformers" not in last:
        return "–"
    worst = 0.0
    for mine, theirs in zip(last[name]["beams"], last["transformers"]["beams"]):
        for tokens, score in theirs.items():
            if tokens in mine:
                worst = max(worst, abs(score - mine[tokens]))
            elif score > min(mine.values()) + 1e-3:
                worst = float("inf")
    return f"{worst:.0e}"


def _matmul_gflops(size: int = 3072) -> float:
    """The peak that the limit is measured against: torch's or XLA's, whichever is faster."""
    import jax
    import torch

    theirs = torch.ones(size, size)
    ours = jax.numpy.ones((size, size))
    multiply = jax.jit(jax.numpy.dot)
    best = 0.0
    for run in (lambda: theirs @ theirs, lambda: multiply(ours, ours).block_until_ready()):
        for _ in range(5):
            start = time.perf_counter()
            run()
            best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best


def _matmul_flops(work: Work, length: int, rows: int, whole_logits: bool = True) -> float:
    """Of one user: encoder, cross keys and values once, `rows` decoder positions."""
    s = work.sizes
    joined = s["num_heads"] * s["head_dim"]
    project, mlp = 2 * s["emb_dim"] * joined, 3 * 2 * s["emb_dim"] * s["mlp_dim"]
    encoder = length * (4 * project + mlp + 2 * 2 * length * joined)
    cross = length * 2 * project
    step = 6 * project + mlp + 2 * 2 * length * joined
    logits = 2 * s["emb_dim"] * s["vocab_size"] if whole_logits else 0
    return (
        s["num_encoder_layers"] * encoder
        + s["num_decoder_layers"] * (cross + rows * step)
        + rows * logits
    )


class Ours:
    """`beam_search` over the trie of the items."""

    over, comparable = "vocabulary", True

    @staticmethod
    def available() -> bool:
        return True

    @classmethod
    def flops(cls, work: Work, length: int) -> float:
        steps = max(map(len, work.items)) + 1
        return _matmul_flops(work, length, 1 + (steps - 1) * BEAMS, cls.over == "vocabulary")

    def __init__(self, work: Work):
        import jax
        from safetensors.numpy import load_file

        from recllm_tasks.models import network
        from recllm_tasks.models.beam_search import beam_search
        from recllm_tasks.models.hugging_face import from_hugging_face
        from recllm_tasks.models.trie import Trie

        config = network.T5Config(dropout_rate=0.0, **work.sizes)
        arrays = load_file(Path(work.weights) / "model.safetensors")
        self._params = jax.device_put(from_hugging_face(config, arrays.__getitem__))
        self._model = network.Transformer(config)
        self._trie = jax.device_put(Trie.build(work.items))
        self._search = beam_search

    def run(self, prompts: np.ndarray) -> np.ndarray:
        beams = self._search(
            self._model,
            self._params,
            prompts,
            self._trie,
            num_beams=BEAMS,
            normalize_over=self.over,
        )
        return _beams(beams.tokens_BxKxT.tolist(), beams.log_probs_BxK.tolist())


class OursOverCatalog(Ours):
    """The same, with probabilities over what the trie allows."""

    over, comparable = "catalog", False


class Transformers:
    """Hugging Face's `generate` in torch, with the same trie."""

    comparable = True

    @staticmethod
    def available() -> bool:
        return True

    @staticmethod
    def flops(work: Work, length: int) -> float:
        return Ours.flops(work, length)

    def __init__(self, work: Work):
        import torch

        torch.set_num_threads(work.threads)
        self._model = _load_transformers(work.weights)
        self._torch = torch
        self._steps = max(map(len, work.items)) + 1
        self._allowed = {}
        for item in work.items:
            for n, token in enumerate((*item, 1)):
                self._allowed.setdefault(item[:n], set()).add(token)
        self._allowed = {prefix: sorted(tokens) for prefix, tokens in self._allowed.items()}

    def run(self, prompts: np.ndarray) -> np.ndarray:
        inputs = self._torch.tensor(prompts, dtype=self._torch.long)
        with self._torch.inference_mode():
            out = self._model.generate(
                inputs,
                attention_mask=(inputs > 0).long(),
                num_beams=BEAMS,
                num_return_sequences=BEAMS,
                max_new_tokens=self._steps,
                length_penalty=0.0,
                early_stopping="never",
                do_sample=False,
                eos_token_id=1,
                pad_token_id=0,
                prefix_allowed_tokens_fn=lambda _, t: self._allowed.get(tuple(t.tolist())[1:], [1]),
                output_scores=True,
                return_dict_in_generate=True,
            )
        tokens = out.sequences[:, 1:].reshape(len(prompts), BEAMS, -1)
        return _beams(tokens.tolist(), out.sequences_scores.reshape(len(prompts), BEAMS).tolist())


class CTranslate2:
    """CTranslate2's beam search, without a trie, `NEW_TOKENS` tokens."""

    comparable = False

    @staticmethod
    def available() -> bool:
        return importlib.util.find_spec("ctranslate2") is not None

    @staticmethod
    def flops(work: Work, length: int) -> float:
        return _matmul_flops(work, length, 1 + (NEW_TOKENS - 1) * BEAMS)

    def __init__(self, work: Work):
        import ctranslate2

        self._words = ["<pad>", "</s>", "<unk>"]
        self._words += [f"t{i}" for i in range(3, work.sizes["vocab_size"])]
        folder = f"{work.weights}/ctranslate2"
        _write_ctranslate2(work.weights, folder, self._words)
        self._translator = ctranslate2.Translator(
            folder, compute_type="float32", intra_threads=work.threads
        )

    def run(self, prompts: np.ndarray) -> None:
        self._translator.translate_batch(
            [[self._words[t] for t in row] for row in prompts],
            beam_size=BEAMS,
            num_hypotheses=BEAMS,
            max_decoding_length=NEW_TOKENS,
            min_decoding_length=NEW_TOKENS,
            length_penalty=0,
            return_scores=True,
        )


def _write_ctranslate2(weights: str, folder: str, words: list[str]) -> None:
    """Converts the model; its converter's command wants a tokenizer, which random weights lack."""
    from ctranslate2.converters import transformers as converters

    spec = converters.T5Loader().get_model_spec(_load_transformers(weights))
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = (
        words[0],
        words[1],
        words[2],
    )
    spec.config.decoder_start_token = words[0]
    spec.config.add_source_eos = False
    spec.validate()
    spec.optimize(quantization="float32")
    Path(folder).mkdir()
    spec.save(folder)


def _load_transformers(weights: str):
    import torch
    import transformers
    from safetensors.torch import load_file

    model = transformers.T5ForConditionalGeneration.from_pretrained(weights).eval()
    _untie(model)
    head = load_file(Path(weights) / "model.safetensors")["lm_head.weight"]
    model.lm_head.weight = torch.nn.Parameter(head)
    return model


SUBJECTS = {
    "ours": Ours,
    "ours, catalog": OursOverCatalog,
    "transformers": Transformers,
    "ctranslate2": CTranslate2,
}

if __name__ == "__main__":
    main()
