"""Bad records: the first one is an error, or all of them are put aside."""

import json
from pathlib import Path

from recllm_tasks.data.readers.record import Problem, Record
from recllm_tasks.data.sources import SourceFile
from recllm_tasks.errors import UserError

FILE_NAME = "bad_records.jsonl"
MODES = ("error", "quarantine")


class BadRecords:
    """Takes bad records; `count` says how many.

    With a `path` they go there, one JSON object a line (`file`, `line`, `reason`, `text`; bytes
    that are no text as `\\\\xe9`), and reading goes on. Without, the first one raises `UserError`.
    """

    def __init__(self, path: Path | None = None):
        self.path, self.count = path, 0

    def add(self, what: str, source: SourceFile, record: Record, problem: Problem) -> None:
        """Puts a record of `what` (interactions or metadata) aside, or raises."""
        if self.path is None:
            raise UserError(
                f"{what} for '{source.path}', line {record.line}: {problem}; correct or remove "
                f"line {record.line}, fetch the file again, or put bad lines aside with "
                "--bad_records=quarantine"
            )
        self.count += 1
        found = {
            "file": str(source.path),
            "line": record.line,
            "reason": str(problem),
            # Half a character, which JSON can hold and a file cannot.
            "text": record.text.encode("utf-8", "backslashreplace").decode(),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found, ensure_ascii=False) + "\n")
