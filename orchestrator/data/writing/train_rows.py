"""Training records become the rows of train.jsonl or validation.jsonl, in an order that the backend can read."""

from __future__ import annotations

import shutil
from typing import BinaryIO

from orchestrator.data.rows.groups import RankingGroup
from orchestrator.data.rows.records import Chat, Record
from orchestrator.data.writing.row_options import RowOptions
from orchestrator.data.writing.writers import TRAIN_FORMS, format_line


class TrainWriter:
    """Writes the rows of one side, the first row with all that rows may have in front; `lines` counts them.

    The datasets library infers a column's type from the first 10 MB: were every list of negatives there empty, or no
    message marked with `loss`, the first one that is would end the training (seen with datasets 4.8).
    """

    def __init__(self, stream: BinaryIO, spool: BinaryIO, form: str, options: RowOptions) -> None:
        """Write to `stream`, in the form of that name; `spool` is a temporary file."""
        self._stream = stream
        self._spool = spool
        self._form = TRAIN_FORMS[form]
        self._options = options
        self._waiting = True
        self.lines = 0

    def add(self, record: Record) -> None:
        """Write one record, or let it wait for one with negatives or marks."""
        waits = self._waiting and _lacks_something(record)
        stream = self._spool if waits else self._stream
        for row in self._form.build_rows(record, self._options):
            stream.write(format_line(row))
            self.lines += 1
        if waits:
            return
        if self._waiting:
            self.close()

    def close(self) -> None:
        """Write the rows that wait still."""
        if self._waiting:
            self._waiting = False
            self._spool.seek(0)
            shutil.copyfileobj(self._spool, self._stream)


def _lacks_something(record: Record) -> bool:
    """Whether other records may have what this one lacks."""
    if isinstance(record, RankingGroup):
        return not record.negatives
    return isinstance(record, Chat) and not record.has_marks
