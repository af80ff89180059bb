"""One study on several hosts: the same bytes as on one, whoever joins, dies, stands still or meets a fault."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tasks.worklist import read_advance
from tests.builders.world import make_dump, make_instance, write_instance
from tests.pipelines.command import (
    central_scheduler,
    counts_of,
    digests,
    faults_of,
    luigi,
    run,
    scanward,
    use_secret,
    wait_until,
)
from tests.pipelines.hosts import (
    SHIPPED,
    Alone,
    Host,
    assert_as_alone,
    go_on,
    host,
    made_of,
    shared_scheduler,
    stop,
    who_did,
    words_for,
)

STAGES = ("index", "sort", "harvest", "deidentify", "prepare-review")


def wait_for(one: Host, workspace: Path, stage: str, *, chunks: int = 1) -> None:
    """Wait until some chunks of a stage are done."""

    def far_enough() -> bool:
        assert one.process.poll() is None, one.said
        advances = read_advance(workspace / "identified" / "plans")
        return any(advance.stage == stage and advance.chunks_done >= chunks for advance in advances)

    wait_until(far_enough, what=f"{chunks} chunks of {stage}")


def test_two_hosts_make_what_one_makes(alone: Alone, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    use_secret(workspace)
    with shared_scheduler(tmp_path / "luigid") as scheduler:
        words = words_for("PrepareReview", alone.dump, workspace, scheduler=scheduler.url)
        with host("one", words, cwd=tmp_path) as one, host("two", words, cwd=tmp_path) as two:
            for ended in (one.end(), two.end()):
                assert ended.code == 0, ended.said + faults_of(workspace)
                assert "Prepared: " in ended.said
        did = {stage: who_did(scheduler, stage) for stage in STAGES}
        assert all(did.values()), did
        assert set.union(*did.values()) == {"one", "two"}, did
        assert {facts["status"] for facts in scheduler.tasks().values()} == {"DONE"}
        assert_as_alone(workspace, alone)
        # Again, with nothing new.
        with host("three", words, cwd=tmp_path) as three:
            ended = three.end()
    assert ended.code == 0
    assert ended.said.count("(nothing new)") == 6
    # And alone, as if it had always been so.
    ended = luigi("PrepareReview", "--study", workspace.with_suffix(".toml"), cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert ended.said.count("(nothing new)") == 6
    assert_as_alone(workspace, alone)


def test_who_joins_late_takes_part_and_who_dies_loses_its_chunk_alone(alone: Alone, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    use_secret(workspace)
    with shared_scheduler(tmp_path / "luigid") as scheduler:
        words = words_for("PrepareReview", alone.dump, workspace, scheduler=scheduler.url)
        with host("first", words, cwd=tmp_path) as first:
            wait_for(first, workspace, "index")
            with host("late", words, cwd=tmp_path) as late:
                wait_until(
                    lambda: any("late" in who_did(scheduler, stage) for stage in STAGES),
                    what="the late host to take part",
                )
                first.kill()
                died = time.monotonic()

                def taken_up() -> bool:
                    running = [
                        facts for facts in scheduler.tasks().values() if facts["status"] in ("RUNNING", "FAILED")
                    ]
                    return not any("host=first" in str(facts["worker_running"]) for facts in running)

                wait_until(taken_up, what="the dead host's work to be taken up", seconds=15)
                assert time.monotonic() - died < 15
                ended = late.end()
        assert ended.code == 0, ended.said + faults_of(workspace)
    assert_as_alone(workspace, alone)


def test_a_scheduler_that_dies_and_comes_back_costs_a_second_start(alone: Alone, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    use_secret(workspace)
    with contextlib.ExitStack() as held:
        scheduler = held.enter_context(shared_scheduler(tmp_path / "luigid"))
        port = int(scheduler.url.rpartition(":")[2])
        words = words_for("PrepareReview", alone.dump, workspace, scheduler=scheduler.url)
        with host("one", words, cwd=tmp_path) as one, host("two", words, cwd=tmp_path) as two:
            wait_for(one, workspace, "deidentify")
            scheduler.process.send_signal(signal.SIGKILL)
            scheduler.process.wait()
            held.enter_context(
                central_scheduler(tmp_path / "again", port=port, env={"LUIGI_CONFIG_PATH": str(SHIPPED)})
            )
            for ended in (one.end(), two.end()):
                assert ended.code != 0
                assert "Traceback" not in ended.said
        with host("one", words, cwd=tmp_path) as one, host("two", words, cwd=tmp_path) as two:
            for ended in (one.end(), two.end()):
                assert ended.code == 0, ended.said + faults_of(workspace)
    assert_as_alone(workspace, alone)


def test_a_host_that_stood_still_does_no_harm_when_it_goes_on(alone: Alone, tmp_path: Path) -> None:
    """It was taken for dead and its work was done by the other; then it goes on where it was, and finds that out."""
    workspace = tmp_path / "w"
    use_secret(workspace)
    with shared_scheduler(tmp_path / "luigid") as scheduler:
        words = words_for("PrepareReview", alone.dump, workspace, scheduler=scheduler.url)
        with host("sleeper", words, cwd=tmp_path) as sleeper, host("other", words, cwd=tmp_path) as other:
            wait_for(sleeper, workspace, "deidentify", chunks=2)
            stop(sleeper)
            ended = other.end()
            assert ended.code == 0, ended.said + faults_of(workspace)
            go_on(sleeper)
            sleeper.end()
            assert "Traceback" not in sleeper.said
    assert_as_alone(workspace, alone)


def test_what_one_host_cannot_do_the_other_does(alone: Alone, tmp_path: Path) -> None:
    """A host that may write small files only fails, says so and leaves; the other ends with everything done."""
    workspace = tmp_path / "w"
    use_secret(workspace)
    with shared_scheduler(tmp_path / "luigid") as scheduler:
        words = words_for("PrepareReview", alone.dump, workspace, scheduler=scheduler.url)
        with (
            host("weak", words, cwd=tmp_path, before="trap '' XFSZ; ulimit -f 64") as weak,
            host("strong", words, cwd=tmp_path) as strong,
        ):
            weakly, strongly = weak.end(), strong.end()
    assert strongly.code == 0, strongly.said + faults_of(workspace)
    assert weakly.code == 30, weakly.said
    assert "Traceback" not in weakly.said
    assert_as_alone(workspace, alone)


def test_what_arrives_during_a_run_waits_for_the_next(alone: Alone, tmp_path: Path) -> None:
    dump, workspace = tmp_path / "dump", tmp_path / "w"
    shutil.copytree(alone.dump, dump)
    use_secret(workspace)
    with shared_scheduler(tmp_path / "luigid") as scheduler:
        words = words_for("PrepareReview", dump, workspace, scheduler=scheduler.url)
        with host("first", words, cwd=tmp_path) as first:
            wait_for(first, workspace, "deidentify")
            write_instance(dump / "new", make_instance(9, 1, 1, 1))
            with host("late", words, cwd=tmp_path) as late:
                for ended in (first.end(), late.end()):
                    assert ended.code == 0, ended.said + faults_of(workspace)
        assert_as_alone(workspace, alone)
        with host("next", words, cwd=tmp_path) as following:
            ended = following.end()
        assert ended.code == 0, ended.said + faults_of(workspace)
    assert counts_of(workspace, "index")["read_now"] == 1
    assert len(made_of(workspace)[0]) == len(alone.sorted_tree) + 1


def test_no_more_write_at_once_than_the_study_file_allows(alone: Alone, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    use_secret(workspace)
    most = 0
    with shared_scheduler(tmp_path / "luigid") as scheduler:
        words = words_for(
            "DeidentifyStudy", alone.dump, workspace, scheduler=scheduler.url, more="writers = 1\n", workers=2
        )
        with host("one", words, cwd=tmp_path) as one, host("two", words, cwd=tmp_path) as two:
            while one.process.poll() is None or two.process.poll() is None:
                running = [facts for facts in scheduler.tasks().values() if facts["status"] == "RUNNING"]
                most = max(most, sum(facts["name"] == "DoPortion" for facts in running))
                time.sleep(0.02)
            for ended in (one.end(), two.end()):
                assert ended.code == 0, ended.said + faults_of(workspace)
    assert most == 1


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://scheduler.example.org:8082", False),
        ("http://192.0.2.7:8082", False),
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
    ],
)
def test_a_scheduler_by_plain_http_elsewhere_is_refused(url: str, allowed: bool, tmp_path: Path) -> None:
    make_dump(tmp_path / "dump")
    study = ("--dump", tmp_path / "dump", "--workspace", tmp_path / "w")
    env = {"LUIGI_CONFIG_PATH": str(tmp_path / "luigi.cfg")}
    (tmp_path / "luigi.cfg").write_text("[core]\nrpc-retry-attempts = 1\nrpc-connect-timeout = 1\n")
    ended = luigi("SortStudy", *study, "--scheduler-url", url, cwd=tmp_path, env=env)
    assert "Traceback" not in ended.said
    if allowed:
        assert ended.code == 40
        assert ended.lines_with("The scheduler does not answer"), ended.said
    else:
        assert ended.code == 18
        assert ended.lines_with("would be asked by plain HTTP"), ended.said
        assert not (tmp_path / "w" / "identified" / "sorted").exists() or not list(
            (tmp_path / "w" / "identified" / "sorted").iterdir()
        )


def test_another_version_does_not_take_part(alone: Alone, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    (workspace / "identified" / "plans").mkdir(parents=True)
    (workspace / "identified" / "plans" / "run.json").write_text(
        '{"token": "00", "dump": "", "software": "0.0.1"}', "ascii"
    )
    with shared_scheduler(tmp_path / "luigid") as scheduler:
        ended = run(words_for("SortStudy", alone.dump, workspace, scheduler=scheduler.url), cwd=tmp_path)
    assert ended.code == 18
    assert ended.lines_with("scanward 0.0.1"), ended.said


def test_status_tells_how_far_all_hosts_are(alone: Alone, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    with shared_scheduler(tmp_path / "luigid") as scheduler:
        words = words_for("DeidentifyStudy", alone.dump, workspace, scheduler=scheduler.url)
        with host("one", words, cwd=tmp_path) as one:
            wait_for(one, workspace, "deidentify", chunks=2)
            stop(one)
            before = digests(workspace / "identified")
            told = scanward("status", "--workspace", workspace, cwd=tmp_path)
            assert digests(workspace / "identified") == before, "who looks changes nothing"
            go_on(one)
            assert one.end().code == 0
    assert told.code == 0, told.said
    assert told.lines_with("De-identifying"), told.said


# --- the kill matrix

POINTS = {"worker": 20, "scheduler": 20, "host": 5, "everything": 5}
"""What is killed, and at how many moments."""


def kill_and_go_on(victim: str, alone: Alone, folder: Path, chance: random.Random) -> bool:
    """Kill something at a moment drawn by chance, have others end it or start anew; tell whether anything still ran."""
    workspace = folder / "w"
    use_secret(workspace)
    with contextlib.ExitStack() as held:
        scheduler = held.enter_context(shared_scheduler(folder / "luigid"))
        port = int(scheduler.url.rpartition(":")[2])
        words = words_for("PrepareReview", alone.dump, workspace, scheduler=scheduler.url, workers=2)
        one = held.enter_context(host("one", words, cwd=folder))
        two = held.enter_context(host("two", words, cwd=folder))
        until = time.monotonic() + chance.uniform(0.5, 1.3 * alone.seconds)
        while time.monotonic() < until and one.process.poll() is None:
            time.sleep(0.01)
        running = one.process.poll() is None
        if victim in ("host", "everything"):
            one.kill()
        if victim == "everything":
            two.kill()
        if victim == "worker":
            kill_a_child_of(one, chance)
        if victim in ("scheduler", "everything"):
            scheduler.process.send_signal(signal.SIGKILL)
            scheduler.process.wait()
            held.enter_context(central_scheduler(folder / "again", port=port, env={"LUIGI_CONFIG_PATH": str(SHIPPED)}))
        codes = [one.end().code, two.end().code]
        if victim in ("worker", "host"):
            assert codes[1] == 0, two.said + faults_of(workspace)
        if codes[1] != 0:
            with host("three", words, cwd=folder) as three:
                ended = three.end()
            assert ended.code == 0, ended.said + faults_of(workspace)
        assert "Traceback" not in one.said + two.said
    assert_as_alone(workspace, alone)
    return running


def kill_a_child_of(one: Host, chance: random.Random) -> None:
    """Kill one of the processes that work for a host's command."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        workers = psutil.Process(one.process.pid).children(recursive=True)[1:]
        if workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(workers).kill()


@pytest.mark.parametrize("victim", POINTS)
def test_killed_at_a_moment(victim: str, alone: Alone, tmp_path: Path) -> None:
    kill_and_go_on(victim, alone, tmp_path, random.Random(victim))


@pytest.mark.long
@pytest.mark.parametrize(
    ("victim", "number"), [(victim, number) for victim, points in POINTS.items() for number in range(points)]
)
def test_killed_at_many_moments(victim: str, number: int, alone: Alone, tmp_path: Path) -> None:
    kill_and_go_on(victim, alone, tmp_path, random.Random(f"{victim} {number}"))
