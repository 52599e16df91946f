"""Look-alikes: what a shop wrote that reads like a piece of a prompt.

A title may say `<extra_id_0>`, `[masked item]` or `Item ID: I7`. T5's vocabulary would read the
first as a sentinel, which is what span corruption counts on; our own vocabulary, in which ids and
the prompts' phrases are pieces, would read the others as a masked item and as item I7 itself. Our
choice: the text stays as it is in the catalog, and in prompts a space breaks such a stretch
(`< extra_id_0>`, `[ masked item]`, `Item ID : I 7`). So no sentinel, no mask and no id in an
example comes from a title; people see the space where the model reads it.
"""

import re
import unicodedata

# A word that begins with I and a digit begins with a short id.
_SEAM = re.compile(
    r"(?<=<)(?=/?extra_id_\d)"
    r"|(?<=\[)(?=masked item\])"
    r"|(?<=Item ID)(?=:)"
    r"|(?<=, Title)(?=:)"
    r"|(?<=(?<![^\s\u2581])I)(?=\d)"
)


def break_lookalikes(text: str) -> str:
    """The text with a space in every stretch that reads like a piece of a prompt.

    SentencePiece unifies characters (NFKC) and drops invisible ones before it looks for pieces, so
    that `＜extra_id_0＞` is one too; a text with such a stretch is returned unified.
    """
    if not (text.isascii() and text.isprintable()):
        unified = unicodedata.normalize("NFKC", text)
        unified = "".join(c for c in unified if unicodedata.category(c) not in ("Cc", "Cf"))
        unified = " ".join(unified.split())
        if not _SEAM.search(unified):
            return text
        text = unified
    return _SEAM.sub(" ", text)
