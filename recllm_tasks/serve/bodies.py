"""What a client may ask for: the body of /v1/recommend, checked before anything is done with it."""

import dataclasses
import json
from typing import Any, NoReturn

# Our choice: far above what a page or a shop's backend sends at once, and little work each.
MAX_BODY_BYTES = 4 << 20
MAX_HISTORIES = 256
MAX_HISTORY = 1000
MAX_NAMES = 20_000
MAX_LISTED = 100_000
MAX_NAME = 1000


class BadRequest(Exception):
    """A request that cannot be answered; the message is for the client."""

    def __init__(self, message: str, status: int = 422):
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Body:
    """A request for recommendations.

    Attributes:
      histories: each the names of a user's items, oldest first.
      k: how many items each history gets; 10 by default, if so many can be had.
      exclude_history: whether a history's own items are left out; None is as in training.
      allow: names of the items that may be answers; None is all.
      deny: names of items that may not.
      allow_lists: names of lists; an answer is on all of them.
      deny_lists: names of lists; an answer is on none of them.
      explain: whether answers say why.
    """

    histories: list[list[str]]
    k: int
    exclude_history: bool | None = None
    allow: list[str] | None = None
    deny: list[str] = dataclasses.field(default_factory=list)
    allow_lists: list[str] = dataclasses.field(default_factory=list)
    deny_lists: list[str] = dataclasses.field(default_factory=list)
    explain: bool = False


def parse(content: bytes, most_items: int) -> Body:
    """The request in a body.

    Args:
      content: JSON, at most MAX_BODY_BYTES.
      most_items: the largest k.

    Raises:
      BadRequest: it is not JSON, or not a request.
    """
    try:
        found = json.loads(content.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # Not the parser's own message: it may quote the body.
        reason = "nested too deeply" if isinstance(error, RecursionError) else "not JSON in UTF-8"
        place = f" (at character {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadRequest(f"Body: got something {reason}{place}, expected a JSON object") from None
    if not isinstance(found, dict):
        _refuse("Body", found, 'an object such as {"histories": [["I17", "I4"]]}')
    known = [field.name for field in dataclasses.fields(Body)]
    for name in found:
        if name not in known:
            raise BadRequest(f"Body: got the field {_shown(name)}, expected {', '.join(known)}")
    if "histories" not in found:
        raise BadRequest("histories: got none, expected a list of lists of items")
    for name in ("k", "deny", "allow_lists", "deny_lists", "explain"):
        if found.get(name, 0) is None:
            del found[name]  # null is the default
    body = Body(**{"k": min(10, most_items), **found})
    _check_histories(body.histories)
    if type(body.k) is not int or not 1 <= body.k <= most_items:
        _refuse("k", body.k, f"a whole number from 1 to {most_items}")
    if body.exclude_history not in (None, True, False) or type(body.exclude_history) is int:
        _refuse("exclude_history", body.exclude_history, "true, false or null")
    if not isinstance(body.explain, bool):
        _refuse("explain", body.explain, "true or false")
    if body.allow is not None:
        _check_names("allow", body.allow, MAX_LISTED)
    for name in ("deny", "allow_lists", "deny_lists"):
        _check_names(name, getattr(body, name), MAX_LISTED if name == "deny" else 16)
    return body


def _check_histories(histories: Any) -> None:
    if not isinstance(histories, list):
        _refuse("histories", histories, "a list of lists of items")
    if not 1 <= len(histories) <= MAX_HISTORIES:
        raise BadRequest(
            f"histories: got {len(histories):,}, expected 1 to {MAX_HISTORIES}; send more requests"
        )
    for number, history in enumerate(histories, 1):
        _check_names(f"history {number}", history, MAX_HISTORY)
    total = sum(map(len, histories))
    if total > MAX_NAMES:
        raise BadRequest(
            f"histories: got {total:,} items in all, expected at most {MAX_NAMES:,}; send more "
            "requests"
        )


def _check_names(what: str, names: Any, most: int) -> None:
    if not isinstance(names, list):
        _refuse(what, names, "a list of names")
    if len(names) > most:
        raise BadRequest(f"{what}: got {len(names):,} names, expected at most {most:,}")
    for place, name in enumerate(names, 1):
        if not isinstance(name, str) or len(name) > MAX_NAME:
            _refuse(f"{what}, place {place}", name, f"text of at most {MAX_NAME} characters")


def _refuse(what: str, value: Any, expected: str) -> NoReturn:
    raise BadRequest(f"{what}: got {_shown(value)}, expected {expected}")


def _shown(value: Any) -> str:
    """A short form of a value that a client sent."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value):,}"
    if isinstance(value, str):
        value = value[:41]
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
