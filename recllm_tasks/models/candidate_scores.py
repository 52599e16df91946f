"""Exact scores of each example's candidates: one encoder pass, one pass over a tree of prefixes.

The decoder reads every distinct prefix of an example's candidates once, all in one pass. A prefix
attends only to its own prefixes. There is no search, so no candidate is lost.

Shapes: B batch, L input length, M candidates, T tokens of the longest item with EOS, U prefixes,
V vocabulary, P tokens that a target begins with.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recllm_tasks.models.beam_search import DEAD, Beams
from recllm_tasks.models.network import Transformer
from recllm_tasks.models.prior import Prior
from recllm_tasks.models.trie import Trie

# Prefixes are padded to a multiple of this, so that few programs are compiled.
_PREFIXES = 64


class _Prefixes(NamedTuple):
    """The distinct prefixes of each example's candidates; all int32.

    A prefix is a node of the trie; the empty one is the root.
    """

    tokens_BxU: np.ndarray  # the last token; 0 for the empty prefix and for padding
    depths_BxU: np.ndarray  # the length
    ancestors_BxUxT: np.ndarray  # the prefixes of each prefix, itself included; then -1
    before_BxMxT: np.ndarray  # the prefix before each token of a candidate; 0 for padding
    targets_BxMxT: np.ndarray  # the tokens of a candidate, EOS included; then 0


def score_candidates(
    model: Transformer,
    params,
    encoder_tokens_BxL,
    trie: Trie,
    candidates_BxM,
    excluded_BxM=None,
    beginning_BxP=None,
    prior: Prior | None = None,
    prior_weight: float = 0.0,
    *,
    scores_eos: bool = True,
) -> Beams:
    """All candidates of each example, best first, with the model's own log-probabilities.

    Candidates are catalog rows, -1 as padding. A repeated candidate is scored once, an excluded one
    not at all. Beams that do not exist are as in `beam_search`. Scores equal teacher forcing, EOS
    included; a prior changes the order as it does in `beam_search`. `beginning_BxP` and
    `scores_eos` are as there.
    """
    candidates_BxM = _without_repeats(np.asarray(candidates_BxM, np.int32), trie.num_items)
    if excluded_BxM is not None:
        out = [np.isin(own, others) for own, others in zip(candidates_BxM, excluded_BxM)]
        candidates_BxM = np.where(out, np.int32(-1), candidates_BxM)
    prefixes = _list_prefixes(trie, candidates_BxM)
    beginning = None if beginning_BxP is None else jnp.asarray(beginning_BxP)
    scored = prefixes.targets_BxMxT > 0
    if not scores_eos:
        scored &= prefixes.targets_BxMxT != trie.eos_id
    encoder_tokens = jnp.asarray(encoder_tokens_BxL)
    scores_BxM = _score(model, params, encoder_tokens, prefixes, beginning, scored)
    scores_BxM = np.where(candidates_BxM >= 0, np.asarray(scores_BxM), np.float32(DEAD))
    ranked_BxM = scores_BxM
    if prior is not None:
        place_BxM = np.asarray(trie.item_positions)[np.maximum(candidates_BxM, 0)]
        log_mass_BxM = prior.log_mass(place_BxM, place_BxM + 1, np.ones_like(place_BxM))
        with_prior_BxM = scores_BxM + np.float32(prior_weight) * np.asarray(log_mass_BxM)
        ranked_BxM = np.where(candidates_BxM >= 0, with_prior_BxM, np.float32(DEAD))
    order_BxM = np.argsort(-ranked_BxM, axis=1, kind="stable")
    return Beams(
        np.take_along_axis(prefixes.targets_BxMxT, order_BxM[..., None], axis=1),
        np.take_along_axis(scores_BxM, order_BxM, axis=1),
        np.take_along_axis(candidates_BxM, order_BxM, axis=1),
    )


def _without_repeats(rows_BxM: np.ndarray, num_items: int) -> np.ndarray:
    """The rows, with -1 in place of invalid rows and repeats."""
    order = np.argsort(rows_BxM, axis=1, kind="stable")
    ranked = np.take_along_axis(rows_BxM, order, axis=1)
    repeated = np.zeros(rows_BxM.shape, bool)
    again = np.concatenate([repeated[:, :1], ranked[:, 1:] == ranked[:, :-1]], axis=1)
    np.put_along_axis(repeated, order, again, axis=1)
    return np.where(repeated | (rows_BxM < 0) | (rows_BxM >= num_items), np.int32(-1), rows_BxM)


def _list_prefixes(trie: Trie, rows_BxM: np.ndarray) -> _Prefixes:
    nodes_BxMxT, targets_BxMxT = _walk(trie, rows_BxM)
    inside_BxMxT = targets_BxMxT > 0
    distinct = [np.unique(nodes[inside]) for nodes, inside in zip(nodes_BxMxT, inside_BxMxT)]
    width = -(-max(1, *map(len, distinct)) // _PREFIXES) * _PREFIXES
    batch, _, depth = nodes_BxMxT.shape
    prefixes = _Prefixes(
        np.zeros((batch, width), np.int32),
        np.zeros((batch, width), np.int32),
        np.full((batch, width, depth), -1, np.int32),
        np.zeros(nodes_BxMxT.shape, np.int32),
        targets_BxMxT,
    )
    for b, own in enumerate(distinct):
        inside = inside_BxMxT[b]
        before = np.where(inside, np.searchsorted(own, nodes_BxMxT[b]), 0)
        prefixes.before_BxMxT[b] = before
        for t in range(depth):
            some = inside[:, t]
            prefix = before[some, t]
            prefixes.depths_BxU[b, prefix] = t
            prefixes.ancestors_BxUxT[b, prefix, : t + 1] = before[some, : t + 1]
            if t:
                prefixes.tokens_BxU[b, prefix] = targets_BxMxT[b, some, t - 1]
    return prefixes


def _walk(trie: Trie, rows_BxM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The node [B, M, T] before each token of the candidates, and the tokens (0 after EOS)."""
    child_start, child_token, node_lo, item_positions = (
        np.asarray(x)
        for x in (trie.child_start, trie.child_token, trie.node_lo, trie.item_positions)
    )
    position_BxM = item_positions[np.maximum(rows_BxM, 0)]
    node_BxM = np.zeros(rows_BxM.shape, np.int64)
    going_BxM = rows_BxM >= 0
    nodes, targets = [], []
    for widest in trie.max_children:
        # The last child whose items start at or before the candidate's position.
        low, high = child_start[node_BxM], child_start[node_BxM + 1] - 1
        for _ in range(int(widest).bit_length()):
            middle = (low + high + 1) // 2
            beyond = node_lo[np.minimum(middle + 1, len(node_lo) - 1)] > position_BxM
            low, high = np.where(beyond, low, middle), np.where(beyond, middle - 1, high)
            high = np.maximum(high, low)
        token_BxM = np.where(going_BxM, child_token[np.minimum(low, len(child_token) - 1)], 0)
        nodes.append(np.where(going_BxM, node_BxM, 0))
        targets.append(token_BxM)
        node_BxM = np.where(going_BxM, low + 1, 0)
        going_BxM = going_BxM & (token_BxM != trie.eos_id)
        node_BxM = np.where(going_BxM, node_BxM, 0)
    return np.stack(nodes, axis=2).astype(np.int32), np.stack(targets, axis=2).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _score(
    model: Transformer, params, encoder_tokens_BxL, prefixes: _Prefixes, beginning_BxP, scored
):
    variables = {"params": params}
    encoded = model.apply(variables, encoder_tokens_BxL, enable_dropout=False, method=model.encode)
    cross = model.apply(variables, encoded, method=model.precompute_cross)
    width = prefixes.tokens_BxU.shape[1]
    visible_BxUxU = (prefixes.ancestors_BxUxT[..., None] == jnp.arange(width)).any(axis=2)
    nodes = prefixes.tokens_BxU, prefixes.depths_BxU, visible_BxUxU
    length = 0
    if beginning_BxP is not None:
        length = beginning_BxP.shape[1]
        nodes = _after(beginning_BxP, *nodes)
    hidden_BxUxE = model.apply(
        variables, *nodes, cross, encoder_tokens_BxL, method=model.decode_prefixes
    )[:, length:]

    def of_example(example):
        hidden_UxE, before_MxT, targets_MxT, scored_MxT = example
        logits_UxV = model.apply(variables, hidden_UxE, method=model.logits)
        total_U = jax.nn.logsumexp(logits_UxV, axis=-1)
        log_probs_MxT = logits_UxV[before_MxT, targets_MxT] - total_U[before_MxT]
        return jnp.sum(jnp.where(scored_MxT, log_probs_MxT, 0.0), axis=1)

    # One by one: the logits of all examples at once would be by far the largest array.
    of_each = (hidden_BxUxE, prefixes.before_BxMxT, prefixes.targets_BxMxT, scored)
    return jax.lax.map(of_example, of_each)


def _after(beginning_BxP, tokens_BxU, depths_BxU, visible_BxUxU):
    """The arguments of `decode_prefixes` where P tokens stand before all prefixes."""
    batch, length = beginning_BxP.shape
    width = tokens_BxU.shape[1]
    # The empty prefix, depth 0, reads the last token of the beginning.
    is_empty = (depths_BxU == 0) & visible_BxUxU[:, jnp.arange(width), jnp.arange(width)]
    tokens_BxU = jnp.where(is_empty, beginning_BxP[:, -1:], tokens_BxU)
    first_BxP = jnp.pad(beginning_BxP[:, :-1], ((0, 0), (1, 0)))
    depths_BxP = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    is_read_Bx1xP = (beginning_BxP > 0)[:, None]
    in_order = jnp.tril(jnp.ones((length, length), bool)) & is_read_Bx1xP
    above = jnp.concatenate([in_order, jnp.zeros((batch, length, width), bool)], axis=2)
    seen_BxUxP = jnp.broadcast_to(is_read_Bx1xP, (batch, width, length))
    below = jnp.concatenate([seen_BxUxP, visible_BxUxU], axis=2)
    return (
        jnp.concatenate([first_BxP, tokens_BxU], axis=1),
        jnp.concatenate([depths_BxP, depths_BxU + length], axis=1),
        jnp.concatenate([above, below], axis=1),
    )
