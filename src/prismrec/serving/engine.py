"""The engine: a history in, interests with titled items out. It knows no web server.

A ranker (`prismrec.models.rankers`) scores the whole catalogue; the engine translates ids before, and has named lists
made of the scores after (`prismrec.serving.lists`). A history may bring items by their text: they get spare rows
of the rankers' tables (`prismrec.models.item_rows`) for this one answer. Items that are added for good come in
generations (`prismrec.serving.added_items`): the engine then builds rankers over grown tables and swaps everything at
once, so that an answer rests on one state from its first line to its last.

Notable, all our choices:
- A large catalogue is ranked by candidates (`prismrec.retrieval.narrowed`). Where filters and what was seen leave fewer
  of them than a list is long, everything is scored for this one answer.
- Unknown ids are ignored and reported. A history of which nothing is known gets popular items, every fifth of them one
  that was added lately, and a note that says so.
- Requests that wait are ranked together (`recommend_all`): a pass of the networks costs little more for a few users
  than for one. One such pass at a time: it fills a core. A history with texts is ranked alone, since guests' rows are
  shared, and so is one whose interests are kept. No kedro, no polars.

Shapes: N rows of the tables, H items of a history, B users ranked together, X added items, D item dimension.
"""

from __future__ import annotations

import logging
import threading
from collections import ChainMap, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from prismrec.artifacts.bundle import MEND, POPULARITY, CatalogueItem, Versions, read_bundle
from prismrec.errors import UserError
from prismrec.models.item_text import NewItem
from prismrec.retrieval.chunks import chunk_size
from prismrec.serving.added_items import AddedItem, AddedItems, Generation
from prismrec.serving.answers import DictionaryInterest, EngineDescription, Recommendation, RecommendedItem
from prismrec.serving.catalogue import Catalogue
from prismrec.serving.lists import InterestNames, Lists, with_newcomers
from prismrec.serving.meter import Meter
from prismrec.serving.stopwatch import Stopwatch

if TYPE_CHECKING:
    from prismrec.models.item_rows import ItemRows
    from prismrec.models.new_items import NewItemReader
    from prismrec.models.rankers import InterestRanking, ServedRanker
    from prismrec.retrieval.index import ItemIndex

MAX_TEXTS = 100  # different items that a history may bring by their text
MANY_TEXTS = f"At most {MAX_TEXTS} are allowed; give ids, or add the items first: POST /items."
TOGETHER = 8  # users ranked in one pass; more gain little, and wait for each other
KEPT_FORMAT = 1  # of what is kept of a user; another one is not read
KEPT_INTERESTS = 16  # of a user between requests: as many as a request may ask for
EMPTY_NOTE = "The history is empty: these are the most popular items."
UNKNOWN_NOTE = "The catalogue knows no item of the history: these are the most popular items."
UNCOUNTED_NOTE = "No event of the history is of a kind that counts: these are the most popular items."
NEW_NOTE = " Each fifth one is new."
UNTIMED_NOTE = "The models were trained without times: those of the request are left out."
log = logging.getLogger(__name__)
STEPS = {"lightweight_encoder": "encode", "recommender": "encode", "posterior": "posterior"}


class UnknownModel(UserError):
    """A request names a model that the bundle does not hold."""


class NoTexts(UserError):
    """A request brings texts, and the bundle carries no text encoder."""


class NotHere(UserError):
    """Something that a request asks for does not exist, or not in this bundle."""


class Memory(Protocol):
    """Keeps something of a user between requests, under a key that says what it was made from."""

    def recall(self, key: str) -> bytes | None:
        """What was kept last, if under this key."""

    def remember(self, key: str, value: bytes) -> None:
        """Keep this."""


@dataclass(frozen=True, eq=False)
class Question:
    """One recommendation that is asked for.

    Attributes:
        history: item ids or items by their text, oldest first; unknown ids are ignored and reported.
        k: items of each list; fewer where the catalogue has no more.
        num_interests: interests at most; the model's own number by default.
        exclude_seen: leave the history's items out of every list, whatever the kinds of their events.
        model: name of a ranker; the bundle's default if None.
        timestamps: seconds, one an event; none where they are unknown.
        now: seconds, when the recommendation is asked for; counts only beside `timestamps`.
        events: kinds of the events, one each; those that training left out are left out here.
        allow: ids of the items that may be shown; all if empty.
        deny: ids that may not.
        categories: an item shown has one of these; any if empty.
        diversity: from 0, the likelihood, to 1, interests in turn; see `prismrec.retrieval.merging`.
        novelty: weight of interests that the history does not show, from 0; see the model's own page.
        temperature: of the posterior; above 1 spreads a user's interests, below 1 sharpens them.
        memory: keeps the user's strongest interests, which alone count then, where the model has a posterior.
    """

    history: Sequence[str | NewItem]
    k: int = 10
    num_interests: int | None = None
    exclude_seen: bool = True
    model: str | None = None
    timestamps: Sequence[int] = ()
    now: int | None = None
    events: Sequence[str] = ()
    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    categories: Sequence[str] = ()
    diversity: float = 0.0
    novelty: float = 0.0
    temperature: float = 1.0
    memory: Memory | None = None

    @property
    def alone(self) -> bool:
        """Whether it cannot be ranked together with others."""
        return self.memory is not None or bool({*map(type, self.history)} - {str})

    @property
    def dials(self) -> dict[str, float]:
        """The `Knobs` that are turned."""
        turned = {"novelty": self.novelty} if self.novelty else {}
        return turned | ({"temperature": self.temperature} if self.temperature != 1 else {})


class State(NamedTuple):
    """What answers rest on, swapped as a whole."""

    catalogue: Catalogue
    rankers: Mapping[str, ServedRanker]
    rows: ItemRows | None  # None only where rankers come without tables (tests)
    generation: int = 0
    mark: str = ""  # of the generation of added items


class Past(NamedTuple):
    """A history in rows of the tables."""

    rows_H: np.ndarray  # of events that count
    times_H: np.ndarray | None
    seen: np.ndarray  # rows of all items of the history, of whatever kinds the events are
    unknown: list[str]
    titles: dict[int, str]  # of the rows of items that came as texts

    @property
    def cold(self) -> bool:
        """Whether there is nothing to rank by."""
        return not len(self.rows_H)


class Engine:
    """Answers requests from the rankers of one bundle.

    Args:
        items: the catalogue, in the order of the item indices.
        rankers: by name; one of them is `popularity`.
        default_model: the ranker for requests that name none.
        versions: content hashes, passed on with every answer.
        labels: names of interests by their id.
        bundle: version of the bundle as a whole.
        counted_events: kinds of events that count in a history; all of them if empty.
        meter: takes notice of steps and answers.
        timed: whether the models were trained on times; if not, those of a request are left out.

    Attributes:
        reader: makes vectors of texts; None where the bundle carries no text encoder.
        added: items that were added to this bundle; None where nothing can be.

    Raises:
        UserError: there is no popularity ranker, or no ranker called `default_model`.
    """

    def __init__(
        self,
        items: Sequence[CatalogueItem],
        rankers: Mapping[str, ServedRanker],
        default_model: str,
        versions: Versions,
        labels: Mapping[str, str],
        bundle: str,
        counted_events: Sequence[str] = (),
        meter: Meter | None = None,
        rows: ItemRows | None = None,
        timed: bool = True,
    ) -> None:
        for needed in (POPULARITY, default_model):
            if needed not in rankers:
                raise UserError(f"This bundle has no model {needed!r}.", ", ".join(rankers) or "no models", MEND)
        self.versions, self.bundle, self.default_model = versions, bundle, default_model
        self.meter = meter or Meter()
        self.reader: NewItemReader | None = None
        self.added: AddedItems | None = None
        self.timed = timed
        self._counted_events = frozenset(counted_events)
        counts_N = np.zeros(len(items)) if rows is None else rows.counts_N[: len(items)]
        self._base = State(Catalogue(items, counts_N, len(items)), rankers, rows)  # without additions
        self._state = self._base
        self._refused: str | None = None  # mark of the additions that are damaged
        self._models: dict[str, Any] = {}
        self._indexes: dict[str, ItemIndex] = {}
        self._folder = Path()
        cells: dict[str, int] = {}
        if rows is not None and rows.dictionary is not None:
            codes_GC = rows.dictionary.cell_codes().tolist()
            cells = {"-".join(map(str, codes)): cell for cell, codes in enumerate(codes_GC)}
        self._names = InterestNames(labels, cells, versions.dictionary)
        self._turn = threading.RLock()
        self._watch = Stopwatch()

    @classmethod
    def load(cls, folder: Path, added: Path | None = None, meter: Meter | None = None) -> Engine:
        """Verify a bundle and load its models.

        Args:
            folder: the bundle's.
            added: where items that are added lie; None: none can be.
            meter: takes notice of steps and answers.

        Raises:
            UserError: the bundle is damaged, incomplete or mixed; the text names the file and the reason.
        """
        import torch

        from prismrec.models.item_rows import ItemRows
        from prismrec.models.loading import build_rankers, load_models, quickened
        from prismrec.models.new_items import NewItemReader
        from prismrec.retrieval.narrowed import narrowed, read_indexes

        bundle = read_bundle(folder)
        manifest = bundle.manifest
        models, reader = quickened(load_models(folder)), NewItemReader.load(folder)
        no_rows, no_vectors = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        rows = ItemRows.load(folder)
        rows = rows.grown(no_rows, no_vectors, 0 if reader is None else MAX_TEXTS)
        rankers = build_rankers(models, rows, folder)
        indexes = read_indexes(folder, rankers)
        engine = cls(
            bundle.items,
            narrowed(rankers, indexes, rows.changed_X),
            manifest.default_model,
            manifest.versions,
            bundle.labels,
            bundle.version,
            manifest.events,
            meter,
            rows,
            manifest.timed,
        )
        engine._models, engine._folder, engine.reader, engine._indexes = models, folder, reader, indexes
        for name in models.keys() & STEPS.keys():
            engine._watch.watch(models[name], STEPS[name])
        if added is not None and reader is not None:
            engine.added = AddedItems(added, bundle.version, engine._vectors_of)
            engine.refresh()
        return engine

    @property
    def catalogue(self) -> Catalogue:
        """The items of this moment."""
        return self._state.catalogue

    @property
    def rankers(self) -> Mapping[str, ServedRanker]:
        """The rankers of this moment, by name."""
        return self._state.rankers

    @property
    def description(self) -> EngineDescription:
        """What is served at this moment."""
        state = self._state
        return EngineDescription(
            bundle=self.bundle,
            versions=self.versions,
            default_model=self.default_model,
            models=sorted(state.rankers),
            items=len(state.catalogue),
            active_items=int(state.catalogue.active_N.sum()),
            added_items=len(state.catalogue) - state.catalogue.from_bundle,
            generation=state.generation,
            texts=self.reader is not None,
            times=self.timed,
        )

    def recommend(self, history: Sequence[str | NewItem], **options: Any) -> Recommendation:
        """Recommend for a raw history.

        Args:
            history: see `Question`.
            options: the other fields of `Question`.

        Raises:
            UnknownModel: the bundle holds no such ranker.
            NoTexts: the history has texts, and the bundle carries no text encoder.
        """
        (answer,) = self.recommend_all([Question(history, **options)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def recommend_all(self, questions: Sequence[Question]) -> list[Recommendation | Exception]:
        """Answer several users, ranked together as far as memory and their questions allow.

        Returns:
            In their order; a question that cannot be answered has its own error, and none does another harm. Answers
            are those that each would get by itself, up to the order in which float32 sums are taken.
        """
        answers: dict[int, Recommendation | Exception] = {}
        with self._turn:
            for places in self._together(questions):
                answers |= zip(places, self._answers([questions[place] for place in places]), strict=True)
        return [answers[place] for place in range(len(questions))]

    def _together(self, questions: Sequence[Question]) -> Iterator[list[int]]:
        """Places of the questions that are ranked in one pass."""
        groups: dict[Any, list[int]] = defaultdict(list)
        for place, question in enumerate(questions):
            alone = place if question.alone else None
            groups[alone, question.model or self.default_model, *question.dials.items()].append(place)
        for (_, model, *_), places in groups.items():
            ranker = self.rankers.get(model)  # one that is not there is refused soon
            size = 1 if ranker is None else min(TOGETHER, chunk_size(len(self.catalogue), ranker.held))
            yield from (places[start : start + size] for start in range(0, len(places), size))

    def _answers(self, questions: Sequence[Question]) -> list[Recommendation | Exception]:
        """Of one pass; where it fails, each by itself, so that an error stays with its question."""
        try:
            return list(self._answer(self._state, questions))
        except Exception as error:
            if len(questions) == 1:
                return [error]
            return [answer for one in questions for answer in self._answers([one])]
        finally:
            self._watch.take()  # nobody's time is counted for the next

    def _answer(self, state: State, questions: Sequence[Question]) -> list[Recommendation]:
        """One pass: of one user, or of several that name one model and turn its dials alike."""
        name = self._known_model(questions[0].model)
        pasts = [self._past(state, question) for question in questions]
        with self._watch.rest("search"):
            rankings, dial = self._rank(state, name, questions, pasts)
        with self._watch.rest("merge"):
            lists = self._lists(state)
            answers = [
                self._listed(state, lists, *one, name, dial) for one in zip(questions, pasts, rankings, strict=True)
            ]
        for step, seconds in self._watch.take().items():
            for _ in questions:
                self.meter.step(step, seconds / len(questions))
        for past in pasts:
            self.meter.answer(past.cold)
        return answers

    def _listed(
        self,
        state: State,
        lists: Lists,
        question: Question,
        past: Past,
        ranking: InterestRanking,
        name: str,
        dial: str | None,
    ) -> Recommendation:
        """The answer to one question, from its ranking by the model `name`."""
        if past.cold and len(state.catalogue) > state.catalogue.from_bundle:
            ranking = with_newcomers(ranking, state.catalogue)
        num_rows = len(ranking.scores_N) if state.rows is None else len(state.rows.vectors_ND)
        hidden_N = lists.hidden(num_rows, question.allow, question.deny, question.categories)
        if question.exclude_seen:
            hidden_N[past.seen] = True
        if ranking.rows is not None:
            if np.count_nonzero(~hidden_N[ranking.rows]) < question.k:  # too few candidates are left to show
                ranking = _ranked(state.rankers[name].whole, [(question, past)])[0]  # type: ignore[attr-defined]
            else:
                hidden_N = hidden_N[ranking.rows]
        rule = state.rankers[POPULARITY if past.cold else name].rule
        items = lists.merged(ranking, hidden_N, question.k, question.diversity, rule)
        untimed = UNTIMED_NOTE if question.timestamps and not self.timed else None
        note = " ".join(filter(None, (dial, untimed))) or None
        if past.cold:
            name, note = POPULARITY, _cold_note(question.history, past)
            if any(state.catalogue.is_added(item.item_id) for item in items):
                note = f"{note}{NEW_NOTE}"
        return Recommendation(
            interests=lists.interests(ranking, hidden_N, question.k, past.rows_H, past.titles),
            items=items,
            unknown_items=past.unknown,
            model=name,
            versions=self.versions,
            note=note,
        )

    def similar(self, item: str | NewItem, k: int = 10) -> list[RecommendedItem]:
        """The items whose vectors have the largest cosine with an item's, best first.

        Raises:
            NotHere: the catalogue has no such item.
            NoTexts: it is a text, and the bundle carries no text encoder.
        """
        import torch

        with self._turn:
            state = self._state
            assert state.rows is not None
            if not isinstance(item, str):
                vector_D = self._reader().vectors([item], [None])[0]
            elif item in state.catalogue.rows:
                vector_D = state.rows.vectors_ND[state.catalogue.rows[item]]
            else:
                raise NotHere(f"The catalogue has no item {item!r}.", "item_id", "Look it up: GET /items?query=…")
            with torch.inference_mode():
                scores_N = (state.rows.vectors_ND @ vector_D).numpy()
        lists = self._lists(state)
        hidden_N = lists.hidden(len(scores_N))
        hidden_N[state.catalogue.places([item] if isinstance(item, str) else [])] = True
        return lists.best(scores_N, hidden_N, k)

    def interests(self) -> list[DictionaryInterest]:
        """The interests of the dictionary that have items, those of most items first.

        Raises:
            NotHere: the bundle has no dictionary.
        """
        state = self._state
        rows = state.rows
        if rows is None or rows.cells_N is None:
            raise NotHere("This bundle has no interest dictionary.", "interests", "Package a model that has one.")
        return self._lists(state).dictionary(rows.cells_N.numpy(), rows.counts_N)

    def add_items(self, items: Sequence[AddedItem]) -> EngineDescription:
        """Add items to the catalogue, or change them; they may be recommended from the next answer on.

        Raises:
            NoTexts: the bundle carries no text encoder.
            UserError: there would be too many, or what was added earlier is damaged.
        """
        self._reader()
        if self.added is None:
            raise NotHere("Items cannot be added here.", "items", "Set PRISMREC_ITEMS to a folder that can be written.")
        self.added.add(items)
        self.refresh()
        return self.description

    def refresh(self) -> None:
        """Take over what any process has added meanwhile; one look at a folder where that is nothing.

        What is damaged is said once, and what was served so far goes on; at the start that is the bundle alone.
        """
        if self.added is None:
            return
        mark = "unreadable"
        try:
            mark = self.added.mark()
            if mark not in (self._state.mark, self._refused):
                self._take_over(self.added)
                self._refused = None
        except UserError as error:
            if mark != self._refused:
                log.error("%s %s", error.what, error.mend)
            self._refused = mark

    def _take_over(self, added: AddedItems) -> None:
        with self._turn:
            generation = added.load()
            self._state = self._base if generation is None else self._grown(generation)

    def warm_up(self) -> None:
        """Answer once with every ranker, so that the first user does not pay for lazy initialisation."""
        for name in self.rankers:
            self.recommend([self.catalogue.items[0].item_id], model=name)
        if self.reader is not None:
            self.recommend([NewItem("warm-up")])

    def _lists(self, state: State) -> Lists:
        return Lists(state.catalogue, state.rows, self._names)

    def _known_model(self, model: str | None) -> str:
        name = model or self.default_model
        if name not in self.rankers:
            raise UnknownModel(f"There is no model {name!r}.", "model", f"Choose one of: {', '.join(self.rankers)}")
        return name

    def _reader(self) -> NewItemReader:
        if self.reader is None:
            raise NoTexts(
                "This bundle carries no text encoder: it knows items by their ids only.",
                str(self._folder),
                "Package it again with this version of prismrec: kedro run --pipelines packaging",
            )
        return self.reader

    def _vectors_of(self, items: Sequence[AddedItem]) -> np.ndarray:
        """[X, D] vectors of added items; those that the bundle has trained keep their behaviour."""
        known = [self._base.catalogue.rows.get(item.item_id) for item in items]
        with self._turn:  # recommendations read texts too
            vectors_XD: np.ndarray = self._reader().vectors([item.content for item in items], known).numpy()
        return vectors_XD

    def _grown(self, generation: Generation) -> State:
        """A state with all items of a generation."""
        import torch

        from prismrec.models.loading import build_rankers
        from prismrec.retrieval.narrowed import narrowed

        old = self._base  # not the state of the moment: its additions may have been removed
        assert old.rows is not None
        rows_X: list[int] = []
        changed: list[CatalogueItem] = []
        total = len(old.catalogue)
        for item in generation.items:
            row = old.catalogue.rows.get(item.item_id, total)
            total += row == total
            rows_X.append(row)
            changed.append(CatalogueItem(row, item.item_id, item.title, item.categories, True))
        rows = old.rows.grown(torch.tensor(rows_X), torch.from_numpy(generation.vectors_XD), MAX_TEXTS)
        catalogue = old.catalogue.with_items(changed, rows.counts_N[:total])
        rankers = narrowed(build_rankers(self._models, rows, self._folder), self._indexes, rows.changed_X)
        return State(catalogue, rankers, rows, generation.number, generation.mark)

    def _past(self, state: State, question: Question) -> Past:
        """The history in rows; texts get theirs."""
        history, timestamps, events = question.history, question.timestamps, question.events
        known = state.catalogue.rows
        counted = self._counted_events if events else None
        others = dict.fromkeys(item for item in history if item not in known)
        guests = self._put_guests(state, [item for item in others if not isinstance(item, str)])
        unknown = [item for item in others if isinstance(item, str)]
        row_of: Any = ChainMap(known, guests) if guests else known  # by ids and texts
        rows = np.array([row_of.get(item, -1) for item in history], np.int64)
        kept_H = rows >= 0
        seen = rows[kept_H]
        if counted:
            kept_H &= np.array([kind in counted for kind in events], dtype=bool)
        times_H = np.array(timestamps, dtype=np.int64)[kept_H] if timestamps and self.timed else None
        return Past(rows[kept_H], times_H, seen, unknown, {row: item.title for item, row in guests.items()})

    def _put_guests(self, state: State, guests: Sequence[NewItem]) -> dict[NewItem, int]:
        """Write items that came as texts into the spare rows, and return the row of each."""
        if not guests:
            return {}
        import torch

        reader = self._reader()
        assert state.rows is not None
        if len(guests) > state.rows.guests:
            raise UserError(f"The history has {len(guests):,} different items as texts.", "history", MANY_TEXTS)
        hits, misses = reader.hits, reader.misses
        rows = range(state.rows.first_guest, state.rows.first_guest + len(guests))
        state.rows.put(torch.tensor(rows), reader.vectors(guests, [None] * len(guests)))
        self.meter.cache("texts", reader.hits - hits, reader.misses - misses)
        return dict(zip(guests, rows, strict=True))

    def _rank(
        self, state: State, name: str, questions: Sequence[Question], pasts: Sequence[Past]
    ) -> tuple[list[InterestRanking], str | None]:
        """The ranker's answers, and what is to be said of dials (`Knobs`) that it does not have."""
        ranker: Any = state.rankers[name]
        dials, note = questions[0].dials, None
        if dials and hasattr(ranker, "with_knobs"):
            from prismrec.models.posterior import Knobs

            ranker = ranker.with_knobs(Knobs(**dials))
        elif dials:
            note = f"The model {name} has no {' or '.join(dials)} dial."
        rankings: dict[int, InterestRanking] = {}
        warm = []
        for place, (question, past) in enumerate(zip(questions, pasts, strict=True)):
            if past.cold:
                rankings[place] = state.rankers[POPULARITY].rank(past.rows_H, None, question.num_interests)
            elif question.memory is not None and not dials and hasattr(ranker, "keep"):
                rankings[place] = self._rank_kept(state, name, question, past, question.memory)
            else:
                warm.append(place)
        if warm:
            rankings |= zip(warm, _ranked(ranker, [(questions[p], pasts[p]) for p in warm]), strict=True)
        return [rankings[place] for place in range(len(questions))], note

    def _rank_kept(self, state: State, name: str, question: Question, past: Past, memory: Memory) -> InterestRanking:
        """The ranking by the user's strongest interests: those remembered, or new ones, which then are."""
        import torch
        from safetensors.torch import load, save

        from prismrec.models.gemirec import GemiRecRanker, KeptInterests
        from prismrec.models.rankers import one_history, strongest_ranking

        ranker = state.rankers[name]
        assert isinstance(ranker, GemiRecRanker)
        with torch.inference_mode():
            events = one_history(past.rows_H, past.times_H, question.now)
            # The time of the request enters as the bucket of the time since the last event, and as nothing else.
            parts = (KEPT_FORMAT, ranker.dictionary, self.bundle, state.mark, name, int(events.until_E[-1]))
            key = "/".join(map(str, parts))
            found = memory.recall(key)
            self.meter.cache("interests", int(found is not None), int(found is None))
            kept = KeptInterests(**load(found)) if found else ranker.keep(events, KEPT_INTERESTS)
            if found is None:
                memory.remember(key, save(kept._asdict()))
            shown = question.num_interests or ranker.shown_interests() or KEPT_INTERESTS
            return strongest_ranking(*ranker.kept_interests(kept), shown)


def _ranked(ranker: ServedRanker, asked: Sequence[tuple[Question, Past]]) -> list[InterestRanking]:
    """Rankings of several users by one pass."""
    from prismrec.models.events import EventTable
    from prismrec.models.rankers import one_history

    events = EventTable.joined([one_history(past.rows_H, past.times_H, question.now) for question, past in asked])
    return ranker.rank_all(events, [question.num_interests for question, _ in asked])


def _cold_note(history: Sequence[str | NewItem], past: Past) -> str:
    """Why the answer is what is popular."""
    if not history:
        return EMPTY_NOTE
    return UNCOUNTED_NOTE if len(past.seen) else UNKNOWN_NOTE
