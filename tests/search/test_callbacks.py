"""Trackers with their real libraries, the list of searches, and the dashboard's mirror."""

from __future__ import annotations

import json
import struct
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from table_study import InlineExecutor, TableEvaluator, make_study

from archspec.errors import SpecError
from search import callbacks
from search.dashboard import make_dashboard, memory_mirror
from search.driver import Event, Listener, ignore, search
from search.front import Row, SearchResult
from search.listing import list_searches


def run(out: Path, *trackers: callbacks.Tracker, listen: Listener = ignore) -> SearchResult:
    with callbacks.heard_by(trackers, listen) as hear:
        return search(
            make_study(trials=4),
            TableEvaluator(),
            out,
            make_executor=lambda folder: InlineExecutor(),
            listen=hear,
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


def test_mlflow_takes_the_names_of_genes() -> None:
    from mlflow.utils.validation import _validate_param_name

    from search.callbacks.mlflow import _key

    assert (
        _key("gene.layers[0].token_mixer[attention].n_heads") == "gene.layers.0.token_mixer.attention.n_heads"
    )
    for name in ("gene.layers[0]", "gene.a=b"):
        _validate_param_name(_key(name))


def test_wandb_offline_holds_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_API_KEY": ""}.items():
        monkeypatch.setenv(name, value)
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    result = run(tmp_path, *callbacks.open_trackers(["wandb"], tmp_path, "table"))
    import wandb

    wandb.teardown()  # its service has written everything once it has ended
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert wandb_history(written) == {
        row.trial: pytest.approx(row.objectives["score"]) for row in result.trained
    }


def wandb_history(path: Path) -> dict[int, float]:
    """Trial -> score, read from the file of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for data in wandb_records(path.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("history"):
            items = {".".join(item.nested_key) or item.key: item for item in record.history.item}
            step = {name: json.loads(item.value_json) for name, item in items.items()}
            found[int(step["trial"])] = step["objective.score"]
    return found


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a run's file, which is a log as LevelDB writes it behind seven bytes of a header."""
    block, head = 1 << 15, struct.Struct("<IHB")  # a checksum, the length, and which part of a record it is
    whole, first, middle, last = 1, 2, 3, 4
    at, parts = 7, b""
    while at + head.size <= len(content):
        if block - at % block < head.size:  # too small for a head: filled with zeros
            at += block - at % block
            continue
        _, length, part = head.unpack_from(content, at)
        at += head.size
        assert part in (whole, first, middle, last)
        parts = (b"" if part in (whole, first) else parts) + content[at : at + length]
        at += length
        if part in (whole, last):
            yield parts


class Told(callbacks.Tracker):
    """Counts what it is told; ``breaks`` names the methods that fail."""

    kind = "told"

    def __init__(self, *, breaks: tuple[str, ...] = ()) -> None:
        self.breaks = breaks
        self.n_trials = self.n_closed = 0

    def trial(self, row: Row, result: SearchResult) -> None:
        self.n_trials += 1
        if "trial" in self.breaks:
            raise OSError("no room")

    def close(self) -> None:
        self.n_closed += 1
        if "close" in self.breaks:
            raise OSError("no room")


@pytest.mark.parametrize("breaks", ["trial", "close"])
def test_a_tracker_that_fails_warns_once_and_the_search_goes_on(breaks: str, tmp_path: Path) -> None:
    heard: list[Event] = []
    broken, other = Told(breaks=(breaks,)), Told()
    assert run(tmp_path, broken, other, listen=heard.append).complete
    (warning,) = (event.text for event in heard if event.kind == "warning")
    assert warning == "--log told failed and is told no more: OSError: no room"
    assert (broken.n_trials, broken.n_closed) == {"trial": (1, 0), "close": (other.n_trials, 1)}[breaks]
    assert other.n_closed == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SpecError])
def test_trackers_are_closed_where_a_search_is_interrupted_or_fails(
    error: type[BaseException], tmp_path: Path
) -> None:
    told = Told()

    def stop(event: Event) -> None:
        if told.n_trials == 2:
            raise error("stop")

    with pytest.raises(error, match="stop"):
        run(tmp_path, told, listen=stop)
    assert (told.n_trials, told.n_closed) == (2, 1)


def test_a_tracker_that_cannot_be_opened_is_one_message_and_the_others_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.callbacks.tensorboard import TensorBoard

    closed: list[str] = []
    monkeypatch.setattr(TensorBoard, "close", lambda self: closed.append(self.kind))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://here")
    with pytest.raises(SpecError, match="--log mlflow cannot be opened: "):
        callbacks.open_trackers(["tensorboard", "mlflow"], tmp_path, "table")
    assert closed == ["tensorboard"]


def test_an_unknown_tracker_is_told_with_what_was_meant(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown tracker 'mlfow'"):
        callbacks.open_trackers(["mlfow"], tmp_path, "table")


def test_searches_are_listed(tmp_path: Path) -> None:
    result = run(tmp_path / "one")
    (entry,) = list_searches(tmp_path)
    assert (entry.study, entry.state, entry.trained) == ("table", "complete", len(result.trained))
    assert entry.best == result.front[0].objectives["score"]


@pytest.mark.filterwarnings("error")
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
