"""The kinds of evaluation sets (rankings, pairs, chats): each describes itself, loads scores and measures systems."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.errors import RunFolderError, StageFailedError
from orchestrator.evaluation import eval_rows
from orchestrator.evaluation.eval_rows import ChatRow, ChatScore, Document, Group, Pair, load_row_scores, read_rows
from orchestrator.evaluation.measures import CHAT, GROUP, PAIR, RETRIEVAL, Metric, require_metric
from orchestrator.evaluation.paired import Columns, correlation, pair_errors, perplexity
from orchestrator.evaluation.ranking import RANDOM_ORDERS, measure_rankings
from orchestrator.machine.rundir import RunDir

CORPUS = RunDir(Path()).corpus_jsonl.name  # beside eval.jsonl
GOLD = "gold"  # the one column that belongs to the evaluation set and not to a system
Rankings = Mapping[str, Mapping[str, float]]  # {qid: {docid: score}}
Scores = Mapping[str, Any]  # {system id: what `load_scores` returned of it}


@dataclass(frozen=True)
class Measured:
    """One system on every row: `columns[name][i]` belongs to row `ids[i]`, None where the row takes no part.

    The columns are the metrics' values of each row, and what a metric is made of where it is no mean: `nll` and
    `tokens` of a chat row, `score` and `gold` of a pair. `means` holds each metric's value over all rows, None where
    nothing was measured. `facts` are the system's further entries in metrics.json.
    """

    ids: tuple[str, ...]
    columns: Columns
    means: Mapping[str, float | None]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RankingEval:
    """Queries with their judged documents; with a `corpus` {docid: text} each query searches all of it.

    Without one every system ranks the same candidates. In a corpus, what was not judged counts as not relevant.
    """

    groups: tuple[Group, ...]
    corpus: Mapping[str, str] | None = None

    @property
    def kind(self) -> str:
        """`group` or `retrieval`."""
        return GROUP if self.corpus is None else RETRIEVAL

    def describe(self) -> dict[str, Any]:
        """Return {"queries", "documents" (of all candidates, or the corpus), "relevant", "queries_without_relevant"}.

        Relevant are labels of at least 0.5; candidates have "labels", too: {"grades": how many different ones,
        "lowest", "mean", "highest"}; texts with classes have "classes", those of the queries.
        """
        labels = [document.label for group in self.groups for document in group.documents]
        counts = {
            "queries": len(self.groups),
            "documents": len(labels) if self.corpus is None else len(self.corpus),
            "relevant": sum(group.relevant for group in self.groups),
            "queries_without_relevant": sum(group.relevant == 0 for group in self.groups),
        }
        if self.corpus is not None:
            classes = {group.class_name for group in self.groups} - {None}
            return counts | ({"classes": len(classes)} if classes else {})
        mean = math.fsum(labels) / len(labels) if labels else None
        spread = {"lowest": min(labels, default=None), "mean": mean, "highest": max(labels, default=None)}
        return {**counts, "labels": {"grades": len(set(labels)), **spread}}

    def row_texts(self) -> dict[str, str]:
        """Return {qid: query}, by which a reader knows a row."""
        return {group.qid: group.query for group in self.groups}

    def load_scores(self, path: Path) -> Mapping[str, Any]:
        """Return {qid: {docid: score}}. Raises RunFolderError for a document that the query does not have."""
        known = {group.qid: self.corpus or {document.docid for document in group.documents} for group in self.groups}
        return eval_rows.load_scores(path, ("qid", "docid"), known, _parse_score, "score")

    def pool(self, scores: Scores) -> tuple[Group, ...]:
        """Return the queries with the documents that are ranked: their candidates, or all that any system retrieved.

        Those are in the corpus's order, which was drawn by seed, so that it carries no label.
        """
        if self.corpus is None:
            return self.groups
        place = {docid: number for number, docid in enumerate(self.corpus)}
        groups = []
        for group in self.groups:
            judged = {document.docid: document for document in group.documents}
            docids = {*judged, *(docid for one in scores.values() for docid in one.get(group.qid, ()))}
            documents = (
                judged.get(docid) or Document(docid, self.corpus[docid], 0.0)
                for docid in sorted(docids, key=place.__getitem__)
            )
            groups.append(replace(group, documents=tuple(documents)))
        return tuple(groups)

    def measure(self, scores: Scores, metrics: Sequence[str], *, seed: int) -> dict[str, Measured]:
        """Measure {system id: its scores} on every query.

        Documents that share a score favour nobody, and one that was not retrieved counts as not found.
        """
        groups = self.pool(scores)
        return {name: measure_ranking(groups, one, metrics, seed=seed) for name, one in scores.items()}


@dataclass(frozen=True)
class PairEval:
    """Scored pairs in file order: a system's cosines are held against the scores that people gave."""

    pairs: tuple[Pair, ...]
    kind: str = PAIR

    def describe(self) -> dict[str, Any]:
        """Return {"pairs", "distinct_scores": different gold scores, "least", "most"}."""
        gold = [pair.gold for pair in self.pairs]
        return {"pairs": len(gold), "distinct_scores": len(set(gold)), "least": min(gold), "most": max(gold)}

    def row_texts(self) -> dict[str, str]:
        """Return {pid: both texts}, by which a reader knows a row."""
        return {pair.pid: f"{pair.text1} | {pair.text2}" for pair in self.pairs}

    def load_scores(self, path: Path) -> Mapping[str, Any]:
        """Return {pid: score}. Raises RunFolderError for an unknown, repeated or missing pair."""
        return load_row_scores(path, "pid", [pair.pid for pair in self.pairs], _parse_score, "pair")

    def measure(self, scores: Scores, metrics: Sequence[str], *, seed: int) -> dict[str, Measured]:  # noqa: ARG002
        """Correlate {system id: its scores} with the gold scores.

        A row's value is the pair's error: under spearman the difference of its two ranks as a share of the longest
        possible, under pearson the difference of its standardised scores. A correlation that constant scores leave
        undefined is 0.
        """
        measured = {}
        gold = np.asarray([pair.gold for pair in self.pairs], dtype=float)
        ranked = {name: require_metric(name).statistic == "rank correlation" for name in metrics}
        for system, one in scores.items():
            require_finite(one)
            given = np.asarray([one[pair.pid] for pair in self.pairs], dtype=float)
            columns = {name: pair_errors(given, gold, ranked=is_ranked) for name, is_ranked in ranked.items()}
            columns |= {"score": given, GOLD: gold}
            measured[system] = Measured(
                ids=tuple(pair.pid for pair in self.pairs),
                columns={key: tuple(map(float, values)) for key, values in columns.items()},
                means={name: correlation(given, gold, ranked=is_ranked) for name, is_ranked in ranked.items()},
                facts={"constant": bool((given == given[0]).all())},
            )
        return measured


@dataclass(frozen=True)
class ChatEval:
    """Chat rows in file order: how likely a model finds the reference, and how near it what it writes is."""

    rows: tuple[ChatRow, ...]
    kind: str = CHAT

    def describe(self) -> dict[str, Any]:
        """Return {"rows"}."""
        return {"rows": len(self.rows)}

    def row_texts(self) -> dict[str, str]:
        """Return {row: its last message}, by which a reader knows a row."""
        return {row.row: row.messages[-1].content if row.messages else row.reference for row in self.rows}

    def load_scores(self, path: Path) -> Mapping[str, Any]:
        """Return {row: score}. Raises RunFolderError for an unknown, repeated or missing row."""
        return load_row_scores(path, "id", [row.row for row in self.rows], eval_rows.parse_chat_score, "chat row")

    def measure(self, scores: Scores, metrics: Sequence[str], *, seed: int) -> dict[str, Measured]:  # noqa: ARG002
        """Measure {system id: its scores}.

        Loss is Σ nll / Σ tokens over all rows, perplexity its exponential. What compares texts, such as ROUGE-L, is a
        mean over the rows that have a generation. A row of which no token was scored has no loss.
        """
        return {name: self._measure(one, metrics) for name, one in scores.items()}

    def _measure(self, scores: Mapping[str, ChatScore], metrics: Sequence[str]) -> Measured:
        require_finite({row: score.nll for row, score in scores.items()})
        ordered = [scores[row.row] for row in self.rows]
        counted = [score for score in ordered if score.tokens > 0]
        whole = ChatScore(sum(score.nll for score in counted), sum(score.tokens for score in counted), None)
        columns: dict[str, tuple[float | None, ...]] = {}
        means: dict[str, float | None] = {}
        for name, metric in zip(metrics, map(require_metric, metrics), strict=True):
            if compare := metric.of_texts:
                columns[name] = tuple(
                    None if score.generation is None else compare(score.generation, row.reference)
                    for row, score in zip(self.rows, ordered, strict=True)
                )
                values = [value for value in columns[name] if value is not None]
                means[name] = sum(values) / len(values) if values else None
            else:
                columns[name] = tuple(_loss(metric, score) for score in ordered)
                means[name] = _loss(metric, whole)
        made_of = {"nll": tuple(score.nll for score in ordered), "tokens": tuple(score.tokens for score in ordered)}
        return Measured(
            ids=tuple(row.row for row in self.rows),
            columns={**columns, **made_of},
            means=means,
            facts={
                "constant": False,
                "generations": sum(score.generation is not None for score in ordered),
                "rows_without_tokens": len(ordered) - len(counted),
                "tokens": whole.tokens,
            },
        )


EvalSet = RankingEval | PairEval | ChatEval


def _loss(metric: Metric, score: ChatScore) -> float | None:
    """Return the loss or the perplexity of a score; None where it has no tokens."""
    return score.loss if score.loss is None or metric.statistic != "exponential" else perplexity(score.loss)


def _parse_score(row: Any) -> float:
    return float(row["score"])


def measure_ranking(groups: Sequence[Group], scores: Rankings, metrics: Sequence[str], *, seed: int = 42) -> Measured:
    """Measure one system's {qid: {docid: score}} (higher is better) on every query, as `measure_rankings` says.

    Its facts count the `tied_queries`, in which documents with different labels share a score; of those,
    `sampled_queries` had too many orders to enumerate. `missing_queries` have no score at all; they count 0.

    Raises StageFailedError for a score that is not finite, ValueError for a metric that `parse_metric` refuses.
    """
    require_finite({f"{qid}/{docid}": score for qid, row in scores.items() for docid, score in row.items()})
    values, orders = measure_rankings(groups, scores, list(map(require_metric, metrics)), seed=seed)
    return Measured(
        ids=tuple(group.qid for group in groups),
        columns=values,
        means={name: math.fsum(column) / len(column) for name, column in values.items()},
        facts={
            "tied_queries": sum(one is not None and len(one.shares) > 1 for one in orders),
            "sampled_queries": sum(one is not None and not one.exact for one in orders),
            "random_orders": RANDOM_ORDERS,
            "missing_queries": [group.qid for group, one in zip(groups, orders, strict=True) if one is None],
            "constant": len({score for row in scores.values() for score in row.values()}) == 1,
        },
    )


def require_finite(scores: Mapping[str, float]) -> None:
    """Raise StageFailedError for {row: score} with NaN or infinity."""
    bad = [row for row, score in scores.items() if not math.isfinite(score)]
    if bad:
        raise StageFailedError(
            f"{len(bad)} scores are not finite numbers (the first: {scores[bad[0]]} for {bad[0]})",
            hint="the model computes NaN or infinity: its training diverged, or its dtype overflows; try float32",
        )


def load_eval(path: Path) -> EvalSet | None:
    """Return the evaluation set of a run, of the kind that its first row says; None where there is none, or no row.

    Raises RunFolderError for rows of no known kind, for damaged and repeated ones, and for a corpus that is missing.
    """

    def load_rows(key: str, what: str, parse: Callable[[Any], eval_rows.T]) -> tuple[eval_rows.T, ...]:
        return tuple(row for _, _, row in read_rows(path, key, what, parse))

    first = next(iter(eval_rows.read_lines(path)), None) if path.is_file() else None
    if first is None:
        return None
    where, row = first
    keys = row if isinstance(row, dict) else {}
    if "relevant" in keys:
        return _load_retrieval(path, path.with_name(CORPUS))
    if "text1" in keys:
        return PairEval(load_rows("pid", "scored pair", eval_rows.parse_pair))
    if "messages" in keys:
        return ChatEval(load_rows("id", "chat row", eval_rows.parse_chat))
    if "documents" in keys:
        return RankingEval(load_rows("qid", "ranking group", eval_rows.parse_group))
    raise RunFolderError(
        "not a row of an evaluation set: it has none of documents, relevant, text1, messages",
        hint="eval.jsonl is written by the prepare stage: remove that stage's result.json and run orch resume",
        where=where,
    )


def _load_retrieval(path: Path, corpus_path: Path) -> RankingEval:
    if not corpus_path.is_file():
        raise RunFolderError(
            f"{path.name} names documents of a corpus, and {corpus_path} is missing",
            hint="prepare the data again: remove the stage's result and run orch resume",
        )

    def parse(row: Any) -> tuple[str, list[str], str | None]:
        return str(row["query"]), list(map(str, row["relevant"])), row.get("class")

    texts = read_rows(corpus_path, "docid", "document", lambda row: str(row["text"]))
    corpus = {docid: text for _, docid, text in texts}
    groups = []
    for where, qid, (query, docids, class_name) in read_rows(path, "qid", "query with its relevant documents", parse):
        if absent := [docid for docid in docids if docid not in corpus]:
            raise RunFolderError(f"the relevant document {absent[0]} of {qid} is not in the corpus", where=where)
        documents = (Document(docid, corpus[docid], 1.0) for docid in dict.fromkeys(docids))
        groups.append(Group(qid, query, tuple(documents), class_name))
    return RankingEval(tuple(groups), corpus)


def describe_eval(path: Path, evaluation: EvalSet, root: Path) -> dict[str, Any]:
    """Return what metrics.json says of an evaluation set; its paths start from `root`."""

    def identify(file: Path) -> dict[str, str]:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"path": file.relative_to(root).as_posix(), "sha256": digest}

    corpus = {"corpus": identify(path.with_name(CORPUS))} if evaluation.kind == RETRIEVAL else {}
    return {**identify(path), "units": len(evaluation.row_texts()), **evaluation.describe(), **corpus}
