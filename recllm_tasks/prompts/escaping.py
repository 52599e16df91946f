"""Escapes catalog text that looks like part of a prompt.

A title may contain `<extra_id_0>`, `[masked item]` or `Item ID: I7`. T5's vocabulary would read the
first as a sentinel, which span corruption relies on. A dataset's own vocabulary, which has ids and
the prompts' phrases as pieces, would read the others as a masked item and as the real item I7. Our
choice: the catalog keeps the text unchanged, and prompts insert a space into each match
(`< extra_id_0>`, `[ masked item]`, `Item ID : I 7`). So no sentinel, mask or id in an example comes
from a title, and people see the space exactly where the model does.
"""

import re
import unicodedata

# A word that starts with I and a digit starts with a short id.
_SPACE_HERE = re.compile(
    r"(?<=<)(?=/?extra_id_\d)"
    r"|(?<=\[)(?=masked item\])"
    r"|(?<=Item ID)(?=:)"
    r"|(?<=, Title)(?=:)"
    r"|(?<=(?<![^\s\u2581])I)(?=\d)"
)


def escape(text: str) -> str:
    """The text with a space inserted wherever it looks like part of a prompt.

    SentencePiece normalises characters (NFKC) and drops invisible ones before it looks for pieces,
    so `＜extra_id_0＞` matches too; a text with such a match is returned normalised.
    """
    if not (text.isascii() and text.isprintable()):
        normalised = unicodedata.normalize("NFKC", text)
        normalised = "".join(c for c in normalised if unicodedata.category(c) not in ("Cc", "Cf"))
        normalised = " ".join(normalised.split())
        if not _SPACE_HERE.search(normalised):
            return text
        text = normalised
    return _SPACE_HERE.sub(" ", text)
