"""Bad records: the first one is an error, or all of them are set aside."""

import json
from pathlib import Path

from recllm_tasks.data.readers.record import Problem, Record
from recllm_tasks.data.sources import SourceFile
from recllm_tasks.errors import UserError

FILE_NAME = "bad_records.jsonl"
MODES = ("error", "quarantine")


class BadRecords:
    """Collects bad records; `count` says how many.

    With a `path`, they are written there, one JSON object per line (`file`, `line`, `reason`,
    `text`; invalid bytes as `\\\\xe9`), and reading continues. Without one, the first bad record
    raises `UserError`, unless they are only `counted`. `example` is the first one.
    """

    def __init__(self, path: Path | None = None, *, counted: bool = False):
        self.path, self.count, self.example, self._counted = path, 0, "", counted

    def add(self, what: str, source: SourceFile, record: Record, problem: Problem) -> None:
        """Sets a record of `what` (interactions or metadata) aside, or raises."""
        where = f"{source.path.name}, line {record.line}"
        fix = f"; {problem.fix}" if problem.fix else ""
        self.example = self.example or f"{where}: {problem}{fix}"
        if self.path is None and not self._counted:
            fix = f"{problem.fix}; or " if problem.fix else ""
            raise UserError(
                f"{what} for '{source.path}', line {record.line}: {problem}; {fix}correct or "
                f"remove line {record.line}, download the file again, or set bad lines aside with "
                "--bad_records=quarantine"
            )
        self.count += 1
        if self.path is None:
            return
        found = {
            "file": str(source.path),
            "line": record.line,
            "reason": f"{problem}; {problem.fix}" if problem.fix else str(problem),
            # JSON can hold half a surrogate pair, which UTF-8 cannot encode.
            "text": record.text.encode("utf-8", "backslashreplace").decode(),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found, ensure_ascii=False) + "\n")
