"""examples/services/README.md: what it says to type is typed, and prints what it says.

Docker is not there, so its servers are the ones of the tests, at their addresses; a statement for `psql` and a
question for `valkey-cli` are put to them by their drivers.
"""

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request

import pytest

from tests.examples.conftest import DEADLINE, SERVICES, free_port, process_environment, started, wait_until

README = SERVICES / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


def section(title):
    """The blocks of a section, by language and text, in order."""
    _, _, rest = TEXT.partition(f"\n## {title}")
    return BLOCK.findall(rest.partition("\n## ")[0])


def answers(block):
    """The commands of a console block, each with what it prints."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


class Terminals:
    """What the reader has open: the Python prompt with the flag, and a shell."""

    def __init__(self, port, ask_postgresql, ask_valkey):
        (block,) = [text for kind, text in section("Start what they need") if "FlagServer" in text]
        command = shlex.split(block.splitlines()[-1].replace("8030", str(port)))
        self.prompt = subprocess.Popen(
            [sys.executable, *command[1:]],
            env=process_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._ask_postgresql, self._ask_valkey = ask_postgresql, ask_valkey
        self._flags = f"http://127.0.0.1:{port}/sdk/latest-all"
        self.wait_for_flags('"variations": [0,')

    def wait_for_flags(self, shown):
        """Wait until LaunchDarkly's stand-in serves this."""

        def asked():
            try:
                with urllib.request.urlopen(self._flags, timeout=DEADLINE) as answer:  # noqa: S310 - our own
                    return shown in answer.read().decode()
            except OSError:  # it is not there yet
                return False

        wait_until(asked, f"the flag server serves {shown}")

    def type(self, block):
        """Type a block at the Python prompt."""
        assert self.prompt.stdin is not None
        self.prompt.stdin.write(block.replace(">>> ", ""))
        self.prompt.stdin.flush()

    def run(self, command, url):
        """What a command of the shell prints."""
        words = shlex.split(command.replace("http://127.0.0.1:8000", url))
        match words:
            case ["curl", *_]:
                run = subprocess.run(words, capture_output=True, text=True, check=True, timeout=DEADLINE)
                return run.stdout.rstrip("\n")
            case ["docker", "exec", "users-valkey", "valkey-cli", "GET", key]:
                return (self._ask_valkey(key) or b"").decode()
            case ["docker", "exec", "users-postgresql", "psql", *_, "--command", statement, "new"]:
                return "\n".join("|".join(map(str, row)) for row in self._ask_postgresql(statement))
        raise AssertionError(f"the README has a command that this test does not know: {command}")

    def close(self):
        """End the prompt, as the reader would."""
        self.prompt.communicate(timeout=DEADLINE)


@pytest.fixture
def stores(databases):
    """Old and New in PostgreSQL, with the tables that the README makes."""
    (tables,) = [text for _, text in section("Start what they need") if "CREATE TABLE" in text]
    users, people = re.findall(r"CREATE TABLE .*;", tables)
    old, new = databases(), databases()
    old.execute(users)
    new.execute(people)
    return old, new


@pytest.fixture
def addresses(stores, valkey, valkey_server):
    """The README's addresses, and those of the servers of this test."""
    old, new = stores
    return {
        "postgresql+psycopg://postgres:secret@127.0.0.1:5432/postgres": old.url,
        "postgresql+psycopg://postgres:secret@127.0.0.1:5432/new": new.url,
        "redis://127.0.0.1:6379/0": f"redis://{valkey_server.host}:{valkey_server.port}/11",
        "http://127.0.0.1:8030": f"http://127.0.0.1:{free_port()}",
    }


@pytest.mark.parametrize("title", ["FastAPI", "Flask"])
def test_what_the_readme_says_to_type(title, addresses, stores, valkey, tmp_path):
    """Each command of a section prints what stands below it, with the flag as the section says to set it."""
    (_, start), *steps = section(title)
    *_, line = start.splitlines()
    command = [*shlex.split(re.sub(r" --port 8000|:8000$", "", line))]
    command += ["--port", "{port}"] if command[0] == "uvicorn" else []
    command = [part if part != "127.0.0.1" else "127.0.0.1:{port}" for part in command]
    environment = {
        name: addresses.get(value, value) for name, value in re.findall(r"(?:export| )\s*(\w+)=(\S+)", start)
    }
    port = addresses["http://127.0.0.1:8030"].rpartition(":")[2]
    with contextlib.closing(Terminals(port, stores[1].execute, valkey.get)) as terminals:
        if title == "Flask":
            terminals.type('>>> flags.set("users-migration-rate", 1)\n')  # where the section before it left it
            terminals.wait_for_flags('"variations": [1,')
        extra = ["--no-control-socket"] if command[0] == "gunicorn" else []
        with started([*command, *extra], environment, tmp_path / "log") as service:
            for kind, block in steps:
                if kind == "pycon":
                    terminals.type(block)
                    continue
                for typed, printed in answers(block):
                    expected = re.escape(printed.rstrip("\n")).replace("4321", r"\d+")  # a pid
                    wait_until(
                        lambda typed=typed, expected=expected: re.fullmatch(
                            expected, terminals.run(typed, service.url)
                        ),
                        f"{typed} prints {printed}",
                    )
            service.stop()


def test_the_variables_are_all_there_are():
    """The README's table has the variables that the programs read, and no others."""
    named = set(re.findall(r"`([A-Z_]+)`", TEXT))
    read = set()
    for program in SERVICES.glob("*.py"):
        read |= set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', program.read_text(encoding="utf-8")))
    assert named - {"OTEL_SERVICE_NAME"} == read
