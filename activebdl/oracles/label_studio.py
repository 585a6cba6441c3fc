"""People at a Label Studio server, over its REST interface.

    export LABEL_STUDIO_API_KEY=...
    activebdl run my-preset --oracle label_studio --set oracle.url=http://localhost:8080

The run makes a project of its own and asks for labels as tasks there. What people say is kept by that server until the
run takes it, so neither of the two has to be there all the time.
"""

import contextlib
import itertools
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from activebdl.annotations import Annotation, Label
from activebdl.data.dataset import ActiveDataset
from activebdl.errors import UserError
from activebdl.oracles import Oracle, oracle
from activebdl.oracles._contract import Request
from activebdl.oracles._images import is_image
from activebdl.oracles._label_studio_client import VARIABLE, Client, GoneError, UnreachableError
from activebdl.oracles._label_studio_tasks import (
    CONTROL,
    default_title,
    fits,
    labelling_configuration,
    make_tasks,
    person_of,
    read_label,
)

_log = logging.getLogger(__name__)

_OVERLAP = timedelta(seconds=60)  # changes that were begun before the last look, and came to the database after it
_FIELDS = "id,meta,updated_at,annotations,result,was_cancelled,completed_by,lead_time"  # the pictures stay there
_HIDDEN = (  # columns of the data manager that tell people nothing here
    "inner_id", "completed_at", "annotations_ids", "predictions_results", "predictions_model_versions", "file_upload",
    "storage_filename", "created_at", "updated_at", "updated_by", "avg_lead_time", "draft_exists", "data.request",
)  # fmt: skip


@oracle("label_studio")
def label_studio(
    dataset: ActiveDataset,
    *,
    url: str = "http://localhost:8080",
    project: str | None = None,
    folder: Path | None = None,
    timeout: float = 30.0,
    retries: int = 5,
    patience: float = 3600.0,
    cost: float = 0.0,
    prelabel: bool = False,
) -> Oracle:
    """People who label in Label Studio, in a project that is made when it is not there.

    The API token, of either kind, is taken from the environment variable LABEL_STUDIO_API_KEY.

    Args:
        dataset: What is to be labelled.
        url: Where the server is.
        project: The project's title, of 3 to 50 characters; by default the data set's name and that of the run's
            folder. A project with that title is used again, with the labels that people have given there.
        folder: Where the run is kept; its name tells the projects of several runs apart.
        timeout: Seconds that one answer of the server may take.
        retries: How often a request that fails on the way is sent again at once.
        patience: Seconds that the server may be away, once it was there, before the run ends.
        cost: What the answers to an item cost.
        prelabel: Whether a task is opened with the model's prediction chosen already. That is quicker, but people
            tend to leave it so. The data manager shows the prediction in either case.

    Raises:
        UserError: There is no token, no server, or the server does not take the token.
    """
    token = os.environ.get(VARIABLE, "").strip()
    if not token:
        raise UserError(
            f"Label Studio wants an API token: copy one from your account's page there, and set {VARIABLE} to it."
        )
    if timeout <= 0 or retries < 0 or patience < 0 or cost < 0:
        raise UserError("timeout is above 0, and retries, patience and cost are 0 or more.")
    client = Client(url, token, timeout=timeout, retries=retries)
    try:
        client.get("/api/current-user/whoami")
    except UnreachableError as error:
        raise UserError(f"No Label Studio answers at {client.url} ({error}); start it, or give its url.") from error
    title = default_title(dataset.name, folder) if project is None else project
    return LabelStudioOracle(
        client, dataset, title, longest_import=timeout, patience=patience, cost=cost, prelabel=prelabel
    )


class LabelStudioOracle:
    """Asks people at a Label Studio server.

    Of several annotations of one item, the last that was said or changed counts; a skip counts where nobody labelled
    the item. An annotation that is changed or deleted later becomes a revision. A task that is deleted is made again
    when the run is resumed, if its item waits for an answer.

    Args:
        client: The server.
        dataset: What is to be labelled.
        title: The project's.
        longest_import: Seconds after which tasks whose import was not answered are there, or never will be.
        patience: Seconds that the server may be away.
        cost: What the answers to an item cost.
        prelabel: Whether a task is opened with the model's prediction chosen already.
        clock: Tells the seconds.
    """

    shows_predictions = True

    def __init__(
        self,
        client: Client,
        dataset: ActiveDataset,
        title: str,
        *,
        longest_import: float = 30.0,
        patience: float = 3600.0,
        cost: float = 0.0,
        prelabel: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = title
        self._client, self._target = client, dataset.target
        image = is_image(dataset.pool[torch.tensor([0])][0])
        self._configuration = labelling_configuration(dataset.target, image=image)
        self._mark = {"dataset": dataset.name, "size": len(dataset.pool)}
        self._patience, self._cost, self._prelabel = patience, cost, prelabel
        self._longest_import, self._clock = longest_import, clock
        self._project: int | None = None
        self._request: Request | None = None
        self._tasks: dict[int, dict[int, list[Any]]] = {}  # annotations by item and task, as they were at the last look
        self._changed: set[int] = set()  # items whose tasks have changed since the last poll
        self._looked: datetime | None = None  # the latest change that was seen; None: everything is to be listed
        self._people: dict[int, str] = {}
        self._told: dict[int, dict[str, Annotation]] = {}  # what the run knows by item and annotator, the last one last
        self._paid: set[int] = set()  # items
        self._import_until = -math.inf  # on the clock; till then what was imported last may still come
        self._complained: set[tuple[int, str]] = set()
        self._away_since: float | None = None

    def price(self, ids: Sequence[int]) -> list[float]:
        """What all answers to each item together cost: later ones and revisions are free."""
        return [self._cost] * len(ids)

    def submit(self, request: Request) -> str:
        """Makes the tasks that are not there yet; where the server is away, `poll` does it later.

        Raises:
            UserError: The server refuses, or has been away for too long.
        """
        self._request = request
        self._told, self._paid = {id: {} for id in request.ids}, set()
        for annotation in request.history:
            self._learn(annotation)
        self._changed = set(self._told)
        self._reach()
        return request.key

    def poll(self, ticket: str) -> Sequence[Annotation]:
        """What people have said, changed or taken back since the last look, of this request's items and earlier ones.

        Raises:
            UserError: The server refuses, or has been away for too long.
        """
        if not self._reach():
            return []
        news = [annotation for id in sorted(self._changed & self._told.keys()) for annotation in self._news(id)]
        self._changed.clear()
        return news

    def close(self) -> None:
        """Lets go of the connections."""
        self._client.close()

    def _reach(self) -> bool:
        """Brings the server and what is known of it to the same state; False while the server is away.

        All of it can be done again, so that it does not matter where it was broken off.
        """
        try:
            if self._project is None:
                self._list_people()  # of those too whose annotations were deleted while the run was stopped
                self._project = self._find_project()
            if self._looked is None or self._missing():
                self._look()
            self._push()
            self._look()
        except UnreachableError as error:
            self._wait(error)
            return False
        except GoneError as error:
            raise UserError(
                f"Label Studio at {self._client.url} has no project '{self.title}' any more. Every label that the run "
                "has taken is kept; resume it, and the project is made again."
            ) from error
        if self._away_since is not None:
            _log.warning("Label Studio at %s answers again.", self._client.url)
        self._away_since = None
        return True

    def _wait(self, error: UnreachableError) -> None:
        """Says once that the server is away, and ends the run when it has been for too long."""
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
            _log.warning("Label Studio at %s does not answer (%s); the run waits for it.", self._client.url, error)
        elif now - self._away_since > self._patience:
            raise UserError(
                f"Label Studio at {self._client.url} has not answered for {self._patience:g} seconds ({error}). "
                "Every label so far is kept; when it is back, resume the run."
            ) from error

    def _find_project(self) -> int:
        """The project of that title; of two, as a slow server may make, that with tasks; made where there is none."""
        listed = self._client.pages("/api/projects", "results", title=self.title)  # those whose titles contain it
        found = [project for project in listed if project["title"] == self.title]
        found.sort(key=lambda project: (-(project.get("task_number") or 0), project["id"]))
        project = found[0] if found else self._make_project()
        if not fits(project, self._target):
            wanted = "the classes of this data set" if self._target.names else "a number"
            raise UserError(
                f"The project '{self.title}' of Label Studio does not ask for {wanted} by a control called "
                f"'{CONTROL}'; give another title as project."
            )
        return int(project["id"])

    def _make_project(self) -> dict[str, Any]:
        settings = {
            "title": self.title,
            "description": f"Labels for active learning on {self._mark['dataset']}. Skip what you cannot tell.",
            "label_config": self._configuration,
            "maximum_annotations": 1,
            "enable_empty_annotation": False,
            "show_collab_predictions": self._prelabel,
            "skip_queue": "IGNORE_SKIPPED",  # a skip is an answer: another item is asked for
        }
        project = self._client.post("/api/projects", settings)
        types = {"tasks:data.uncertainty": "Number", "tasks:data.score": "Number"}  # or they would be ordered as text
        hidden = {"explore": [f"tasks:{column}" for column in _HIDDEN], "labeling": []}
        order = ["-tasks:data.uncertainty"]
        view = {
            "title": "Most uncertain first", "ordering": order, "columnsDisplayType": types, "hiddenColumns": hidden
        }  # fmt: skip
        try:
            self._client.post("/api/dm/views", {"project": project["id"], "data": view})
        except UserError as error:  # the run can do without
            _log.info("Label Studio takes no tab for the data manager: %s", error)
        return project

    def _look(self) -> None:
        """Lists the tasks that have changed since the last look, or all."""
        where: dict[str, Any] = {"project": self._project, "fields": "all", "include": _FIELDS}
        if self._looked is not None:
            since = (self._looked - _OVERLAP).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            recent = {"filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime", "value": since}
            where["query"] = json.dumps({"filters": {"conjunction": "and", "items": [recent]}})
        latest = self._looked
        for task in self._client.pages("/api/tasks", "tasks", **where):
            updated = _when(task["updated_at"])
            latest = updated if latest is None else max(updated, latest)
            mark = dict((task.get("meta") or {}).get("activebdl") or {})
            id = mark.pop("id", None)
            if id is None:
                continue  # somebody's own task
            if mark != self._mark:
                raise UserError(
                    f"The project '{self.title}' of Label Studio is for another data set, {mark}, and not for "
                    f"{self._mark}; give another title as project."
                )
            known = self._tasks.setdefault(id, {})
            if known.get(task["id"]) != task["annotations"]:
                self._meet(task["annotations"])
                known[task["id"]] = task["annotations"]
                self._changed.add(id)
        self._looked = latest

    def _missing(self) -> list[int]:
        """Positions in the request of the items that have no task."""
        request = self._request
        return [] if request is None else [at for at, id in enumerate(request.ids) if id not in self._tasks]

    def _push(self) -> None:
        """Makes the tasks of the request that are not there yet, once it is certain that they will not come.

        An import whose answer is lost may be at work in the server still, and its tasks are not listed before it is
        done. So none is made till its time is over and all tasks have been listed again.
        """
        missing = self._missing()
        if self._request is None or not missing:
            self._import_until = -math.inf
            return
        if self._clock() < self._import_until:
            return
        if self._import_until > -math.inf:
            self._looked = None  # tasks bear the time at which they were begun, however late they come
            self._look()
            missing = self._missing()
        for batch in make_tasks(self._request, missing, self._mark):
            looked, self._looked = self._looked, None
            try:
                self._client.post(f"/api/projects/{self._project}/import", batch)
            except UnreachableError:
                self._import_until = self._clock() + self._longest_import
                raise
            self._looked = looked
            for task in batch:
                self._tasks.setdefault(task["meta"]["activebdl"]["id"], {})
        self._import_until = -math.inf

    def _list_people(self) -> None:
        with contextlib.suppress(UserError):  # who may not list people knows them by their numbers
            for user in self._client.get("/api/users"):  # a name stays, or one person would be two annotators
                self._people.setdefault(user["id"], user.get("email") or user.get("username") or f"user {user['id']}")

    def _meet(self, annotations: Sequence[dict[str, Any]]) -> None:
        """Learns who people are that were not seen before."""
        unknown = {person_of(annotation) for annotation in annotations} - self._people.keys()
        if unknown:
            self._list_people()
        for person in unknown:
            self._people.setdefault(person, f"user {person}")

    def _said(self, id: int) -> dict[str, tuple[Label, float]]:
        """What each annotator says of an item by now, and the seconds it took; who spoke last comes last."""
        spoken: list[tuple[datetime, str, Label, float]] = []
        for annotation in itertools.chain(*self._tasks.get(id, {}).values()):
            try:
                label = read_label(annotation, self._target)
            except UserError as error:
                if (key := (annotation["id"], annotation["updated_at"])) not in self._complained:
                    self._complained.add(key)
                    _log.warning("An annotation of item %d in Label Studio says %s; label it again.", id, error)
                continue
            seconds = annotation.get("lead_time") or 0.0
            spoken.append((_when(annotation["updated_at"]), self._people[person_of(annotation)], label, seconds))
        labelled = [words for words in spoken if words[2] is not None]
        said: dict[str, tuple[Label, float]] = {}
        for _, annotator, label, seconds in sorted(labelled or spoken, key=lambda words: words[0]):
            said.pop(annotator, None)
            said[annotator] = (label, seconds)
        return said

    def _news(self, id: int) -> list[Annotation]:
        """What to tell of an item, so that the run goes by what was said last among all that is said now."""
        said, told, people = self._said(id), self._told[id], set(self._people.values())
        # Not what somebody corrected elsewhere: that is no business of the server's.
        known = {name: told[name].label for name in told if name in people and told[name].role == "answer"}
        gone = [name for name in known if name not in said]
        changed = [name for name in said if name not in known or known[name] != said[name][0]]
        news = [Annotation(id, None, name, role="withdrawn") for name in gone]
        standing = [name for name in known if name not in gone and name not in changed] + changed
        if said and standing[-1] != (last := [*said][-1]):  # it was told before what another says: it is told again
            news.append(Annotation(id, None, last, role="withdrawn"))
            changed.append(last)
        cost = 0.0 if id in self._paid else self._cost
        for name in changed:
            label, seconds = said[name]
            news.append(Annotation(id, label, name, cost, seconds))
            cost = 0.0
        for annotation in news:
            self._learn(annotation)
        return news

    def _learn(self, annotation: Annotation) -> None:
        """Keeps what the run knows."""
        if annotation.cost > 0:
            self._paid.add(annotation.id)
        if numbered := re.fullmatch(r"user (\d+)", annotation.annotator):  # who was known by the number remains so
            self._people.setdefault(int(numbered[1]), annotation.annotator)
        told = self._told.setdefault(annotation.id, {})
        told.pop(annotation.annotator, None)
        told[annotation.annotator] = annotation


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
