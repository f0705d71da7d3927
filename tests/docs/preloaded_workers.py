"""Runs the code of docs/ledgers.md in a parent and in children that it forks; prints, as JSON, what they saw."""

import json
import os
import re
import sys
import time
from pathlib import Path
from unittest.mock import patch

from structlog.testing import capture_logs

from zddm_flags.testing import FlagServer

DOCS = Path(__file__).parents[2] / "docs"


def page_names(server):
    """What the page's code defines, with the time-outs of docs/postgresql.md."""
    bounded = re.search(
        r"^bounded = \{.*?^\}", (DOCS / "postgresql.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert bounded is not None
    names = {}
    exec(bounded[0], names)  # noqa: S102 - the page is ours
    page = (DOCS / "ledgers.md").read_text(encoding="utf-8")
    with patch("ldclient.LDClient", lambda config: server.client(sdk_key=config.sdk_key)):
        for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[:2]:
            exec(block, names)  # noqa: S102 - the page is ours
    deadline = time.monotonic() + 5
    while names["users"].stats().rollout.read != 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    return names


def worker(names, number):
    """What a forked worker sees: its rate before and after `post_fork`, and a key that it writes and reads."""
    before = names["source"].rollout.read
    names["post_fork"](None, None)
    key, value = f"u{number}", {"email": "ada@example.org", "visits": number}
    names["users"].write(key, value)
    found = [names["users"].read(key) == value, names["users"].read("parent")["visits"]]
    paths = [list(path) for path in names["users"].stats().operations]
    return [before, names["source"].rollout.read, *found, ["write", "both"] in paths, ["read", "new_hit"] in paths]


def in_child(look):
    """Fork, run `look` in the child, and return what it returned there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = look()
        except BaseException as error:
            answer = repr(error)
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return answer


def main():
    """Write in the parent, fork two workers, and read in the parent what they wrote."""
    with capture_logs(), FlagServer({"users-migration-rate": 1}) as server:
        names = page_names(server)
        names["users"].write("parent", {"email": "alan@example.org", "visits": 7})
        workers = [in_child(lambda number=number: worker(names, number)) for number in (1, 2)]
        parent = [names["users"].read(f"u{number}")["visits"] for number in (1, 2)]
        names["source"].close()
        for engine in ("old_engine", "new_engine", "ledger_engine"):
            names[engine].dispose()
    json.dump({"workers": workers, "parent": parent}, sys.stdout)


if __name__ == "__main__":
    main()
