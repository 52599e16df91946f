"""The program that a folder for transformers holds. It must not import recllm_tasks."""

SCRIPT = '''\
"""Recommends items of catalog.jsonl for a history: python recommend.py I17 I4 -k 10

Needs torch and transformers. Items are named by short id, raw id or title, oldest first.
"""

import argparse
import json
import pathlib

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList

FOLDER = pathlib.Path(__file__).resolve().parent


class Trie:
    """The items' token sequences; a node is [items at and below it, {token: node}]."""

    def __init__(self, items, eos):
        self.root = [0, {}]
        for tokens in items:
            for node in self._path([*tokens, eos], create=True):
                node[0] += 1

    def _path(self, tokens, create=False):
        """The nodes of a sequence, from the root on, as far as there are any."""
        node = self.root
        yield node
        for token in tokens:
            if create:
                node = node[1].setdefault(token, [0, {}])
            else:
                node = node[1].get(token)
            if node is None:
                return
            yield node

    def allowed(self, prefix, excluded):
        """The tokens after a prefix that lead to an item; `excluded` counts nodes' items by id."""
        path = list(self._path(prefix))
        if len(path) <= len(prefix):
            return []
        return [t for t, node in path[-1][1].items() if node[0] > excluded.get(id(node), 0)]

    def count(self, items, eos):
        """How many of some items are at and below each of their nodes, by id of the node."""
        counts = {}
        for tokens in items:
            for node in self._path([*tokens, eos]):
                counts[id(node)] = counts.get(id(node), 0) + 1
        return counts


class FreeEnd(LogitsProcessor):
    """The end costs nothing: a decoder that reads on from the history has never learned one."""

    def __init__(self, eos):
        self.eos = eos

    def __call__(self, input_ids, scores):
        ends = scores[:, self.eos]
        scores = scores.clone()
        scores[:, self.eos] = torch.where(torch.isinf(ends), ends, torch.zeros_like(ends))
        return scores


class Recommender:
    """A model, its tokenizer and its catalog."""

    def __init__(self, folder=FOLDER):
        folder = pathlib.Path(folder)
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.settings = json.loads((folder / "recommender.json").read_text(encoding="utf-8"))
        with open(folder / "catalog.jsonl", encoding="utf-8") as lines:
            self.items = [json.loads(line) for line in lines]
        self.eos = self.tokenizer.eos_token_id
        self.item_of_tokens = {tuple(item["tokens"]): item for item in self.items}
        self.trie = Trie((item["tokens"] for item in self.items), self.eos)
        self.longest = max(len(item["tokens"]) for item in self.items)

    def find(self, name):
        """The item of that short id, raw id or title."""
        for field in ("short_id", "item", "title"):
            found = [item for item in self.items if item[field] == name]
            if len(found) == 1:
                return found[0]
        raise SystemExit(f"Item {name!r}: expected one short id, raw id or title of catalog.jsonl")

    def _tokens(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def prompt(self, history):
        """What the encoder and the decoder are given, as lists of tokens."""
        shown = [self._tokens(i["text"]) for i in history[-self.settings["window"] :]]
        room = self.settings["max_history_tokens"]
        while room is not None and sum(map(len, shown)) > room:
            del shown[0]
        before, after = (self._tokens(self.settings[name]) for name in ("before", "after"))
        tokens = [*before, *(token for text in shown for token in text), *after]
        start = self.model.generation_config.decoder_start_token_id
        if self.settings["read_by_decoder"]:
            return [self.eos], [start, *tokens]
        return [*tokens, self.eos], [start]

    def recommend(self, names, k=10, beams=20):
        """The k most probable next items, best first: [(log-probability, item)]."""
        history = [self.find(name) for name in names]
        seen = {tuple(item["tokens"]) for item in history if self.settings["leaves_out_seen"]}
        excluded = self.trie.count(seen, self.eos)
        encoder, decoder = self.prompt(history)
        cache = {}

        def allowed(_, tokens):
            prefix = tuple(tokens.tolist()[len(decoder) :])
            if prefix not in cache:
                # A beam that does not exist may be anywhere; it ends, and is left out below.
                cache[prefix] = self.trie.allowed(prefix, excluded) or [self.eos]
            return cache[prefix]

        by_decoder = self.settings["read_by_decoder"]
        beams = min(max(k, beams), len(self.items))
        with torch.no_grad():
            found = self.model.generate(
                input_ids=torch.tensor([encoder]),
                attention_mask=torch.ones(1, len(encoder), dtype=torch.long),
                decoder_input_ids=torch.tensor([decoder]),
                num_beams=beams,
                num_return_sequences=beams,
                max_new_tokens=self.longest + 1,
                do_sample=False,
                length_penalty=0.0,
                early_stopping="never",
                prefix_allowed_tokens_fn=allowed,
                logits_processor=LogitsProcessorList([FreeEnd(self.eos)] if by_decoder else []),
                return_dict_in_generate=True,
                output_scores=True,
            )
        ranked = []
        for tokens, score in zip(found.sequences.tolist(), found.sequences_scores.tolist()):
            answer = tokens[len(decoder) :]
            answer = tuple(answer[: answer.index(self.eos)]) if self.eos in answer else None
            if answer in self.item_of_tokens and answer not in seen and score > -1e6:
                ranked.append((score, self.item_of_tokens[answer]))
        return ranked[:k]


def main():
    parser = argparse.ArgumentParser(description="Recommends the next items for a history.")
    parser.add_argument("items", nargs="+", help="the history, oldest first")
    parser.add_argument("-k", type=int, default=10, help="number of items (10)")
    parser.add_argument("--beams", type=int, default=20, help="width of the search (20)")
    parser.add_argument("--json", action="store_true", help="one JSON object per item")
    args = parser.parse_args()
    for score, item in Recommender().recommend(args.items, args.k, args.beams):
        if args.json:
            names = {name: item[name] for name in ("short_id", "item", "title")}
            print(json.dumps({**names, "log_prob": score}, ensure_ascii=False))
        else:
            print(f"{score:9.4f}  {item['short_id']:8}  {item['title'] or item['item']}")


if __name__ == "__main__":
    main()
'''
