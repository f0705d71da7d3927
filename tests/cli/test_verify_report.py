"""What `zddm verify` says of a result."""

import json
import resource
import signal
import stat
from typing import Literal, TypeAlias

import click
import pytest

from zddm_flags import TrafficGate, VerifyResult
from zddm_flags.cli.verify_options import report_file, share, write_report
from zddm_flags.cli.verify_report import VerifyReport
from zddm_flags.cli.words import printable
from zddm_flags.results import FoundDifference

DifferenceKind: TypeAlias = Literal["changed", "missing", "extra"]
GATE = TrafficGate(1.0)


def difference(key, kind: DifferenceKind = "changed", fields=("name",), *, stale=False):
    key_hash, name = GATE.locate(key)
    return FoundDifference(hash=f"{key_hash:016x}", kind=kind, fields=fields, stale=stale, name=name)


def result(**changes):
    counts = dict.fromkeys(
        ("changed", "missing", "extra", "stale", "marked", "not_opened", "unsure", "failed", "too_long"), 0
    )
    given = {
        "finished": True,
        "resumed": False,
        "compared": 1000,
        "equal": 1000,
        **counts,
        "fields": {},
        "differences": [],
        "extra_checked": True,
        "whole": True,
        "seconds": 1.0,
    }
    return VerifyResult(**{**given, **changes})


def report(outcome, *, arguments=("app:users",), **options):
    again = "zddm verify app:users --sample 0.1"
    return VerifyReport(migration="users", arguments=arguments, again=again, result=outcome, **options)


def text(told):
    return "\n".join([told.verdict, *told.lines()])


@pytest.mark.parametrize(
    ("changes", "code", "verdict"),
    [
        ({}, 0, "Equal: New holds what Old holds, and nothing else."),
        ({"whole": False}, 0, "Equal, as far as it was looked at."),
        ({"extra_checked": False}, 0, "Equal, as far as it was looked at."),
        ({"changed": 1}, 1, "Different: 1 key."),
        ({"changed": 1, "missing": 1, "failed": 3}, 1, "Different: 2 keys."),
        ({"too_long": 2}, 1, "Different: 2 keys."),
        ({"unsure": 1}, 2, "Not certain: 1 key could not be compared."),
        ({"failed": 2}, 2, "Not certain: 2 keys could not be compared."),
        ({"finished": False}, 130, "Stopped after 1,000 keys. Go on with: zddm verify app:users --sample 0.1"),
        (
            {"finished": False, "extra": 1},
            130,
            "Stopped after 1,000 keys. 1 key that differ so far. Go on with: zddm verify app:users --sample 0.1",
        ),
    ],
)
def test_the_exit_code_and_the_verdict_say_the_same(changes, code, verdict):
    """Each outcome has one exit code and one line."""
    told = report(result(**changes))
    assert (told.exit_code, told.verdict) == (code, verdict)


def test_no_key_is_told_unasked():
    """A key is in neither the text nor the document, unless it was asked for."""
    outcome = result(changed=1, differences=[difference("secret@example.org")])
    told = report(outcome)
    for said in (text(told), json.dumps(told.document)):
        assert "secret" not in said
        assert b"secret".hex() not in said
        assert outcome.differences[0].hash in said
    asked = report(outcome, key_of=GATE.key_of)
    assert "'secret@example.org'" in text(asked)
    assert asked.document["differences"][0]["key"] == "'secret@example.org'"


def test_a_key_that_cannot_be_made_again_is_told_by_its_name():
    """Where the gate has an encoding of its own, what is shown is the name in hexadecimal."""
    gate = TrafficGate(1.0, encode=lambda key: key.encode())
    outcome = result(changed=1, differences=[difference("secret")])
    told = report(outcome, key_of=gate.key_of)
    name = outcome.differences[0].name.hex()
    assert f"name {name}" in text(told)
    assert told.document["differences"][0]["name"] == name


def test_only_the_first_differences_are_told():
    """`first` bounds the keys that are told; the document says how many were noted."""
    outcome = result(changed=5, differences=[difference(f"user-{number}") for number in range(5)])
    told = report(outcome, first=2)
    assert "The first 2 of 5 differing keys" in text(told)
    assert len(told.document["differences"]) == 2
    assert told.document["noted"] == 5
    assert "The first" not in text(report(outcome, first=0))


def test_the_repair_that_cannot_reach_all_says_so():
    """Where the ledger noted fewer keys than differ, the repair command promises no more than it does."""
    found = [difference(f"user-{number}", "missing", ()) for number in range(3)]
    assert "To repair exactly these keys:\n  zddm repair app:users --from-verify" in text(
        report(result(missing=3, differences=found))
    )
    said = text(report(result(missing=900, differences=found)))
    assert "To repair 3 of the 900 differing keys (the ledger notes at most 200 for each part" in said
    assert "--delete-extra" not in said
    assert "--delete-extra" in text(report(result(extra=3, differences=found)))
    assert report(result()).repair is None


def test_keys_that_no_repair_is_for_are_left_to_a_backfill():
    """Keys that New was never opened for are no error: the report leads to a backfill, and not to a repair."""
    found = [difference(f"user-{number}", "missing", ()) for number in range(3)]
    told = report(result(missing=3, not_opened=3, differences=found))
    assert told.repair is None
    assert "zddm repair" not in text(told)
    assert "copy them: zddm backfill app:users" in text(told)
    some = report(result(missing=3, not_opened=2, differences=found))
    assert "zddm repair app:users --from-verify\n  (but those above the opened rate)" in text(some)
    assert "copy them: zddm backfill app:users" in text(some)


def test_a_target_is_quoted_for_the_shell():
    """The command that is printed can be pasted, whatever the target is called."""
    outcome = result(changed=1, differences=[difference("user")])
    told = report(outcome, arguments=("app:users; rm *", "--app-dir", "my code"))
    assert told.repair == "zddm repair 'app:users; rm *' --app-dir 'my code' --from-verify"


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, {}, "Every key was compared with its value.\nKeys that only New has were looked for."),
        ({"whole": False}, {"sample": 0.1}, "A sample of 10 % of the keys was compared with its value."),
        (
            {"whole": False, "extra_checked": False},
            {"limit": 2000},
            (
                "Every key was compared with its value, up to 2,000 keys of Old.\n"
                "Keys that only New has were not looked for, by --limit.\nThis was not the whole"
            ),
        ),
        ({"whole": False}, {"only_keys": True}, "Every key was looked for, and no value compared."),
        ({"extra_checked": False}, {}, "not looked for: New's adapter has no scan()."),
        ({"missing": 2, "not_opened": 1}, {}, "1 of them above the opened rate, which no backfill has covered"),
        (
            {"changed": 2, "stale": 1, "marked": 1},
            {},
            "marked stale            1   differing keys that Old serves from now on",
        ),
        (
            {"changed": 2},
            {"mark": False},
            "No key was marked stale, by --no-mark: New goes on serving what differs",
        ),
        ({"unsure": 2}, {}, "run verify again"),
        ({"unsure": 2}, {}, "Every other key was compared with its value."),
        ({"failed": 2}, {}, "failed                  2   the comparison raised"),
        ({"too_long": 2}, {}, "too long for any ledger"),
        ({"changed": 3, "fields": {"name": 1, "email": 2}}, {}, "           2   email\n             1   name"),
    ],
)
def test_what_was_looked_at_is_said_plainly(changes, options, said):
    """The report says what was compared, what was not, and what the counts mean."""
    assert said in text(report(result(**changes), **options))


def test_a_verify_that_was_stopped_does_not_say_that_it_looked_at_all():
    """What was to be looked at is told only of a verify that came to the end."""
    told = text(report(result(finished=False)))
    assert "was compared" not in told
    assert "looked for" not in told


def test_a_field_cannot_write_to_the_terminal():
    """The name of a field, which may come from the store, is quoted where it holds control characters."""
    outcome = result(changed=1, fields={"\x1b[2J": 1}, differences=[difference("user", fields=("\x1b[2J",))])
    assert "\x1b" not in text(report(outcome))
    assert "'\\x1b[2J'" in text(report(outcome))
    assert printable("name") == "name"


def test_many_fields_are_cut():
    """Fields are told by how many keys they differ in, and not without end."""
    outcome = result(changed=1, fields={f"field{number}": number for number in range(1, 31)})
    said = text(report(outcome))
    assert "field30" in said
    assert "field10\n" not in said
    assert "and 10 fields more" in said


@pytest.mark.parametrize(("given", "found"), [("0.1", 0.1), ("10%", 0.1), ("100 %", 1.0), ("1", 1.0)])
def test_a_share_is_a_number_or_percent(given, found):
    """0.1 and 10% are the same."""
    assert share(None, None, given) == pytest.approx(found)


@pytest.mark.parametrize("given", ["0", "-1", "1.1", "101%", "nan", "inf", "ten", ""])
def test_no_other_share_is_taken(given):
    """What is no share is refused with an example of one."""
    with pytest.raises(click.BadParameter, match=r"such as 0\.1 or 10%"):
        share(None, None, given)


def test_a_report_is_written_whole_and_for_its_owner(tmp_path):
    """The file appears at once, readable by its owner only, and what it replaces does not widen that."""
    path = tmp_path / "report.json"
    path.write_text("old")
    path.chmod(0o644)
    write_report(path, {"job": "verify"})
    assert json.loads(path.read_text()) == {"job": "verify"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_that_fails_leaves_what_was_there(tmp_path):
    """Where the disk is full the earlier report stays, and no half of the new one."""
    path = tmp_path / "report.json"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_report(path, {"text": "x" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["there-is-no/report.json", "."])
def test_a_file_that_cannot_be_written_is_refused_early(tmp_path, monkeypatch, name):
    """A folder that is not there, or a folder as file, is refused before the work begins."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.BadParameter):
        report_file(None, None, name)


def test_a_link_to_a_report_stays_a_link(tmp_path):
    """What a link leads to is replaced, not the link."""
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    path = report_file(None, None, str(tmp_path / "link.json"))
    assert path is not None
    write_report(path, {})
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "{}\n"
