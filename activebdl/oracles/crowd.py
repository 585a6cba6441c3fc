"""Several oracles for each item, and one label out of what they say.

    oracle = Crowd([alice, bob, carol])                       # the majority
    oracle = Crowd([alice, bob, carol], "dawid_skene")        # who is good at what is learned from all votes
    oracle = Crowd([alice, bob, carol, dan], votes=2)         # two of the four see each item

What a member says is a vote, in the journal as soon as it comes; the answer is the consensus, and costs nothing more.
"""

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from activebdl.annotations import ABSTAIN, Annotation, Label, as_float, standing
from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError, Waiting, is_ours, told
from activebdl.oracles import Oracle, Request, oracle, sort_annotations
from activebdl.oracles._consensus import check_installed, dawid_skene, majority
from activebdl.oracles.dataset import true_labels
from activebdl.oracles.function import FunctionOracle
from activebdl.oracles.noisy import (
    Matrix,
    SimulatedAnnotator,
    class_answers,
    costs,
    draw_confusions,
    per_class,
    read_confusion,
)
from activebdl.progress import together
from activebdl.randomness import uniforms

Consensus = Literal["majority", "dawid_skene"]


class Crowd:
    """Asks several oracles for each item, and answers with their consensus.

    A member's answers are written as votes, by "member" or, where the member names someone else, "member/someone";
    each such name is one annotator for Dawid and Skene. After a stop, nobody is asked again for what they voted on.
    Those who abstain do not count; where all do, the crowd abstains.

    With "majority" an item is answered as soon as its votes are there; classes that are level are drawn from. With
    "dawid_skene" a request is answered when all its votes are there, from all votes of the run, and items of earlier
    requests for which the consensus is another now are answered again; so are they with either after a vote was taken
    back or the run was resumed with the other consensus. A label that someone else gave, such as a correction by hand,
    is never answered again, and teaches how good the members are.

    Args:
        members: Oracles or plain functions; by name, or in a list, where they go by their own or by "member-1", ...
        consensus: "majority" or "dawid_skene"; see `activebdl.oracles._consensus` for what the second does with few
            votes.
        votes: How many members see each item; which, depends on the item's id alone. None for all.

    Raises:
        UserError: No members, or names that do not tell them apart, or crowd-kit is not there for Dawid and Skene.
    """

    def __init__(
        self,
        members: Mapping[str, object] | Sequence[object],
        consensus: Consensus = "majority",
        votes: int | None = None,
    ) -> None:
        if consensus not in get_args(Consensus):
            raise UserError(f"The consensus of a crowd is {' or '.join(get_args(Consensus))}, not {consensus!r}.")
        if consensus == "dawid_skene":
            check_installed()
        self.members = _named(members)
        self.consensus: Consensus = consensus
        self.votes = len(self.members) if votes is None else votes
        if not 1 <= self.votes <= len(self.members):
            raise UserError(f"Of {len(self.members)} members 1 to all can vote on an item, not {votes}.")
        self.shows_predictions = bool(self._having("shows_predictions"))
        # A budget in cost needs the price of every member, and is told that there is none where one has none.
        self.price = self._price if len(self._having("price")) == len(self.members) else None
        watching = self._having("progress")
        self.progress = together(*(partial(self._call, name, "progress") for name in watching)) if watching else None
        self._requests: dict[str, Request] = {}
        self._tickets: dict[tuple[str, str], str] = {}
        self._asked: set[int] = set()
        self._waited_for: set[int] = set()  # items of the last request
        self._votes: dict[int, dict[str, Label]] = {}  # by item and annotator
        self._taken_back: set[int] = set()  # items of which a vote was
        self._given: dict[int, Annotation] = {}  # the consensus that was answered, by whatever name of one
        self._known: dict[int, Label] = {}  # corrections, and what someone else answered
        self._lock = threading.RLock()  # a member may record from another thread

    def submit(self, request: Request) -> str:
        """Takes the request; the members get theirs at the first look, so that what one says is kept if another fails.

        Raises:
            UserError: Labels are numbers.
        """
        if not request.classes:
            raise UserError("A crowd finds the consensus on classes, and the labels here are numbers.")
        with self._lock:
            for annotation in request.history:
                self._learn(annotation)
            others = standing(said for said in request.history if said.annotator not in get_args(Consensus))
            self._known = {id: said.label for id, said in others.items()}
            for id in request.ids:  # whatever was said of them, they have no answer now
                self._given.pop(id, None)
            self._asked.update(request.ids)
            self._waited_for = set(request.ids)
        self._requests[request.key] = request
        self._tickets = {key: ticket for key, ticket in self._tickets.items() if key[0] != request.key}
        return request.key

    def poll(self, ticket: str) -> Sequence[Annotation]:
        """The answers that are new, after a look at every member whose votes are missing.

        Raises:
            Waiting: All votes that are missing come later.
            UserError: A member failed; what was said before is in the journal.
        """
        request = self._requests[ticket]
        later: Waiting | None = None
        busy = False  # whether some member is at it now
        for name in self.members:
            missing = self._missing(name, request)
            if missing:
                try:
                    self._keep(name, request, self._look(name, request, missing))
                    busy = busy or bool(self._missing(name, request))
                except Waiting as waiting:
                    later = waiting
        answers = self._answers(request)
        if later is not None and not busy and not answers:
            raise later
        return answers

    def told(self, round: Any) -> None:
        """Tells those members who listen."""
        for name in self._having("told"):
            self._call(name, "told", round)

    def close(self) -> None:
        """Closes those members that can be closed, the others also where one cannot."""
        with ExitStack() as stack:
            for name in self._having("close"):
                stack.callback(self._call, name, "close")

    def voters(self, id: int) -> list[str]:
        """The members that see an item, as many as ``votes``."""
        if self.votes == len(self.members):
            return list(self.members)
        return sorted(self.members, key=lambda name: uniforms(0, f"turn of {name}", id, 1))[: self.votes]

    def _price(self, ids: Sequence[int]) -> Sequence[float]:
        shares: dict[str, list[int]] = {name: [] for name in self.members}
        for id in ids:
            for name in self.voters(id):
                shares[name].append(id)
        total = dict.fromkeys(ids, 0.0)
        for name, share in shares.items():
            found = self._call(name, "price", share)
            prices = [as_float(price) for price in found] if isinstance(found, Iterable) else []  # pyright: ignore
            if len(prices) != len(share) or not all(price is not None and 0 <= price < math.inf for price in prices):
                raise UserError(
                    f"The crowd's member '{name}' must give, as price(ids), one number for each id, 0 or more."
                )
            for id, price in zip(share, cast(list[float], prices), strict=True):
                total[id] += price
        return [total[id] for id in ids]

    def _having(self, what: str) -> list[str]:
        """Names of the members that have it."""
        return [name for name, member in self.members.items() if getattr(member, what, None)]

    def _call(self, name: str, verb: str, *arguments: object) -> Any:
        """Calls a member; what its own code raises is told in one sentence."""
        member = self.members[name]
        try:
            return getattr(member, verb)(*arguments)
        except (UserError, Waiting):
            raise
        except Exception as error:
            if is_ours(type(member)):
                raise
            raise UserError(
                f"The crowd's member '{name}' failed in {verb}: {told(error)}; what was answered before is kept. "
                "Mend it and resume."
            ) from error

    def _missing(self, name: str, request: Request) -> list[int]:
        """What this member is still to vote on."""
        with self._lock:
            return [
                id
                for id in request.ids
                if name in self.voters(id) and name not in map(_member, self._votes.get(id, ()))
            ]

    def _look(self, name: str, request: Request, missing: list[int]) -> object:
        """What a member has said by now; it is asked at the first look."""
        if (request.key, name) not in self._tickets:
            self._tickets[request.key, name] = self._call(name, "submit", self._part(name, request, missing))
        return self._call(name, "poll", self._tickets[request.key, name])

    def _part(self, name: str, request: Request, ids: list[int]) -> Request:
        """The request as one member gets it: its items, and its own answers so far."""
        places = [request.ids.index(id) for id in ids]
        shown = request.predictions is not None and getattr(self.members[name], "shows_predictions", False)
        votes = (said for said in request.history if said.role in ("vote", "withdrawn"))
        return replace(
            request,
            key=f"{request.key}-{name}",
            ids=tuple(ids),
            items=request.items[torch.tensor(places)],
            scores=tuple(request.scores[place] for place in places) if request.scores else (),
            predictions=cast(Any, request.predictions)[places] if shown else None,
            history=tuple(
                replace(
                    said,
                    annotator=said.annotator.partition("/")[2] or name,
                    role="answer" if said.role == "vote" else said.role,
                )
                for said in votes
                if _member(said.annotator) == name
            ),
            record=partial(self._keep, name, request),
        )

    def _keep(self, name: str, request: Request, found: object) -> None:
        """Writes a member's answers as votes, and learns them when they are written."""
        good, mistake = sort_annotations(found, self._asked, request.target)
        with self._lock:
            for said in good:
                who = name if said.annotator == name else f"{name}/{said.annotator}"
                if said.role == "withdrawn":
                    news = [replace(said, annotator=who)]
                    if said.id in self._given and self._is_open(said.id):  # it waits for another consensus
                        news.append(_withdrawn(self._given[said.id]))
                    known = who not in self._votes.get(said.id, {})
                else:
                    news = [replace(said, annotator=who, role="vote")]
                    known = self._votes.get(said.id, {}).get(who, "nothing") == said.label
                if not known:
                    request.record(news)
                    for annotation in news:
                        self._learn(annotation)
        if mistake:
            raise UserError(f"Of the crowd's member '{name}': {mistake}")

    def _learn(self, said: Annotation) -> None:
        """What is known after an annotation, new or of the history."""
        self._asked.add(said.id)
        voter = _member(said.annotator) in self.members
        if said.role == "vote":
            if voter:
                self._votes.setdefault(said.id, {})[said.annotator] = said.label
        elif said.annotator in get_args(Consensus):  # of this run, or before it was resumed with another
            if said.role == "answer":
                self._given[said.id] = said
            elif said.id in self._given and self._given[said.id].annotator == said.annotator:
                del self._given[said.id]
        elif said.role == "withdrawn" and voter:
            self._votes.get(said.id, {}).pop(said.annotator, None)
            self._taken_back.add(said.id)

    def _is_open(self, id: int) -> bool:
        """Whether the run still waits for the request of an item; one that it has taken would be set aside."""
        return id in self._waited_for and not self._waited_for <= self._given.keys()

    def _answers(self, request: Request) -> list[Annotation]:
        """What can be answered by now and has not been, and what is answered anew."""
        with self._lock:
            waiting = {id for name in self.members for id in self._missing(name, request)}
            ready = [id for id in request.ids if id not in waiting and id not in self._given]
            if not ready or (waiting and self.consensus == "dawid_skene"):
                return []
            labels = self._consensus(len(request.classes))
            news = [Annotation(id, labels.get(id, ABSTAIN), self.consensus) for id in ready]
            if not waiting:
                for id in sorted(self._given):
                    news += self._again(id, labels.get(id))
            for annotation in news:
                self._learn(annotation)
            return news

    def _again(self, id: int, label: Label) -> list[Annotation]:
        """What is to be said of an item that was answered; nothing of one set aside, or that someone else labelled."""
        before = self._given[id]
        if id in self._known or before.label is None or label == before.label:
            return []
        if label is None:  # nobody voted for anything: because those who did took it back, or under other names
            return [_withdrawn(before)] if id in self._taken_back else []
        news = [Annotation(id, label, self.consensus)]
        return news if before.annotator == self.consensus else [_withdrawn(before), *news]

    def _consensus(self, n_classes: int) -> dict[int, int]:
        votes = {
            id: {who: int(label) for who, label in said.items() if label is not None}
            for id, said in self._votes.items()
        }
        if self.consensus == "majority":
            return majority(votes)
        return dawid_skene(votes, n_classes, {id: int(x) for id, x in self._known.items() if x is not None})


@oracle("crowd")
def crowd(
    dataset: ActiveDataset,
    *,
    annotators: int = 5,
    accuracy: float | tuple[float, float] = (0.7, 0.9),
    confusions: list[Matrix | str | Path] | None = None,
    consensus: Consensus = "dawid_skene",
    votes: int | None = None,
    abstain: float | list[float] = 0.0,
    cost: float | list[float] | None = None,
    seed: int = 0,
) -> Oracle:
    """Simulated annotators, each with mistakes of their own.

    Args:
        dataset: It must have labels, of classes.
        annotators: How many, "annotator-1" and on.
        accuracy: The first one's mean probability, over the classes, to be right, and the last one's; the others' are
            evenly between. One number is everybody's. Each annotator's differs by class, between half and one and a
            half times as many errors, and the errors on a class go to few others (shares from a Dirichlet distribution
            of concentration .3), so that there is something to learn of everyone.
        confusions: In place of both, a confusion matrix for each annotator, or its CSV file; see `noisy`.
        consensus: "dawid_skene" or "majority".
        votes: How many of them see each item; None for all.
        abstain: The probability of no vote, for all classes or for each.
        cost: Of one vote, for all classes or for each; None takes the data set's costs.
        seed: The run's.

    Raises:
        UserError: No labels, or an option that cannot be.
    """
    labels = true_labels(dataset)
    n_classes = len(dataset.classes)
    if not n_classes:
        raise UserError("A crowd finds the consensus on classes, and the labels here are numbers.")
    if confusions is None:
        matrices = draw_confusions(annotators, n_classes, accuracy, seed)
    else:
        matrices = [read_confusion(given, n_classes) for given in confusions]
    silence = per_class(abstain, n_classes, "abstain", highest=1.0)
    cost_of, price_of = costs(dataset, labels, cost)
    members: dict[str, object] = {}
    for number, matrix in enumerate(matrices, 1):
        name = f"annotator-{number}"
        answer: Callable[[int], Label] = class_answers(labels, matrix, silence, name, seed)
        members[name] = SimulatedAnnotator(name, answer, cost_of, price_of)
    return Crowd(members, consensus, votes)


def _withdrawn(said: Annotation) -> Annotation:
    return Annotation(said.id, None, said.annotator, role="withdrawn")


def _member(annotator: str) -> str:
    return annotator.partition("/")[0]


def _named(members: Mapping[str, object] | Sequence[object]) -> dict[str, Oracle]:
    """The members by name, functions as oracles."""
    if isinstance(members, Mapping):
        pairs = list(members.items())
    else:
        pairs = [(_name(member, place), member) for place, member in enumerate(members, 1)]
    if not pairs:
        raise UserError("A crowd has at least one member.")
    named: dict[str, Oracle] = {}
    for name, member in pairs:
        if isinstance(member, Crowd):
            raise UserError("A crowd cannot be the member of a crowd; make its members this one's.")
        if not name or "/" in name or name in get_args(Consensus) or name in named:
            raise UserError(
                f"A crowd's members need names of their own, without '/', and '{name}' is none; give them by name, as "
                "Crowd({'alice': ..., 'bob': ...})."
            )
        waits = callable(getattr(member, "submit", None)) and callable(getattr(member, "poll", None))
        if not waits and not callable(member):
            raise UserError(f"A crowd's members are oracles or functions; {type(member).__name__} is neither.")
        named[name] = cast(Oracle, member) if waits else FunctionOracle(cast(Callable[..., Any], member), name)
    return named


def _name(member: object, place: int) -> str:
    own = getattr(member, "name", None) or getattr(member, "__name__", None)
    return own if isinstance(own, str) and own.isidentifier() else f"member-{place}"
