"""The engine: a history in, interests with titled items out. It knows no web server.

A ranker (`prismrec.models.rankers`) scores the whole catalogue; the engine translates ids before, and has named lists
made of the scores after (`prismrec.serving.lists`). A history may bring items by their text: they get spare rows
of the rankers' tables (`prismrec.models.item_rows`) for this one answer. Items that are added for good come in
generations (`prismrec.serving.added_items`): the engine then builds rankers over grown tables and swaps everything at
once, so that an answer rests on one state from its first line to its last.

Notable, all our choices:
- Unknown ids are ignored and reported. A history of which nothing is known gets popular items, every fifth of them one
  that was added lately, and a note that says so.
- One recommendation at a time: it fills a core, and guests' rows are shared. No kedro, no polars.

Shapes: N rows of the tables, H items of a history, X added items, D item dimension.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from prismrec.artifacts.bundle import MEND, POPULARITY, CatalogueItem, Versions, read_bundle
from prismrec.errors import UserError
from prismrec.models.item_text import NewItem
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

MAX_TEXTS = 100  # different items that a history may bring by their text
MANY_TEXTS = f"At most {MAX_TEXTS} are allowed; give ids, or add the items first: POST /items."
KEPT_FORMAT = 1  # of what is kept of a user; another one is not read
KEPT_INTERESTS = 16  # of a user between requests: as many as a request may ask for
EMPTY_NOTE = "The history is empty: these are the most popular items."
UNKNOWN_NOTE = "The catalogue knows no item of the history: these are the most popular items."
UNCOUNTED_NOTE = "No event of the history is of a kind that counts: these are the most popular items."
NEW_NOTE = " Each fifth one is new."
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
    seen: list[int]  # rows of all items of the history, of whatever kinds the events are
    unknown: list[str]
    titles: dict[int, str]  # of the rows of items that came as texts


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
    ) -> None:
        for needed in (POPULARITY, default_model):
            if needed not in rankers:
                raise UserError(f"This bundle has no model {needed!r}.", ", ".join(rankers) or "no models", MEND)
        self.versions, self.bundle, self.default_model = versions, bundle, default_model
        self.meter = meter or Meter()
        self.reader: NewItemReader | None = None
        self.added: AddedItems | None = None
        self._counted_events = frozenset(counted_events)
        counts_N = np.zeros(len(items)) if rows is None else rows.counts_N[: len(items)]
        self._base = State(Catalogue(items, counts_N, len(items)), rankers, rows)  # without additions
        self._state = self._base
        self._refused: str | None = None  # mark of the additions that are damaged
        self._models: dict[str, Any] = {}
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
        from prismrec.models.loading import build_rankers, load_models
        from prismrec.models.new_items import NewItemReader

        bundle = read_bundle(folder)
        manifest = bundle.manifest
        models, reader = load_models(folder), NewItemReader.load(folder)
        no_rows, no_vectors = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        rows = ItemRows.load(folder).grown(no_rows, no_vectors, 0 if reader is None else MAX_TEXTS)
        engine = cls(
            bundle.items,
            build_rankers(models, rows, folder),
            manifest.default_model,
            manifest.versions,
            bundle.labels,
            bundle.version,
            manifest.events,
            meter,
            rows,
        )
        engine._models, engine._folder, engine.reader = models, folder, reader
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
        )

    def recommend(
        self,
        history: Sequence[str | NewItem],
        k: int = 10,
        num_interests: int | None = None,
        exclude_seen: bool = True,
        model: str | None = None,
        timestamps: Sequence[int] = (),
        now: int | None = None,
        events: Sequence[str] = (),
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        categories: Sequence[str] = (),
        diversity: float = 0.0,
        novelty: float = 0.0,
        temperature: float = 1.0,
        memory: Memory | None = None,
    ) -> Recommendation:
        """Recommend for a raw history.

        Args:
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

        Raises:
            UnknownModel: the bundle holds no such ranker.
            NoTexts: the history has texts, and the bundle carries no text encoder.
        """
        with self._turn:
            state, name, note = self._state, self._known_model(model), None
            past = self._past(state, history, timestamps, events)
            if cold := not len(past.rows_H):
                name, note = POPULARITY, _cold_note(history, past)
            with self._watch.rest("search"):
                dials = {"novelty": novelty} if novelty else {}
                dials |= {"temperature": temperature} if temperature != 1 else {}
                if memory is not None and not dials and hasattr(state.rankers[name], "keep"):
                    ranking, dial = self._rank_kept(state, name, past, num_interests, now, memory), None
                else:
                    ranking, dial = self._rank(state, name, past, num_interests, now, dials)
            if cold and len(state.catalogue) > state.catalogue.from_bundle:
                ranking = with_newcomers(ranking, state.catalogue)
            with self._watch.rest("merge"):
                lists = self._lists(state)
                hidden_N = lists.hidden(len(ranking.scores_N), allow, deny, categories)
                if exclude_seen:
                    hidden_N[past.seen] = True
                items = lists.merged(ranking, hidden_N, k, diversity)
                if cold and any(state.catalogue.is_added(item.item_id) for item in items):
                    note = f"{note}{NEW_NOTE}"
                answer = Recommendation(
                    interests=lists.interests(ranking, hidden_N, k, past.rows_H.tolist(), past.titles),
                    items=items,
                    unknown_items=past.unknown,
                    model=name,
                    versions=self.versions,
                    note=" ".join(filter(None, (note, None if cold else dial))) or None,
                )
            for step, seconds in self._watch.take().items():
                self.meter.step(step, seconds)
        self.meter.answer(cold)
        return answer

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
        return State(
            catalogue, build_rankers(self._models, rows, self._folder), rows, generation.number, generation.mark
        )

    def _past(
        self, state: State, history: Sequence[str | NewItem], timestamps: Sequence[int], events: Sequence[str]
    ) -> Past:
        """The history in rows; texts get theirs."""
        known = state.catalogue.rows
        counted = self._counted_events if events else None
        kept = [place for place in range(len(history)) if not counted or events[place] in counted]
        unknown = dict.fromkeys(item for item in history if isinstance(item, str) and item not in known)
        guests = self._put_guests(state, dict.fromkeys(item for item in history if not isinstance(item, str)))
        every = [known.get(item) if isinstance(item, str) else guests[item] for item in history]
        rows = [every[place] for place in kept]
        titles = {row: item.title for item, row in guests.items()}
        times_H = None
        if timestamps:
            times = [timestamps[place] for place, row in zip(kept, rows, strict=True) if row is not None]
            times_H = np.array(times, dtype=np.int64)
        counting = np.array([row for row in rows if row is not None], np.int64)
        return Past(counting, times_H, [row for row in every if row is not None], list(unknown), titles)

    def _put_guests(self, state: State, guests: Iterable[NewItem]) -> dict[NewItem, int]:
        """Write items that came as texts into the spare rows, and return the row of each."""
        if not (items := list(guests)):
            return {}
        import torch

        reader = self._reader()
        assert state.rows is not None
        if len(items) > state.rows.guests:
            raise UserError(f"The history has {len(items):,} different items as texts.", "history", MANY_TEXTS)
        hits, misses = reader.hits, reader.misses
        rows = range(state.rows.first_guest, state.rows.first_guest + len(items))
        state.rows.put(torch.tensor(rows), reader.vectors(items, [None] * len(items)))
        self.meter.cache("texts", reader.hits - hits, reader.misses - misses)
        return dict(zip(items, rows, strict=True))

    def _rank(
        self,
        state: State,
        name: str,
        past: Past,
        num_interests: int | None,
        now: int | None,
        dials: Mapping[str, float],
    ) -> tuple[InterestRanking, str | None]:
        """The ranker's answer, and what is to be said of dials (`Knobs`) that it does not have."""
        ranker: Any = state.rankers[name]
        note = None
        if dials and hasattr(ranker, "with_knobs"):
            from prismrec.models.posterior import Knobs

            ranker = ranker.with_knobs(Knobs(**dials))
        elif dials:
            note = f"The model {name} has no {' or '.join(dials)} dial."
        return ranker.rank(past.rows_H, past.times_H, num_interests, now), note

    def _rank_kept(
        self, state: State, name: str, past: Past, num_interests: int | None, now: int | None, memory: Memory
    ) -> InterestRanking:
        """The ranking by the user's strongest interests: those remembered, or new ones, which then are."""
        import torch
        from safetensors.torch import load, save

        from prismrec.models.gemirec import GemiRecRanker, KeptInterests
        from prismrec.models.rankers import one_history, strongest_ranking

        ranker = state.rankers[name]
        assert isinstance(ranker, GemiRecRanker)
        with torch.inference_mode():
            events = one_history(past.rows_H, past.times_H, now)
            # The time of the request enters as the bucket of the time since the last event, and as nothing else.
            parts = (KEPT_FORMAT, ranker.dictionary, self.bundle, state.mark, name, int(events.until_E[-1]))
            key = "/".join(map(str, parts))
            found = memory.recall(key)
            self.meter.cache("interests", int(found is not None), int(found is None))
            kept = KeptInterests(**load(found)) if found else ranker.keep(events, KEPT_INTERESTS)
            if found is None:
                memory.remember(key, save(kept._asdict()))
            shown = num_interests or ranker.shown_interests() or KEPT_INTERESTS
            return strongest_ranking(*ranker.kept_interests(kept), shown)


def _cold_note(history: Sequence[str | NewItem], past: Past) -> str:
    """Why the answer is what is popular."""
    if not history:
        return EMPTY_NOTE
    return UNCOUNTED_NOTE if past.seen else UNKNOWN_NOTE
