"""Trackers with their real libraries, the list of searches, and the dashboard's mirror."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from threading import Thread

import pytest
from table_study import InlineExecutor, TableEvaluator, make_study

from archspec.errors import SpecError
from search import callbacks
from search.dashboard import make_dashboard, memory_mirror
from search.driver import ignore, search
from search.front import Row, SearchResult
from search.listing import list_searches


def run(out: Path, *trackers: callbacks.Tracker) -> SearchResult:
    return search(
        make_study(trials=4),
        TableEvaluator(),
        out,
        make_executor=lambda folder: InlineExecutor(),
        listen=callbacks.heard_by(trackers, ignore),
    )


def test_tensorboard_holds_every_trial(tmp_path: Path) -> None:
    result = run(tmp_path, *callbacks.open_trackers(["tensorboard"], tmp_path, "table"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("objective/score")}
    assert found == {row.trial: pytest.approx(row.objectives["score"]) for row in result.trained}
    assert len(events.Scalars("front/hypervolume")) == len(result.trained)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")
def test_mlflow_holds_every_trial(tmp_path: Path) -> None:
    result = run(tmp_path, *callbacks.open_trackers(["mlflow"], tmp_path, "table"))
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "table")
    runs = client.search_runs([experiment.experiment_id])
    found = {int(r.data.params["trial"]): r.data.metrics["objective.score"] for r in runs}
    assert found == {row.trial: pytest.approx(row.objectives["score"]) for row in result.trained}


class Broken(callbacks.Tracker):
    kind = "broken"

    def __init__(self) -> None:
        pass

    def trial(self, row: Row, result: SearchResult) -> None:
        raise OSError("no room")

    def close(self) -> None:
        raise AssertionError("it is told no more")


def test_a_tracker_that_fails_warns_once_and_the_search_goes_on(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="--log broken failed.*OSError: no room") as caught:
        assert run(tmp_path, Broken()).complete
    assert len(caught) == 1


def test_an_unknown_tracker_is_told_with_what_was_meant(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown tracker 'mlfow'"):
        callbacks.open_trackers(["mlfow"], tmp_path, "table")


def test_searches_are_listed(tmp_path: Path) -> None:
    result = run(tmp_path / "one")
    (entry,) = list_searches(tmp_path)
    assert (entry.study, entry.state, entry.trained) == ("table", "complete", len(result.trained))
    assert entry.best == result.front[0].objectives["score"]


def test_the_dashboard_serves_a_finished_folder(tmp_path: Path) -> None:
    result = run(tmp_path)
    storage = memory_mirror(result)
    (study,) = storage.get_all_studies()
    assert len(storage.get_all_trials(study._study_id)) == len(result.trained)
    with make_dashboard(tmp_path, None, port=0) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/api/studies"
        with urllib.request.urlopen(url, timeout=20) as reply:
            assert b"table" in reply.read()
        thread.join()
