"""The study file: one strict TOML that says where a study's data lie and how they are to be treated."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tasks.errors import StudyFileError


def _require_name(value: Any) -> Any:
    """Refuse what the operating system takes for no path; an empty one would silently mean the study file's folder."""
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise ValueError("names no file or folder")
    return value


_NamedPath = Annotated[Path, BeforeValidator(_require_name)]


class _Section(BaseModel):
    # Unknown keys are errors, text is not turned into numbers, and nothing changes after it was read.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class IndexSettings(_Section):
    """`[index]`: which files are read."""

    quiet_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0
    """Files that changed within so many seconds may still be being written and wait for a later run."""


class ArchiveSettings(_Section):
    """`[archives]`: what an archive may unpack to before it is taken for a bomb."""

    members: Annotated[int, Field(ge=1)] = 200_000
    """Files in one archive."""

    member_bytes: Annotated[int, Field(ge=1)] = 4 << 30
    """Bytes of one file in it."""

    total_bytes: Annotated[int, Field(ge=1)] = 200 << 30
    """Bytes of all files in it."""

    ratio: Annotated[int, Field(ge=1)] = 1000
    """How many times its own size it may unpack to."""

    depth: Annotated[int, Field(ge=0, le=8)] = 2
    """How deep archives may lie in archives: 1 opens none inside another, 0 opens none at all."""


class SortSettings(_Section):
    """`[sort]`: what the sorted tree looks like."""

    layout: Annotated[str, Field(min_length=1)] = "patient-date-series"
    """A preset's name, or a template of folders."""

    file_name: str = ""
    """A template of file names; empty for the preset's own."""

    place: Literal["auto", "reflink", "hardlink", "copy", "symlink"] = "auto"
    """How files are placed."""

    visit_gap_hours: Annotated[float, Field(ge=0, le=240)] = 4
    """DICOM studies of one patient that follow each other within so many hours are one visit."""

    visits: _NamedPath | None = None
    """CSV that puts DICOM studies under another patient ID or visit date."""


_Length = Annotated[float, Field(gt=0, le=10_000)]
_Count = Annotated[int, Field(ge=1, le=1_000_000)]


class SeriesSettings(_Section):
    """`[[review.series]]`: what one kind of series is called in the BIDS data set, and how it is to be acquired."""

    description: str | None = None
    """Pattern (`*`, `?`, `[...]`) of the exported Series Description or Protocol Name, case ignored."""

    image_type: str | None = None
    """Of Image Type, its values joined by backslashes."""

    sequence: str | None = None
    """Of Scanning Sequence, its values joined by backslashes, or of Pulse Sequence Name."""

    echo: _Count | None = None
    """Echo number."""

    bids: str | None = None
    """Its place in the data set: data type, slash, entities and suffix, as in `func/task-rest_bold`."""

    tr_ms: _Length | None = None
    """Repetition time in milliseconds."""

    te_ms: _Length | None = None
    """Echo time in milliseconds."""

    voxel_mm: tuple[_Length, _Length, _Length] | None = None
    """Voxel size along rows, columns and slices."""

    fov_mm: tuple[_Length, _Length] | None = None
    """Field of view along rows and columns."""

    matrix: tuple[_Count, _Count] | None = None
    """Voxels along rows and columns."""

    orientation: Literal["axial", "sagittal", "coronal"] | None = None
    """The plane of the slices, the nearest one for oblique ones."""

    slices: _Count | None = None
    """Slices of a volume."""

    volumes: _Count | None = None
    """Volumes."""

    directions: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Directions of diffusion, those without weighting not counted."""

    tolerance: Annotated[float, Field(ge=0, le=0.5)] = 0.01
    """How far lengths and times may be from what is stated, as a share of it."""

    @model_validator(mode="after")
    def _require_sense(self) -> SeriesSettings:
        if all(part is None for part in (self.description, self.image_type, self.sequence, self.echo)):
            raise ValueError("fits every series: name description, image_type, sequence or echo")
        if self.bids is not None and not re.fullmatch(r"[a-z0-9]+/([A-Za-z]+-[A-Za-z0-9+]+_)*[A-Za-z0-9]+", self.bids):
            raise ValueError("has a `bids` that is no data type, slash, entities and suffix, as in func/task-rest_bold")
        return self


class ReviewSettings(_Section):
    """`[review]`: what reviewers get."""

    incomplete: Literal["flag", "wait"] = "flag"
    """Whether series with missing files are shown with a flag, or wait until they are complete."""

    series: tuple[SeriesSettings, ...] = ()
    """What series are called in the BIDS data set and how they are to be acquired; the first that fits counts."""


class GradeSettings(_Section):
    """`[[reading.scale]]` and `[[reading.artefacts]]`: what a reader may say of an image."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,39}$")]
    """As it stands in the ratings."""

    key: Annotated[str, Field(min_length=1, max_length=12)]
    """The key that gives it, such as 1, Shift+A or F5; `python -m viewer keys` lists those that are taken."""

    meaning: Annotated[str, Field(max_length=200)] = ""
    """What a reader is to understand by it."""


class ReadingSettings(_Section):
    """`[reading]`: how reviewers read."""

    scale: tuple[GradeSettings, ...] = ()
    """The verdicts from best to worst; empty for accept, query and reject."""

    artefacts: tuple[GradeSettings, ...] = ()
    """What may be ticked beside the verdict; empty for motion, ghost, wrap, dropout, coverage and other."""

    hides_quality: bool = True
    """Whether metrics and flags are hidden until the verdict is given."""

    is_blinded: bool = False
    """Whether codes stand for subjects and visits on screen."""

    seed: Annotated[int, Field(ge=0)] | None = None
    """Gives each reader an order of their own; without it all read in the manifest's order."""

    repeat_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """What share of the cases each reader gets twice without being told."""

    minimum_look_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """A verdict given sooner, in seconds, is refused."""

    idle_after_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """So many seconds after the last key or movement no more time is counted."""

    readers: Literal[1, 2] = 1
    """How many readers each case needs; where two differ, it comes to an adjudicator."""

    @model_validator(mode="after")
    def _require_differences(self) -> ReadingSettings:
        if len(self.scale) == 1:
            raise ValueError("has a scale of one step, on which every image is the same")
        for part in ("name", "key"):
            given = [getattr(one, part).casefold() for one in (*self.scale, *self.artefacts)]
            twice = sorted({one for one in given if given.count(one) > 1})
            if twice:
                raise ValueError(f"gives the {part} {twice[0]!r} twice")
        return self


OptionName = Literal[
    "retain_safe_private",
    "retain_uids",
    "retain_device_identity",
    "retain_institution_identity",
    "retain_patient_characteristics",
    "retain_longitudinal_full_dates",
    "retain_longitudinal_modified_dates",
    "clean_descriptors",
    "clean_structured_content",
    "clean_graphics",
]
"""The options of PS3.15 section E.3, by the names of their columns in table E.1-1."""


def _require_options(value: Any) -> Any:
    """Tell every fault of a list of options at once, which by the type alone would come one after the other."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("is no list of names of options")
    known = get_args(OptionName)
    faults = []
    for name in dict.fromkeys(value):
        if name not in known:
            meant = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(known)}"
            faults.append(f"names {name!r}, which is no option ({hint})")
        elif value.count(name) > 1:
            faults.append(f"names {name} twice")
    if {"retain_longitudinal_full_dates", "retain_longitudinal_modified_dates"} <= set(value):
        faults.append("names both full and modified dates, of which a date can have only one: it stays or is moved")
    if faults:
        raise ValueError(", ".join(faults))
    return tuple(value)


_Size = Annotated[int, Field(ge=1, le=65_535)]
_Place = Annotated[int, Field(ge=0, le=65_535)]


class RegionSettings(_Section):
    """`[[deidentify.regions]]`: what is blacked out in the images of one kind of device."""

    manufacturer: str | None = None
    """Pattern (`*`, `?`, `[...]`) of Manufacturer, case ignored; left out it fits any, empty it fits what is absent."""

    model: str | None = None
    """Of Manufacturer's Model Name."""

    software_version: str | None = None
    """Of Software Versions."""

    modality: str | None = None
    """Of Modality."""

    image_type: str | None = None
    """Of Image Type, its values joined by backslashes."""

    rows: _Size | None = None
    """The images' height in pixels."""

    columns: _Size | None = None
    """The images' width in pixels."""

    areas: Annotated[tuple[tuple[_Place, _Place, _Place, _Place], ...], Field(min_length=1)]
    """What is blacked out in every frame: x0, y0, x1, y1 in pixels, counted from 0, the last ones not included."""

    release: bool = False
    """Whether such images are exported although they are of a kind that is refused for the text in their pixels."""

    checked: str = ""
    """Who looked at such images and when; needed for `release` without text recognition. It stays in this file."""

    @model_validator(mode="after")
    def _require_sense(self) -> RegionSettings:
        signature = (self.manufacturer, self.model, self.software_version, self.modality, self.image_type)
        if all(part is None for part in signature):
            raise ValueError("fits every device: name manufacturer, model, software_version, modality or image_type")
        if any(x0 >= x1 or y0 >= y1 for x0, y0, x1, y1 in self.areas):
            raise ValueError("has an area without a pixel: it is x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        if any(x0 >= (self.columns or x1) or y0 >= (self.rows or y1) for x0, y0, x1, y1 in self.areas):
            raise ValueError("has an area beside the image: x0 has to be below columns and y0 below rows")
        if self.release and None in (self.manufacturer, self.model, self.rows, self.columns):
            raise ValueError("releases images, so it has to name manufacturer, model, rows and columns")
        if self.release and any(part and not part.strip("*?") for part in (self.manufacturer, self.model)):
            raise ValueError("releases images, so its manufacturer and model have to say more than that there is one")
        return self


class DeidentifySettings(_Section):
    """`[deidentify]`: what is kept of an image, and who becomes whom."""

    options: Annotated[tuple[OptionName, ...], BeforeValidator(_require_options)] = (
        "retain_patient_characteristics",
        "retain_longitudinal_modified_dates",
        "retain_safe_private",
        "clean_descriptors",
    )
    """What is retained or cleaned beyond the Basic Profile of PS3.15; none is the bare profile."""

    vocabulary: tuple[str, ...] = ()
    """Words of the study's own that may stand in descriptors; `scanward vocabulary` proposes some."""

    pseudonyms: _NamedPath | None = None
    """CSV with the columns patient_id and pseudonym; patients it does not name get the next free number."""

    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,12}$")] = "SUB"
    """What numbered pseudonyms begin with."""

    same_patient: _NamedPath | None = None
    """CSV with the columns patient_id and same_as: a patient's further IDs, and the one that stands for all."""

    whole_weeks: bool = False
    """Whether dates move by multiples of 7 days, so that the day of the week stays."""

    key_map_passphrase_file: _NamedPath | None = None
    """File, mode 0600, with the passphrase under which the key map is encrypted."""

    key_map_passphrase_variable: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")] = ""
    """Or the name of the environment variable that holds it; empty for none."""

    recovery_certificate: _NamedPath | None = None
    """Certificate (PEM, RSA) of whoever may recover: each exported file holds its originals, encrypted for them."""

    smallest_cohort: Annotated[int, Field(ge=1, le=10_000)] = 5
    """The report warns of groups of fewer subjects who share age, sex and site."""

    regions: tuple[RegionSettings, ...] = ()
    """What is blacked out in which images."""

    ocr: Literal["off", "suspects", "all"] = "off"
    """Which exported images text recognition looks at; one that shows text goes to quarantine."""

    compare_conversion: Literal["auto", "always", "never"] = "auto"
    """Whether each series is converted by dcm2niix before and after, and kept back if that differs; `auto` where the
    program is installed and the options keep what it reads."""

    @model_validator(mode="after")
    def _require_one_passphrase(self) -> DeidentifySettings:
        if self.key_map_passphrase_file is not None and self.key_map_passphrase_variable:
            raise ValueError("names the passphrase twice: give key_map_passphrase_file or key_map_passphrase_variable")
        return self

    @model_validator(mode="after")
    def _require_a_second_look(self) -> DeidentifySettings:
        for number, region in enumerate(self.regions):
            if region.release and self.ocr == "off" and not region.checked.strip():
                raise ValueError(
                    f"regions.{number} releases images unseen: set ocr, or say in `checked` who looked at them and when"
                )
        return self


class ChunkSettings(_Section):
    """`[chunks]`: how much work one Luigi task takes."""

    index_files: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Files whose headers one task reads."""

    place_files: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Files that one task puts into the sorted tree."""

    export_instances: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Instances that one task de-identifies; a series is never split."""

    review_series: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Series that one task converts, measures and draws."""


class HostsSettings(_Section):
    """`[hosts]`: how several hosts share the work of a central scheduler."""

    portions: Annotated[int, Field(ge=1, le=190)] = 64
    """Into how many portions the chunks of each stage are dealt; several times as many as there are workers."""

    storage_seconds: Annotated[float, Field(ge=1, le=3600)] = 120
    """For how long what another host wrote is waited for; longer than the mounts keep old attributes."""

    plain_http: bool = False
    """Whether a scheduler on another host may be asked by plain HTTP."""

    writers: Annotated[int, Field(ge=0, le=10_000)] = 0
    """How many portions may write to the file server at once; 0 sets no limit."""

    associations: Annotated[int, Field(ge=0, le=10_000)] = 0
    """How many night watches may ask scanners and archives over DICOM at once; 0 sets no limit."""


class ClusterSettings(_Section):
    """`[cluster]`: what `scanward submit` asks of Slurm."""

    nodes: Annotated[int, Field(ge=1, le=1000)] = 2
    """Elements of the job array; each takes `workers` processors of one node."""

    workers: Annotated[int, Field(ge=1, le=1024)] = 4
    """Worker processes of one element."""

    memory_gib: Annotated[int, Field(ge=1, le=65_536)] = 8
    """Memory of one element."""

    hours: Annotated[float, Field(gt=0.02, le=10_000)] = 24
    """After so many hours an element is ended, and goes on behind those who wait."""

    partition: Annotated[str, Field(pattern=r"^[A-Za-z0-9_,.-]*$")] = ""
    """Slurm's partition; empty for its default."""

    account: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]*$")] = ""
    """Whom the time is charged to; empty for Slurm's default."""

    options: tuple[Annotated[str, Field(pattern=r"^--[a-z][a-z-]*(=[^\s]+)?$")], ...] = ()
    """Further options of sbatch, such as --constraint=ib."""


class DaysSettings(_Section):
    """`[days]`: where each site's dump of each day lies, for `SortDays`."""

    sites: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")], ...] = ()
    """The sites, as they stand in the paths."""

    dump: _NamedPath = Path("dump/{site}/{date}")
    """The folder of a day, with {site} and {date} (YYYY-MM-DD) in it."""

    workspace: _NamedPath = Path("workspace/{site}/{date}")
    """The workspace of a day, in the same way."""

    @model_validator(mode="after")
    def _require_places(self) -> DaysSettings:
        for name in ("dump", "workspace"):
            text = str(getattr(self, name))
            for field in ("{site}", "{date}"):
                if field not in text:
                    raise ValueError(f"has a {name} without {field}, so that one would lie where another does")
            if set("{}") & set(text.replace("{site}", "").replace("{date}", "")):
                raise ValueError(f"has a {name} with a brace that belongs to neither {{site}} nor {{date}}")
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("names a site twice")
        return self


# -- the night watch ---------------------------------------------------------------------------------------------------

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}$")]
_Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9:][A-Za-z0-9:._-]{0,252}$")]
_Port = Annotated[int, Field(ge=1, le=65_535)]
_AeTitle = Annotated[str, Field(pattern=r"^[\x20-\x5b\x5d-\x7e]{1,16}$")]
_Share = Annotated[float, Field(gt=0, le=1)]
_Zone = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+/-]{1,60}$")]
_Variable = Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")]
_Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class TargetSettings(_Section):
    """`[[monitor.sites.machines.targets]]`: a PACS or scanner that a machine should reach."""

    name: _Name
    """What it is called in the mail."""

    host: _Host
    """As the machine knows it."""

    port: _Port = 104
    """Of its DICOM service."""

    called: _AeTitle
    """Its AE title."""

    calling: _AeTitle = "SCANWARD"
    """The AE title under which the machine calls it."""

    with_find: bool = False
    """Whether a query that matches nothing is sent too: some answer C-ECHO to anybody."""


class InboxSettings(_Section):
    """`[[monitor.sites.machines.inboxes]]`: a folder into which scans arrive; its files are counted, never named."""

    name: _Name
    """What it is called in the mail, in place of its path."""

    folder: Annotated[str, Field(pattern=r"^/[^\x00-\x1f]*$")]
    """On the machine."""

    failed: Annotated[str, Field(pattern=r"^(/[^\x00-\x1f]*)?$")] = ""
    """The folder of what could not be processed; empty for none."""

    newest_hours: Annotated[float, Field(gt=0)] | None = None
    """On a scan day the newest file may be so old."""

    oldest_hours: Annotated[float, Field(gt=0)] | None = None
    """No file may wait for longer."""

    most_waiting: Annotated[int, Field(ge=0)] | None = None
    """So many files may wait."""

    most_failed: Annotated[int, Field(ge=0)] = 0
    """So many files may lie in the folder of failures."""


class ExtraSettings(_Section):
    """`[[monitor.sites.machines.extras]]`: a check of the site's own, with Nagios' exit codes."""

    name: _Name
    """What it is called in the mail."""

    command: Annotated[str, Field(min_length=1, max_length=2000)]
    """A line for the machine's shell."""

    shows_line: bool = False
    """Whether the first line that it writes may stand in the mail: it must name no patient."""


class DiskSettings(_Section):
    """`[[monitor.sites.machines.disks]]`: a file system with limits of its own."""

    mount: Annotated[str, Field(min_length=1, max_length=500)]
    """Where it is mounted."""

    warning: _Share = 0.85
    """So full, from 0 to 1, it is told."""

    critical: _Share = 0.95
    """So full it is critical."""

    least_free_gb: Annotated[float, Field(ge=0)] = 0.0
    """Fewer gigabytes are critical, however large it is."""


class MachineSettings(_Section):
    """`[[monitor.sites.machines]]`: a machine that is asked over SSH."""

    name: _Name
    """What it is called in the mail; no two have the same."""

    host: _Host
    """Its address, or a name in ssh_config."""

    port: _Port | None = None
    """Of its SSH server; 22, or what ssh_config says."""

    user: Annotated[str, Field(pattern=r"^[^\s\x00]{0,64}$")] = ""
    """The account; what ssh_config says if empty."""

    key_file: _NamedPath | None = None
    """The private key; what ssh_config says, or the agent's keys, if left out."""

    jump: Annotated[tuple[_Host, ...], Field(max_length=4)] = ()
    """Machines to pass on the way, names in ssh_config or addresses; what ProxyJump there says if empty."""

    system: Literal["posix", "windows"] = "posix"
    """Whether it has a POSIX shell (Linux, NAS, macOS) or PowerShell."""

    installed: bool = False
    """Whether the probe lies there as a file (`scanward monitor probe`), so that the key may run nothing else."""

    mounts: tuple[str, ...] = ()
    """Mount points to look at; all that hold data if empty."""

    services: tuple[str, ...] = ()
    """Units of systemd, or services, that should run."""

    processes: tuple[str, ...] = ()
    """Texts of which at least one process should have each in its command line."""

    ports: tuple[_Port, ...] = ()
    """TCP ports on which something should listen."""

    certificates: tuple[str, ...] = ()
    """Certificate files whose end is watched."""

    disks: tuple[DiskSettings, ...] = ()
    """File systems with limits of their own."""

    inboxes: tuple[InboxSettings, ...] = ()
    """Folders into which scans arrive."""

    extras: tuple[ExtraSettings, ...] = ()
    """Checks of the site's own."""

    targets: tuple[TargetSettings, ...] = ()
    """PACS and scanners that it should reach."""


class SiteSettings(_Section):
    """`[[monitor.sites]]`: a hospital or lab."""

    name: _Name
    """What it is called in the mail."""

    time_zone: _Zone = "UTC"
    """Its own, such as Australia/Perth."""

    scan_days: tuple[_Weekday, ...] = ("mon", "tue", "wed", "thu", "fri")
    """Days on which scans should come."""

    holidays: Annotated[str, Field(pattern=r"^([A-Z]{2}(-[A-Z0-9]{1,4})?)?$")] = ""
    """Country, and state, whose public holidays are none of them, such as AU-WA, NZ or TW; empty for none."""

    closed: tuple[Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")], ...] = ()
    """Further dates on which no scans come."""

    maintenance: tuple[
        Annotated[str, Field(pattern=r"^(mon|tue|wed|thu|fri|sat|sun) \d{2}:\d{2}-\d{2}:\d{2}$")], ...
    ] = ()
    """When problems are no news, in the site's own time, such as "sun 02:00-06:00"."""

    machines: tuple[MachineSettings, ...] = ()
    """What stands there."""


class MonitorSettings(_Section):
    """`[monitor]`: the night watch over remote machines."""

    fleet: _Name = "scanward"
    """Stands in the mail's subject."""

    time_zone: _Zone = "UTC"
    """Of those who read the mail."""

    known_hosts: _NamedPath | None = None
    """The file of host keys; identified/monitor/known_hosts if left out. `scanward monitor enrol` writes it."""

    ssh_config: _NamedPath | None = None
    """A configuration of OpenSSH to take host names, users, keys and ways (ProxyJump) from."""

    passphrase_variable: _Variable = ""
    """The name of the environment variable that holds the passphrase of the keys; empty for none."""

    references: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+:\d{1,5}$")], ...] = ()
    """host:port of what answers whenever this machine has its network, such as the gateway."""

    workers: Annotated[int, Field(ge=1, le=256)] = 32
    """Machines that are asked at once."""

    step_seconds: Annotated[float, Field(ge=1, le=120)] = 10.0
    """For each of connecting, greeting and login."""

    probe_seconds: Annotated[float, Field(ge=5, le=300)] = 25.0
    """For a machine's answer."""

    machine_seconds: Annotated[float, Field(ge=10, le=600)] = 45.0
    """For all of one machine, its targets included."""

    fleet_seconds: Annotated[float, Field(ge=30, le=7200)] = 600.0
    """For all machines."""

    again_after_seconds: tuple[Annotated[float, Field(ge=0, le=3600)], ...] = (5.0, 12.0)
    """Pauses before each further try of those that did not answer."""

    disk_warning: _Share = 0.85
    """So full, from 0 to 1, a file system is told."""

    disk_critical: _Share = 0.95
    """So full it is critical."""

    heartbeat_url: Annotated[str, Field(pattern=r"^(https?://[^\s]+)?$")] = ""
    """Asked when the watch begins (/start) and ends, as Healthchecks does; somebody else tells when it is silent."""

    heartbeat_machines: tuple[_Name, ...] = ()
    """Machines that get a file at the end; configs/cron/heartbeat.sh there mails when it is old."""

    sites: tuple[SiteSettings, ...] = ()
    """The fleet."""

    @model_validator(mode="after")
    def _require_differences(self) -> MonitorSettings:
        names = [machine.name for site in self.sites for machine in site.machines]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"has the machine {twice[0]!r} twice")
        sites = [site.name for site in self.sites]
        if len(set(sites)) < len(sites):
            raise ValueError("has two sites of one name")
        unknown = sorted(set(self.heartbeat_machines) - set(names))
        if unknown:
            raise ValueError(f"heartbeat_machines names {unknown[0]!r}, which is no machine")
        return self


class RelaySettings(_Section):
    """`[[mail.relays]]`: a server that takes mail; the first is used as long as it works."""

    host: _Host
    """Where it listens."""

    port: _Port = 587
    """587 for STARTTLS, 465 for TLS from the start, 25 in the own house."""

    security: Literal["starttls", "tls", "plain"] = "starttls"
    """`plain` sends in the clear, for a relay in the own house."""

    user: str = ""
    """To log in with; empty for no login."""

    password_file: _NamedPath | None = None
    """File, mode 0600, with the password."""

    password_variable: _Variable = ""
    """Or the name of the environment variable that holds it."""

    ca_file: _NamedPath | None = None
    """Certificates of an authority of the own house."""


class MailSettings(_Section):
    """`[mail]`: who gets the night watch's report, and how."""

    sender: Annotated[str, Field(pattern=r"^([^@\s<>]+@[^@\s<>]+)?$")] = ""
    """From whom it comes; the relay must be allowed to send for it."""

    recipients: tuple[Annotated[str, Field(pattern=r"^[^@\s<>]+@[^@\s<>]+$")], ...] = ()
    """Who gets it; without any it is written to the disk alone."""

    retry_hours: Annotated[float, Field(ge=0, le=24)] = 6.0
    """For how long a relay that is down is tried."""

    relays: tuple[RelaySettings, ...] = ()
    """Servers that take it."""

    @model_validator(mode="after")
    def _require_a_way(self) -> MailSettings:
        if self.recipients and not (self.relays and self.sender):
            raise ValueError("names recipients, so it needs a sender and at least one of [[mail.relays]]")
        for relay in self.relays:
            if relay.user and relay.password_file is None and not relay.password_variable:
                raise ValueError(f"relay {relay.host} has a user, so it needs password_file or password_variable")
        return self


class StudySettings(_Section):
    """A whole study file."""

    dump: _NamedPath
    """The folder with the scanner's files; nothing in it is ever changed."""

    workspace: _NamedPath
    """The folder for everything scanward makes."""

    index: IndexSettings = IndexSettings()
    archives: ArchiveSettings = ArchiveSettings()
    sort: SortSettings = SortSettings()
    deidentify: DeidentifySettings = DeidentifySettings()
    review: ReviewSettings = ReviewSettings()
    reading: ReadingSettings = ReadingSettings()
    monitor: MonitorSettings = MonitorSettings()
    mail: MailSettings = MailSettings()
    chunks: ChunkSettings = ChunkSettings()
    hosts: HostsSettings = HostsSettings()
    cluster: ClusterSettings = ClusterSettings()
    days: DaysSettings = DaysSettings()


def read_study(path: Path | None, *, dump: Path | None = None, workspace: Path | None = None) -> StudySettings:
    """Read a study file; `dump` and `workspace`, where given, stand in for its keys.

    Relative paths in the file are relative to the folder it stands in.

    Raises
    ------
    StudyFileError
        With every fault found, each with its place in the file.
    """
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = tomllib.loads(path.read_text("utf-8"))
        except OSError as fault:
            raise StudyFileError(path=path, faults="it cannot be read") from fault
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
            raise StudyFileError(path=path, faults=f"it is not TOML ({fault})") from fault
    for name, given in (("dump", dump), ("workspace", workspace)):
        if given is not None:
            content[name] = str(given)
    try:
        # JSON mode, because strict Python mode refuses text for paths.
        # No key takes a date or a time, the only values of TOML that JSON has no word for: a list fails wherever it is.
        settings = StudySettings.model_validate_json(json.dumps(content, default=lambda _: []))
    except ValidationError as fault:
        faults = "; ".join(_describe(error) for error in fault.errors())
        raise StudyFileError(path=path or "(none)", faults=faults) from fault
    base = path.parent.absolute() if path is not None else Path.cwd()
    given_here = {"dump": dump, "workspace": workspace}
    # What stands on the command line is relative to where that was typed, not to the study file.
    here = {name: value.absolute() for name, value in given_here.items() if value is not None}
    return _rooted(settings, base).model_copy(update=here)


_Model = TypeVar("_Model", bound=BaseModel)


def _rooted(section: _Model, base: Path) -> _Model:
    """Make every path in a section, and in those below it, absolute."""

    def rooted(value: Any) -> Any:
        if isinstance(value, Path):
            return base / value
        if isinstance(value, BaseModel):
            return _rooted(value, base)
        return tuple(rooted(one) for one in value) if isinstance(value, tuple) else value

    return section.model_copy(update={name: rooted(getattr(section, name)) for name in type(section).model_fields})


def _describe(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    kinds = {"extra_forbidden": "is no key of a study file", "missing": "is missing"}
    message = error["msg"].removeprefix("Value error, ")
    return f"{place} {kinds.get(error['type'], message[:1].lower() + message[1:])}"
