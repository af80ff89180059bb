"""The night watch as it is run: a study file, real SSH servers and a PACS, a real mail server, and what goes wrong."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller

from tests.builders.world import make_dump
from tests.monitor.chaos import black_hole
from tests.monitor.sshd import Keys, free_port, make_keys, sshd
from tests.monitor.test_mail import Box
from tests.orthanc import SENDER, TITLE, Orthanc, orthanc
from tests.pipelines.command import Ended, luigi, luigi_words, scanward

CANARIES = ("Krzywonos^Zdzislaw", "KRZ-4711-XY", "19340229")


@dataclass(kw_only=True)
class Lab:
    """A study file and what it speaks of."""

    folder: Path
    keys: Keys
    box: Box
    smtp_port: int
    monitor: list[str] = field(default_factory=list)
    sites: list[str] = field(default_factory=list)

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def night(self) -> Path:
        return self.workspace / "identified" / "monitor"

    def machine(self, name: str, host: str, port: int, user: str, *more: str) -> None:
        """Add a site of one machine."""
        self.sites.append(
            f'[[monitor.sites]]\nname = "Site of {name}"\ntime_zone = "Australia/Perth"\n[[monitor.sites.machines]]\n'
            f'name = "{name}"\nhost = "{host}"\nport = {port}\nuser = "{user}"\nkey_file = "{self.keys.user_key}"\n'
            + "\n".join(more)
        )

    def write(self) -> None:
        relay = f'[[mail.relays]]\nhost = "127.0.0.1"\nport = {self.smtp_port}\nsecurity = "plain"\n'
        text = (
            f'dump = "no-such-folder"\nworkspace = "{self.workspace}"\n'
            '[mail]\nsender = "watch@lab.example"\nrecipients = ["ann@lab.example"]\nretry_hours = 0.0\n'
            f'{relay}[monitor]\nfleet = "imaging"\ntime_zone = "Australia/Melbourne"\nstep_seconds = 2.0\n'
            "probe_seconds = 20.0\nagain_after_seconds = [0.1]\n" + "\n".join((*self.monitor, *self.sites)) + "\n"
        )
        (self.folder / "study.toml").write_text(text, "utf-8")

    def run(self, *words: str) -> Ended:
        return luigi("NightlyReport", "--study", self.folder / "study.toml", *words, cwd=self.folder)

    def scanward(self, *words: str) -> Ended:
        return scanward("monitor", *words, cwd=self.folder)

    def text(self, number: int = -1) -> str:
        body = self.box.messages[number].get_body(("plain",))
        assert body is not None
        return str(body.get_content())


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    box = Box()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    folder = tmp_path / "lab"
    folder.mkdir()
    yield Lab(folder=folder, keys=make_keys(tmp_path / "keys"), box=box, smtp_port=controller.port)
    controller.stop()


@pytest.fixture
def archive(program: Callable[[str], str], tmp_path: Path) -> Iterator[Orthanc]:
    with orthanc(program("Orthanc"), tmp_path / "orthanc") as running:
        yield running


def _pacs(name: str, port: int) -> str:
    return (
        f'[[monitor.sites.machines.targets]]\nname = "{name}"\nhost = "127.0.0.1"\nport = {port}\n'
        f'called = "{TITLE}"\ncalling = "{SENDER}"\n'
    )


def test_a_night_from_the_study_file_to_the_mail(
    program: Callable[[str], str], lab: Lab, archive: Orthanc, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for canary in CANARIES:
        (inbox / canary).write_text(canary)
    noisy = tmp_path / "noisy"
    noisy.write_text(f"Welcome {CANARIES[0]}\n")
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(sshd(program("sshd"), lab.keys, more=f"Banner {noisy}\nPrintMotd yes"))
        two = stack.enter_context(sshd(program("sshd"), lab.keys, host="127.0.0.2"))
        hole = stack.enter_context(black_hole())
        extra = f"echo {CANARIES[1]}; echo {CANARIES[0]} >&2; exit 1"
        lab.machine(
            "mri-1", one.host, one.port, one.user,
            'processes = ["sshd"]\nservices = ["no-such-unit"]',
            _pacs("PACS", archive.dicom_port),
            f'[[monitor.sites.machines.inboxes]]\nname = "inbox"\nfolder = "{inbox}"\nmost_waiting = 2',
            f"[[monitor.sites.machines.extras]]\nname = \"backup\"\ncommand = '{extra}'",
        )  # fmt: skip
        lab.machine("mri-2", two.host, two.port, two.user, _pacs("scanner", free_port()))
        lab.machine("hole", "127.0.9.9", hole, "nobody")
        lab.write()
        lab.keys.known_hosts.unlink()

        assert lab.scanward("status").code == 3
        enrolled = lab.scanward("enrol", "--yes", "mri-1", "mri-2")
        assert enrolled.code == 0, enrolled.said
        assert enrolled.out.count("new, ssh-ed25519 SHA256:") == 2
        assert lab.scanward("enrol", "mri-1").out.count("known, SHA256:") == 1
        ended = lab.run()
        assert ended.code == 0, ended.said

        text = lab.text()
        assert "Site of hole / hole: cannot be reached over SSH: there was no answer in time (connect)" in text
        assert "mri-2: scanner: nothing listens on its port." in text
        assert "inbox: 3 files wait, more than 2." in text
        assert "backup: the check ended with 1." in text
        assert "PACS: " not in text, "it is well"
        subject = lab.box.messages[0]["Subject"]
        assert subject.startswith("[imaging] 1 down, ")
        assert subject.endswith("0/3 well")
        attached = {part.get_filename() for part in lab.box.messages[0].iter_attachments()}
        assert attached == {"findings.csv", "findings.json"}

        status = lab.scanward("status", "--short", "--prometheus", "watch.prom")
        assert (status.code, status.out.strip()) == (2, subject)
        assert 'scanward_monitor_machines{state="problems"} 3' in (lab.folder / "watch.prom").read_text()

        again = lab.run()
        assert again.code == 0
        assert len(lab.box.messages) == 1, "a night is measured and mailed once"
        _no_canary(lab, ended, again, status)


def _no_canary(lab: Lab, *ends: Ended) -> None:
    for canary in CANARIES:
        for ended in ends:
            assert canary not in ended.said
        for message in lab.box.messages:
            assert canary not in str(message.get_body(("plain",)))
            assert canary.encode() not in message.as_bytes()
        for path in lab.workspace.rglob("*"):
            assert canary not in path.name
            if path.is_file():
                assert canary.encode() not in path.read_bytes(), path


def test_a_key_that_may_run_the_probe_alone(program: Callable[[str], str], lab: Lab, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".scanward").mkdir(parents=True)
    with sshd(program("sshd"), lab.keys, more=f"SetEnv HOME={home}") as one:
        lab.machine("mri-1", one.host, one.port, one.user, "installed = true")
        lab.monitor.append(f'known_hosts = "{lab.keys.known_hosts}"')
        lab.write()
        probe = lab.scanward("probe", "mri-1")
        assert probe.code == 0, probe.said
        line = lab.scanward("authorize", "mri-1", "--public-key", f"{lab.keys.user_key}.pub").out
        assert line.startswith('restrict,command="sh .scanward/probe" ssh-ed25519 ')
        installed = home / ".scanward" / "probe"
        installed.write_text(probe.out)
        # The account's real home is none of a test's business: the line names the file in the one made here.
        line = line.replace("sh .scanward/probe", f"sh {installed}")
        (lab.keys.folder / "authorized_keys").write_text(line)
        assert lab.run().code == 0
        assert lab.box.messages[0]["Subject"] == "[imaging] all 1 well"
        forced = subprocess.run(
            ["ssh", "-i", lab.keys.user_key, "-o", f"UserKnownHostsFile={lab.keys.known_hosts}", "-p", str(one.port),
             f"{one.user}@{one.host}", "id"],
            input="0123456789abcdef\n", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "uid=" not in forced.stdout
        assert "0123456789abcdef" in forced.stdout, "the probe ran in its stead"
        lab.sites[0] += '\nservices = ["new-unit"]\n'
        (lab.night / "nights.db").unlink()
        for path in [*(lab.night / "reports").iterdir(), *(lab.night / "spool").iterdir()]:
            path.unlink()
        lab.write()
        assert lab.run().code == 0
    assert "the probe that lies there asks something else than the study file" in lab.text()


def test_the_mail_says_where_the_study_stands(program: Callable[[str], str], lab: Lab) -> None:
    make_dump(lab.folder / "dump", instances=6)
    prepared = luigi("PrepareReview", "--dump", lab.folder / "dump", "--workspace", lab.workspace, cwd=lab.folder)
    assert prepared.code == 0, prepared.said
    cases = len(json.loads((lab.workspace / "released" / "review" / "manifest.json").read_text())["entries"])
    with sshd(program("sshd"), lab.keys) as one:
        lab.machine("mri-1", one.host, one.port, one.user)
        lab.monitor.append(f'known_hosts = "{lab.keys.known_hosts}"')
        lab.write()
        assert lab.run().code == 0
    assert f"Study: {cases} of {cases} cases have no verdict yet." in lab.text()


def test_a_past_night_is_never_made_up(program: Callable[[str], str], lab: Lab) -> None:
    with sshd(program("sshd"), lab.keys) as one:
        lab.machine("mri-1", one.host, one.port, one.user)
        lab.write()
        ended = lab.run("--date", "2020-02-03")
        assert ended.code != 0
        assert "Nothing was measured on 2020-02-03" in ended.said
        wrong = lab.run("--date", "yesterday")
        assert wrong.code == 2
        assert "is no date" in wrong.said
    assert lab.box.messages == []


def test_a_report_that_found_no_relay_goes_out_with_the_next_run(program: Callable[[str], str], lab: Lab) -> None:
    with sshd(program("sshd"), lab.keys) as one:
        lab.machine("mri-1", one.host, one.port, one.user)
        lab.monitor.append(f'known_hosts = "{lab.keys.known_hosts}"')
        lab.box.data_answers = ["421 not now"]
        lab.write()
        ended = lab.run()
        assert ended.code == 30, ended.said
        assert "was taken by no relay (code 421)" in ended.said
        assert lab.box.messages == []
        measured = json.loads(next((lab.night / "reports").glob("*.json")).read_text())["asked"]
        assert lab.run().code == 0
        assert len(lab.box.messages) == 1
        again = json.loads(next((lab.night / "reports").glob("*.json")).read_text())["asked"]
        assert again == measured, "what was measured is sent, nothing is asked anew"


def test_killed_at_any_moment_the_next_run_brings_one_report(program: Callable[[str], str], lab: Lab) -> None:
    with sshd(program("sshd"), lab.keys) as one:
        lab.machine("mri-1", one.host, one.port, one.user)
        lab.monitor.append(f'known_hosts = "{lab.keys.known_hosts}"')
        lab.write()
        for seconds in (0.8, 1.2, 1.6, 2.0):
            running = subprocess.Popen(
                luigi_words("NightlyReport", "--study", lab.folder / "study.toml"),
                cwd=lab.folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(seconds)
            running.send_signal(signal.SIGKILL)
            running.wait()
        assert lab.run().code == 0
    assert len({message["Message-ID"] for message in lab.box.messages}) == 1
    # One, but for a kill in the very moment between the relay's taking it and our hearing of that; see test_mail.
    assert len(lab.box.messages) <= 2
    assert [path.suffix for path in (lab.night / "spool").glob("*.eml")] == [".eml"]


def test_the_heartbeat_tells_how_it_went(program: Callable[[str], str], lab: Lab, tmp_path: Path) -> None:
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sshd(program("sshd"), lab.keys, more=f"SetEnv HOME={tmp_path}") as one:
            lab.machine("mri-1", one.host, one.port, one.user)
            lab.monitor += [
                f'known_hosts = "{lab.keys.known_hosts}"',
                f'heartbeat_url = "http://127.0.0.1:{server.server_port}/abc"',
                'heartbeat_machines = ["mri-1"]',
            ]
            lab.box.data_answers = ["554 never"]
            lab.write()
            assert lab.run().code == 30
            assert asked == ["/abc/start", "/abc/fail"]
            assert lab.run().code == 0
        server.shutdown()
    assert asked[2:] == ["/abc/start", "/abc"]
    left = tmp_path / ".scanward" / "heartbeat"
    assert abs(int(left.read_text()) - time.time()) < 300


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('time_zone = "Mars/Olympus"', "no time zone"),
        ('passphrase_variable = "NO_SUCH_VARIABLE"', "NO_SUCH_VARIABLE is not set"),
        ('ssh_config = "nowhere"', "cannot be read as an SSH configuration"),
        ("wrokers = 3", "monitor.wrokers is no key"),
    ],
)
def test_a_study_file_that_cannot_be_used_is_told_in_one_sentence(line: str, problem: str, lab: Lab) -> None:
    lab.machine("mri-1", "127.0.0.1", 22, "watch")
    lab.write()
    text = (lab.folder / "study.toml").read_text()
    text = text.replace('time_zone = "Australia/Melbourne"\n', "") if line.startswith("time_zone") else text
    (lab.folder / "study.toml").write_text(text.replace("[monitor]\n", f"[monitor]\n{line}\n"))
    ended = lab.run()
    assert ended.code != 0
    assert problem in ended.said
    assert "Traceback" not in ended.said


def test_known_problems_and_keys_are_looked_after_by_command(lab: Lab) -> None:
    lab.machine("mri-1", "127.0.0.1", free_port(), "watch", _pacs("PACS", 104))
    lab.write()
    assert "has passed" in lab.scanward("mute", "mri-1", "--until", "2020-01-01", "--why", "x").err
    assert "has no machine mri-9" in lab.scanward("ack", "mri-9", "--until", "2099-01-01", "--why", "x").err
    muted = lab.scanward("mute", "mri-1", "--check", "ssh", "--until", "2099-01-01", "--why", "being moved")
    assert muted.code == 0, muted.said
    line = lab.scanward("authorize", "mri-1", "--public-key", str(lab.keys.user_key) + ".pub").out
    assert line.startswith('restrict,port-forwarding,permitopen="127.0.0.1:104" ssh-ed25519 ')
    assert "is no public key" in lab.scanward("authorize", "mri-1", "--public-key", str(lab.keys.user_key)).err
    assert lab.scanward("enrol", "--yes").code == 1, "it cannot be reached"
    assert lab.run().code == 0
    assert lab.box.messages[0]["Subject"] == "[imaging] all 1 well", "what is muted is no news"
    assert "being moved" in lab.text()
    assert os.stat(lab.night).st_mode & 0o077 == 0
