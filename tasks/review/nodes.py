"""The nodes that nipype runs for us, and the peace in which it does: the only module that imports it.

Left alone, nipype asks a server for its newest version, reads settings from the home and from the current folder,
prints to standard output, and writes the environment, the host and the user's name into its work folder. Here it has
our settings from its first line on, its nodes are given no environment but what they need, and the folder it works in
is its caller's to take away.

nipype changes the current folder of the process while a node runs, and changes it back: use it in the only thread that
works with relative paths.
"""

from __future__ import annotations

import configparser
import contextlib
import errno
import logging
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SETTINGS = {
    "logging": {
        "workflow_level": "CRITICAL",
        "utils_level": "CRITICAL",
        "interface_level": "CRITICAL",
        "log_to_file": "false",
    },
    "execution": {
        "check_version": "false",  # no question to a server
        "create_report": "false",  # a report holds the whole environment
        "write_provenance": "false",  # it holds the host's name
        "crashfile_format": "txt",
        "get_linked_libs": "false",  # no ldd before each program
        "hash_method": "timestamp",  # of contents it would read all images once more; no node here runs twice
        "plugin": "Linear",  # what runs at the same time is decided by the pipeline, in chunks
        "remove_unnecessary_outputs": "false",  # it would take away sidecars that no node asks for
        "stop_on_unknown_version": "false",
        "use_relative_paths": "false",
    },
    "monitoring": {"enabled": "false"},
}
"""nipype's settings, in place of all that it would read from files."""

_SETTINGS_FILE = "nipype.cfg"


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    """Have a settings file of nipype read as `SETTINGS`: it acts on them, and may use the network, while imported."""
    read = configparser.RawConfigParser.read

    def read_ours(parser: configparser.RawConfigParser, files: Any, encoding: str | None = None) -> list[str]:
        if any(os.path.basename(os.fspath(file)) == _SETTINGS_FILE for file in _listed(files)):
            parser.read_dict(SETTINGS)
            return []
        return read(parser, files, encoding)

    configparser.RawConfigParser.read = read_ours  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        configparser.RawConfigParser.read = read  # type: ignore[method-assign]


def _listed(files: Any) -> Iterable[Any]:
    return [files] if isinstance(files, str | bytes | os.PathLike) else list(files)


def _silence() -> None:
    """Hold to our settings also if somebody else imported nipype before, and send what it logs nowhere."""
    for section, options in SETTINGS.items():
        for option, value in options.items():
            nipype.config.set(section, option, value)
    nipype.config.disable_resource_monitor()
    nipype.logging.update_logging(nipype.config)
    logger = logging.getLogger("nipype")
    logger.handlers[:] = [logging.NullHandler()]
    logger.propagate = False


with _own_settings():
    import nipype
    from nipype.algorithms.confounds import TSNR, NonSteadyStateDetector
    from nipype.interfaces.dcm2nii import Dcm2niix
    from nipype.pipeline.engine import Node, Workflow
_silence()


class NodeError(Exception):
    """nipype itself stopped, not what it ran; its own words quote paths, and are not kept."""


class StartError(Exception):
    """The program is not there, or is none that this machine can start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended.

    Attributes
    ----------
    exit_code
        Negative if a signal ended it.
    timed_out
        True if it was ended because it took too long.
    """

    exit_code: int
    timed_out: bool


class _Reticent:
    """Writes neither the environment nor the machine's name into its node's folder, as nipype's nodes else do."""

    environment: Mapping[str, str] = {}

    def _pre_run_hook(self, runtime: Any) -> Any:
        runtime.environ = dict(self.environment)
        runtime.hostname = runtime.platform = ""
        return runtime


class _Ratio(_Reticent, TSNR):  # type: ignore[misc]
    """Mean, standard deviation and their ratio over time."""


class _Steady(_Reticent, NonSteadyStateDetector):  # type: ignore[misc]
    """How many volumes at the beginning are not in the steady state."""


class Converter(_Reticent, Dcm2niix):  # type: ignore[misc]
    """dcm2niix with nipype's options, run without a shell, without our environment, and ended after a time.

    Parameters
    ----------
    seconds
        After which it is killed with all it started.
    output
        The file that gets what it prints.
    environment
        All the environment it has.
    """

    def __init__(self, *, seconds: float, output: Path, environment: Mapping[str, str], **inputs: Any) -> None:
        super().__init__(**inputs)
        self.seconds = seconds
        self.output = output
        self.environment = dict(environment)
        self.ended: Ended | None = None
        self.fault: BaseException | None = None

    @property
    def version(self) -> None:
        """No version: nipype would start whatever is called dcm2niix on PATH, with all of the environment."""
        return

    def _format_arg(self, name: str, spec: Any, value: Any) -> Any:
        # dcm2niix has room for so many characters of a path, and the way to a workspace may be long.
        if name in ("source_dir", "output_dir"):
            value = os.path.relpath(value)
        return super()._format_arg(name, spec, value)

    def _run_interface(self, runtime: Any, correct_return_codes: tuple[int, ...] = ()) -> Any:  # noqa: ARG002
        # Not nipype's own: it starts a shell, waits for ever, takes exit codes 2 and 8 for a crash, and finds the
        # output by words that a space in a path tears apart.
        runtime.cmdline = self.cmdline
        runtime.stdout = runtime.stderr = ""
        runtime.returncode = 0
        try:
            self.ended = _run(shlex.split(self.cmdline), self.environment, self.output, self.seconds)
            runtime.returncode = self.ended.exit_code
        except BaseException as fault:  # noqa: BLE001 - nipype would make even an interrupt a line in a crash file
            self.fault = fault
        runtime.success_codes = (runtime.returncode,)
        return runtime

    def _list_outputs(self) -> dict[str, Any]:
        return {}


def convert(*, program: str, source: Path, target: Path, folder: Path, output: Path, seconds: float) -> Ended:
    """Run dcm2niix on a folder of DICOM files, as the one node of a workflow.

    Parameters
    ----------
    program
        The path of dcm2niix.
    source, target
        The folder of the files, and that of the images, which is there and empty. Images are called `image` with the
        endings of dcm2niix, and are not compressed; sidecars tell everything.
    folder
        For nipype's own files; also the home that dcm2niix sees. The caller takes it away.
    output
        The file that gets what dcm2niix prints.
    seconds
        After which dcm2niix is killed.

    Raises
    ------
    NodeError
        If nipype failed.
    StartError
        If the program cannot be started.
    """
    home = folder / "home"
    home.mkdir()
    with _words_kept():
        converter = Converter(
            command=shlex.quote(program),
            seconds=seconds,
            output=output,
            environment={"PATH": os.defpath, "HOME": str(home)},
            source_dir=str(source),
            output_dir=str(target),
            out_filename="image",
            compress="n",
            bids_format=True,
            anon_bids=False,
            merge_imgs=2,  # dcm2niix's own default; nipype's is another
            args="-g i -d 0",  # no defaults file, no folders below
        )
        (node,) = _run_nodes([Node(converter, name="convert")], folder)
    done: Converter = node.interface
    if done.fault is not None:
        raise done.fault
    if done.ended is None:
        raise NodeError
    return done.ended


def time_course(image: Path, folder: Path) -> tuple[Path, Path, Path, int]:
    """Measure a series of volumes over time, with nipype's TSNR and NonSteadyStateDetector.

    Parameters
    ----------
    image
        Four axes, the last one time.
    folder
        For nipype's own files and the results. The caller takes it away.

    Returns
    -------
    mean, sd, tsnr, unsteady
        Uncompressed images, and how many volumes at the beginning are not in the steady state.

    Raises
    ------
    NodeError
        If nipype failed, as with an image that has three axes.
    """
    with _words_kept():
        ratio = _Ratio(in_file=str(image), mean_file="mean.nii", stddev_file="sd.nii", tsnr_file="tsnr.nii")
        steady = _Steady(in_file=str(image))
        ran = _run_nodes([Node(ratio, name="tsnr"), Node(steady, name="steady")], folder)
        nodes = {node.name: node for node in ran}
        results = Path(nodes["tsnr"].output_dir())
        unsteady = int(nodes["steady"].get_output("n_volumes_to_discard"))
    return results / "mean.nii", results / "sd.nii", results / "tsnr.nii", unsteady


def _run_nodes(nodes: list[Any], folder: Path) -> list[Any]:
    """Run nodes that need nothing of each other, one after the other, and return them as they were run."""
    workflow = Workflow(name="nipype", base_dir=str(folder))
    workflow.config["execution"] = {"crashdump_dir": str(folder)}
    workflow.add_nodes(nodes)
    return list(workflow.run(plugin="Linear").nodes())


@contextlib.contextmanager
def _words_kept() -> Iterator[None]:
    """Let nipype say that it failed, and no more."""
    try:
        yield
    except Exception:  # noqa: BLE001 - whatever it raises, the text holds paths and a node's whole output
        raise NodeError from None


def _run(command: list[str], environment: Mapping[str, str], output: Path, seconds: float) -> Ended:
    """Run a program in a process group of its own, which is killed after a time, and in any case in the end."""
    with open(output, "wb") as stream:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as fault:
            if fault.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
                raise StartError from None
            raise
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill_group(process.pid)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        # Not Popen.wait(timeout), which looks only every 50 ms; and not yet collected, so that the number is still its.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    finally:
        timer.cancel()
        timer.join()
        _kill_group(process.pid)  # what it left running would write on
        process.wait()
    return Ended(exit_code=process.returncode, timed_out=late.is_set() and process.returncode == -signal.SIGKILL)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
