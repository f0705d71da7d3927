"""What processes note is read back as the operations that the checker needs."""

import os
import signal
import subprocess
import sys
import time

from tests.torture.checker import Operation
from tests.torture.history import Recorder, load


def noted(folder, act):
    recorder = Recorder(folder / "w0.history")
    act(recorder)
    recorder.close()
    return load(folder, 3.0)


def test_batches_count_key_by_key(tmp_path):
    """Each key of a batch is an operation of its own, with the batch's interval; absent keys were read as None."""

    def act(recorder):
        recorder.end(recorder.begin("write_many", {"a": "1", "b": "2"}), "ok")
        recorder.end(recorder.begin("read_many", {"a": None, "c": None}), "ok", {"a": "1"})

    history = noted(tmp_path, act)
    written, read = history.keys["a"]
    assert (written.kind, written.value, read.kind, read.value) == ("write", "1", "read", "1")
    assert history.keys["c"][0].value is None
    assert (history.keys["b"][0].begin, history.keys["b"][0].end) == (written.begin, written.end)
    assert written.begin < written.end < read.begin < read.end


def test_outcomes(tmp_path):
    """A raised write may happen until its time is up, a refused one never does, a raised read says nothing."""

    def act(recorder):
        recorder.end(recorder.begin("write", {"a": "1"}), "raised", error="OSError")
        recorder.end(recorder.begin("delete", {"b": None}), "refused", error="LedgerUnavailable")
        recorder.end(recorder.begin("read", {"c": None}), "raised", error="OSError")

    history = noted(tmp_path, act)
    (raised,), (refused,) = history.keys["a"], history.keys["b"]
    assert raised.outcome == "possible"
    assert raised.end - raised.begin == 3_000_000_000
    assert (refused.outcome, refused.value) == ("refused", None)
    assert "c" not in history.keys
    assert history.errors["write", "OSError"] == 1
    assert history.operations["delete", "refused"] == 1


def test_a_killed_process_leaves_possible_writes(tmp_path):
    """A write that was in progress when its process was killed may have happened; a torn line is left out."""
    program = (
        "import pathlib, sys, time\n"
        "from tests.torture.history import Recorder\n"
        "recorder = Recorder(pathlib.Path(sys.argv[1]))\n"
        "recorder.begin('write', {'a': '1'})\n"
        "print('begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    path = tmp_path / "w1.history"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        now = time.monotonic_ns()
        process.send_signal(signal.SIGKILL)
    with path.open("ab") as file:
        file.write(b'["begin",1,')
    history = load(tmp_path, 3.0)
    (operation,) = history.keys["a"]
    assert isinstance(operation, Operation)
    assert operation.outcome == "possible"
    assert operation.begin < now, "the clocks of two processes are not one"
    assert history.operations["write", "killed"] == 1


def test_the_last_note_counts(tmp_path):
    """Of a process's notes on itself the last one is kept."""

    def act(recorder):
        recorder.note({"copies": 1})
        recorder.note({"copies": 2})

    assert noted(tmp_path, act).notes == {"w0": {"copies": 2}}
