"""What `zddm verify` says of a result."""

import json
import stat

import click
import pytest

from zddm_flags import TrafficGate, VerifyResult
from zddm_flags.cli.verify_options import ReportFile, Share, write_report
from zddm_flags.cli.verify_report import VerifyReport
from zddm_flags.cli.words import ago, percent, printable
from zddm_flags.results import FoundDifference

GATE = TrafficGate(1.0)


def difference(key, kind="changed", fields=("name",), *, stale=False):
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


def report(outcome, **options):
    return VerifyReport(target="app:users", migration="users", result=outcome, **options)


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
        ({"finished": False}, 130, "Stopped before the end: run it again, and it goes on where it was."),
        (
            {"finished": False, "extra": 1},
            130,
            "Stopped before the end, and so far 1 key differ: run it again, and it goes on where it was.",
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


def test_a_target_is_quoted_for_the_shell():
    """The command that is printed can be pasted, whatever the target is called."""
    outcome = result(changed=1, differences=[difference("user")])
    told = VerifyReport(target="app:users; rm *", migration="users", result=outcome)
    assert told.repair == "zddm repair 'app:users; rm *' --from-verify"


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, {}, "Every key was compared with its value.\nKeys that only New has were looked for."),
        ({"whole": False}, {"sample": 0.1}, "A sample of 10 % of the keys was compared with its value."),
        (
            {"whole": False, "extra_checked": False},
            {"limit": 2000},
            "and at most 2,000 keys of Old, was compared with its value.\n"
            "Keys that only New has were not looked for, by --limit.\nThis was not the whole",
        ),
        ({"whole": False}, {"only_keys": True}, "Every key was looked for, and no value compared."),
        ({"extra_checked": False}, {}, "not looked for: New's adapter has no scan()."),
        ({"missing": 2, "not_opened": 1}, {}, "1 of them above the opened rate, which no backfill has covered"),
        (
            {"changed": 2, "stale": 1, "marked": 1},
            {},
            "marked stale            1   differing keys that nobody knew",
        ),
        ({"changed": 2}, {"mark": False}, "none, by --no-mark: New goes on serving what differs"),
        ({"unsure": 2}, {}, "run verify again"),
        ({"failed": 2}, {}, "the comparison itself raised"),
        ({"too_long": 2}, {}, "too long for any ledger"),
        ({"changed": 3, "fields": {"name": 1, "email": 2}}, {}, "           2   email\n             1   name"),
    ],
)
def test_what_was_looked_at_is_said_plainly(changes, options, said):
    """The report says what was compared, what was not, and what the counts mean."""
    assert said in text(report(result(**changes), **options))


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


@pytest.mark.parametrize(("given", "share"), [("0.1", 0.1), ("10%", 0.1), ("100 %", 1.0), ("1", 1.0)])
def test_a_share_is_a_number_or_percent(given, share):
    """0.1 and 10% are the same."""
    assert Share().convert(given, None, None) == pytest.approx(share)


@pytest.mark.parametrize("given", ["0", "-1", "1.1", "101%", "nan", "inf", "ten", ""])
def test_no_other_share_is_taken(given):
    """What is no share is refused with an example of one."""
    with pytest.raises(click.BadParameter, match="such as 0.1 or 10%"):
        Share().convert(given, None, None)


def test_a_report_is_written_whole_and_for_its_owner(tmp_path):
    """The file appears at once, readable by its owner only, and what it replaces does not widen that."""
    path = tmp_path / "report.json"
    path.write_text("old")
    path.chmod(0o644)
    write_report(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_that_fails_leaves_what_was_there(tmp_path):
    """Where the report cannot be written the earlier one stays, and no half of the new one."""
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_report(path, "half\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["there-is-no/report.json", "."])
def test_a_file_that_cannot_be_written_is_refused_early(tmp_path, monkeypatch, name):
    """A folder that is not there, or a folder as file, is refused before the work begins."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(click.BadParameter):
        ReportFile().convert(name, None, None)


def test_a_link_to_a_report_stays_a_link(tmp_path):
    """What a link leads to is replaced, not the link."""
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_report(ReportFile().convert(str(tmp_path / "link.json"), None, None), "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s ago"), (59, "59 s ago"), (61, "1 min 1 s ago"), (7_265, "2 h 1 min ago"), (90_000, "1 d 1 h ago")],
)
def test_times_are_told_in_two_units(seconds, said):
    """How long ago something was is told so that it can be taken in."""
    assert ago(seconds) == said


def test_only_the_whole_is_100_percent():
    """A share just below 1 never reads as all."""
    assert [percent(share) for share in (0, 0.1, 0.9999, 1)] == ["0 %", "10 %", "99.99 %", "100 %"]
    assert percent(1 - 2**-53) == "under 100 %"
