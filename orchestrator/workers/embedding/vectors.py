"""A guide's vectors as what rows are learnt from: each text's own, or that of the first text for all of its row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.workers.embedding.losses import LossSettings, load_guide
from orchestrator.workers.embedding.rows import LABEL, QUERIES, Rows
from orchestrator.workers.embedding.settings import Settings
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder

_NAME, _FILE = "vectors", "vectors.safetensors"
_CALL = 4096  # texts between two lines of the log


class Teacher:
    """The guide of a loss, loaded for the first vectors that are not kept."""

    def __init__(self, loss: LossSettings, model: Any, folder: Path, batch_size: int) -> None:
        """Teach `model` as the loss says; vectors are kept in `folder` as safetensors."""
        self._loss, self._model, self._folder, self._batch_size = loss, model, folder, batch_size

    def teach(self, name: str, rows: Rows) -> Rows:
        """Return the rows with the vectors as labels: [rows, texts, numbers], or [rows, numbers] of translations.

        Raises WorkerError where the vectors of the two models differ in length, or hold NaN or infinity.
        """
        import numpy as np
        from safetensors.numpy import load_file, save_file

        said = json.dumps([self._loss.guide, self._loss.translations, rows.columns], ensure_ascii=False)
        folder = self._folder / hashlib.sha256(said.encode()).hexdigest()[:32]
        if not folder.is_dir():
            learnt = list(rows.columns)[:1] if self._loss.translations else list(rows.columns)
            columns = [self._encode(f"{name} {key}", key, rows.columns[key]) for key in learnt]
            vectors = columns[0] if self._loss.translations else np.stack(columns, axis=1)
            with fresh_folder(folder) as part:
                save_file({_NAME: vectors}, part / _FILE)
        return replace(rows, columns=rows.columns | {LABEL: load_file(folder / _FILE)[_NAME]})

    def _encode(self, name: str, key: str, texts: Sequence[str]) -> Any:
        """Return one vector a text, as the guide gives it with its own prompt; equal texts cost once."""
        import numpy as np

        encode = self._guide.encode_query if key in QUERIES else self._guide.encode_document
        unique, found = list(dict.fromkeys(texts)), []
        for start in range(0, len(unique), _CALL):
            call = unique[start : start + _CALL]
            found.append(np.asarray(encode(call, batch_size=self._batch_size, show_progress_bar=False), np.float32))
            print(f"vectors of {name}: {start + len(call)} of {len(unique)} texts", flush=True)  # noqa: T201
        vectors = np.concatenate(found)
        if not np.isfinite(vectors).all():
            raise WorkerError(f"the guide {self._loss.guide} gives NaN or infinity: it is broken")
        places = {text: place for place, text in enumerate(unique)}
        return vectors[[places[text] for text in texts]]

    @cached_property
    def _guide(self) -> Any:
        guide = load_guide(str(self._loss.guide), self._model)
        theirs, own = (
            guide.get_embedding_dimension(),
            self._loss.projection_dim or self._model.get_embedding_dimension(),
        )
        if theirs != own:
            whose = "projection_dim" if self._loss.projection_dim else "the model's"
            raise WorkerError(
                f"the vectors of the guide {self._loss.guide} have {theirs} numbers and {whose} {own}: "
                f"{self._loss.type} compares them number by number; take a guide of {own}, or embed_distill with "
                f"projection_dim {theirs}"
            )
        return guide


def teach_all(
    settings: Settings, arguments: Any, model: Any, train: Mapping[str, Rows], validation: Rows | None
) -> tuple[dict[str, Rows], Rows | None]:
    """Return both sides with the guide's vectors; of several processes the first computes them, and the others read."""
    teacher = Teacher(settings.loss, model, settings.output.parent / "vectors", arguments.eval_batch_size)
    with arguments.main_process_first(local=False):
        taught = {name: teacher.teach(f"train {name}".rstrip(), rows) for name, rows in train.items()}
        return taught, teacher.teach("validation", validation) if validation else None
