"""Each morning's report on the remote machines: `NightlyReport`."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import luigi

from pipelines import run
from pipelines.base import DEFAULT_STUDY_FILE, StudyTask, now, say_and_exit, secret_of
from pipelines.watch import (
    as_machine,
    known_hosts_path,
    limits_of,
    measure_night,
    notes_on_reading,
    notes_on_study,
    passphrases_of,
    report_on,
    watched_machines,
)
from tasks.config import MailSettings, StudySettings, read_study
from tasks.errors import ScanwardError, UsageError
from tasks.files import make_folder, write_atomically
from tasks.logs import LOGGER
from tasks.monitor.calendar import zone_of
from tasks.monitor.heartbeat import FAILED, START, WELL, leave_files, ping
from tasks.monitor.history import History, Night
from tasks.monitor.mail import Attachment, Letter, Relay, deliver, receipt_path, spool, waiting
from tasks.monitor.report import Report
from tasks.monitor.ssh import read_known_hosts
from tasks.status import read_status
from tasks.workspace import Workspace, open_workspace


@lru_cache(maxsize=4)
def load_watch(study: str | None, workspace: str | None) -> tuple[StudySettings, Workspace]:
    """Read the study file and open the workspace; the dump may be away, the watch goes on.

    Raises
    ------
    ScanwardError
        If one of them cannot be used.
    """
    if study is None and not Path(DEFAULT_STUDY_FILE).exists():
        raise UsageError(
            problem=f"No study was given, and there is no {DEFAULT_STUDY_FILE} in this folder.",
            remedy="Give --study FILE.toml, or write one with `scanward init`.",
        )
    settings = read_study(Path(study or DEFAULT_STUDY_FILE), workspace=Path(workspace) if workspace else None)
    opened = open_workspace(settings.workspace)
    make_folder(opened.monitor, mode=0o700)
    return settings, opened


class NightlyReport(StudyTask):
    """Ask every remote machine how it is, and mail what is wrong and what changed.

    Give --study FILE.toml. With --date YYYY-MM-DD the report on that night is sent if it was not yet; what was not
    measured then is never made up.

    Attributes
    ----------
    date
        Of the report, in the time zone of those who read it; today if it is not given.
    """

    date = luigi.Parameter(default="")

    @classmethod
    def get_param_values(cls, params: Any, args: Any, kwargs: Any) -> list[tuple[str, Any]]:
        """Resolve the parameters, and fill in the workspace's key and the date."""
        values = dict(super(StudyTask, cls).get_param_values(params, args, kwargs))  # type: ignore[no-untyped-call]
        try:
            settings, opened = load_watch(values["study"], values["workspace"])
            today = now().astimezone(zone_of(settings.monitor.time_zone)).date().isoformat()
            values["date"] = _checked_date(values["date"]) if values["date"] else today
        except ScanwardError as fault:
            say_and_exit(fault)
        values["workspace_key"] = opened.key
        return list(values.items())

    @property
    def settings(self) -> StudySettings:
        """The study file's content."""
        return load_watch(self.study, self.workspace)[0]

    @property
    def place(self) -> Workspace:
        """The workspace."""
        return load_watch(self.study, self.workspace)[1]

    @property
    def spool(self) -> Path:
        """Where mails wait to be sent."""
        return self.place.monitor / "spool"

    @property
    def reports(self) -> Path:
        """Where reports lie, by their date."""
        return self.place.monitor / "reports"

    def process_resources(self) -> dict[str, int]:
        """Return one place among those who ask scanners and archives."""
        return {"associations": 1} if self.settings.hosts.associations else {}

    def complete(self) -> bool:
        """Tell whether the report is on the disk, and a relay has taken it."""
        run.limit(self.settings.hosts)
        is_written = (self.reports / f"{self.date}.html").exists()
        return is_written and (
            not self.settings.mail.recipients or receipt_path(self.spool / f"{self.date}.eml").exists()
        )

    def work(self) -> Iterator[Any] | None:
        """Measure, judge, write, send; whoever waits for the heartbeat hears how it went."""
        url = self.settings.monitor.heartbeat_url
        if url:
            ping(url, START)
        try:
            self._report()
        except BaseException:
            if url:
                ping(url, FAILED)
            raise
        if url and not ping(url, WELL):
            LOGGER.warning("The heartbeat's URL could not be asked.")
        return None

    def _report(self) -> None:
        settings, monitor = self.settings, self.settings.monitor
        today = now().astimezone(zone_of(monitor.time_zone)).date().isoformat()
        with History(self.place.monitor / "nights.db") as history:
            if self.date == today and not history.nights(date=self.date, most=1):
                measure_night(monitor, self.place, history, night_of=self.date)
            late = self._send_late()
            report, night = report_on(monitor, history, night_of=self.date, notes=[*late, *self._notes()])
        self._write(report)
        LOGGER.info("%s", report.subject)
        if settings.mail.recipients:
            self._send(report, night)
        self._leave_heartbeats()

    def _notes(self) -> list[str]:
        try:
            return [*notes_on_study(read_status(self.place)), *notes_on_reading(self.place.released / "review")]
        except ScanwardError as fault:
            return [f"Study: where it stands could not be read ({type(fault).__name__})."]

    def _write(self, report: Report) -> None:
        """Put the report on the disk, for those who read it there."""
        make_folder(self.reports, mode=0o700)
        for ending, content in (
            ("txt", report.text.encode("utf-8")),
            ("csv", report.csv),
            ("json", report.json),
            ("html", _with_pictures(report).encode("utf-8")),
        ):
            write_atomically(self.reports / f"{self.date}.{ending}", content, mode=0o600)

    def _send(self, report: Report, night: Night) -> None:
        mail = self.settings.mail
        letter = Letter(
            name=self.date,
            sender=mail.sender,
            recipients=mail.recipients,
            subject=report.subject,
            text=report.text,
            html=report.html,
            pictures=report.pictures,
            attachments=(
                Attachment(name="findings.csv", kind="text/csv", content=report.csv),
                Attachment(name="findings.json", kind="application/json", content=report.json),
            ),
            list_id=f"{self.settings.monitor.fleet.replace(' ', '-').lower()}.scanward",
            sent_at=night.begun,
        )
        receipt = deliver(
            spool(self.spool, letter),
            relays_of(mail),
            patience_s=mail.retry_hours * 3600,
            sleep=time.sleep,
            monotonic=time.monotonic,
            tell=LOGGER.warning,
        )
        LOGGER.info("Mailed to %d; %d refused.", len(receipt.accepted), len(receipt.refused))

    def _send_late(self) -> list[str]:
        """Send what did not go out in nights before, and say what happened to it."""
        said = []
        for message in waiting(self.spool):
            if message.stem == self.date:
                continue
            try:
                deliver(
                    message, relays_of(self.settings.mail), patience_s=0, sleep=time.sleep, monotonic=time.monotonic
                )
            except ScanwardError:
                said.append(f"Mail: the report of {message.stem} has not been delivered yet.")
            else:
                said.append(f"Mail: the report of {message.stem} went out only now.")
        for receipt in sorted(self.spool.glob("*.receipt.json"))[-1:]:
            refused = json.loads(receipt.read_bytes())["refused"]
            if refused and not receipt.name.startswith(self.date):
                said.append(f"Mail: the last report was not taken for {', '.join(sorted(refused))}.")
        return said

    def _leave_heartbeats(self) -> None:
        monitor = self.settings.monitor
        chosen = [one for one in watched_machines(monitor) if one.own.name in monitor.heartbeat_machines]
        if chosen:
            machines = [as_machine(one, monitor) for one in chosen]
            failed = leave_files(
                machines,
                known=read_known_hosts(known_hosts_path(monitor, self.place)),
                passphrases=passphrases_of(monitor, machines),
                limits=limits_of(monitor),
            )
            if failed:
                LOGGER.warning("No heartbeat could be left on %s.", ", ".join(failed))


def relays_of(mail: MailSettings) -> list[Relay]:
    """Read the passwords, and give the relays.

    Raises
    ------
    UsageError
        If a password cannot be read.
    """
    return [
        Relay(
            host=one.host,
            port=one.port,
            security=one.security,
            user=one.user,
            password=secret_of(one.password_file, one.password_variable),
            ca_file=one.ca_file,
        )
        for one in mail.relays
    ]


def _checked_date(text: str) -> str:
    try:
        return dt.date.fromisoformat(text).isoformat()
    except ValueError:
        raise UsageError(problem=f"{text!r} is no date.", remedy="Write it as 2026-03-01.") from None


def _with_pictures(report: Report) -> str:
    """Put the pictures into the page itself: on the disk there is no mail to look them up in."""
    import base64  # noqa: PLC0415

    page = report.html
    for cid, picture in report.pictures.items():
        page = page.replace(f'src="cid:{cid}"', f'src="data:image/png;base64,{base64.b64encode(picture).decode()}"')
    return page
