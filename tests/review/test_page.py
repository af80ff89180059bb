"""The page of a study opens without a network, shows every text as text, and lets cases be found, sorted and opened."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import http.server
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.review.finding import CODES, finding
from tasks.review.geometry import Geometry
from tasks.review.manifest import NIFTI, Entry, ImageRecord
from tasks.review.page import MOST_COLUMNS, PageCase, PageImage, page_case, render_page, write_page
from tests.builders.network import no_network
from tests.review.browser import Browser, browser

ADVICE = "DVARS is 41.2, far above the 22.4 that is usual here"
HOSTILE = (
    "<img src=x onerror=window.hacked=1>",
    "</script><script>window.hacked=1</script>",
    "<!--<script>",
    "{{facts}} {{script}}",
    "\"'>&amp;&lt; \u2028 \\u003c",
    "javascript:window.hacked=1",
    "東京 Ünïcödé \U0001f9e0",
)


def _cases(subjects: int) -> list[PageCase]:
    """Make a study of three visits and three series each, with a fault, a flag and so on at fixed places."""
    made = []
    for subject in range(1, subjects + 1):
        for visit in ("ses-20230312", "ses-20240318", "ses-20250401"):
            for number, (kind, description) in enumerate(
                (("anat/T1w", "MR 3D GR, 176 slices"), ("func/task-rest_bold", "MR 2D EP"), ("dwi/dwi", "MR 2D EP SE"))
            ):
                name, series = f"SUB-{subject:04d}", f"{200 + 100 * number:06d}_0a1b2c3d"
                entry_id = f"{name}_{visit}_{series}"
                short = kind.partition("/")[2]
                made.append(
                    PageCase(
                        entry_id=entry_id,
                        subject=name,
                        visit=visit,
                        series=series,
                        modality="MR",
                        description=description,
                        kind=kind,
                        verdict="volume",
                        images=(PageImage(name=f"sub-{subject:04d}/{visit}/{kind}/x_{short}", named_by="rule"),),
                        metrics=(("tSNR", "48.2"), ("spikes", str(number))),
                        montage=f"montage/{entry_id}.png",
                        thumbnail=f"thumbnail/{entry_id}.png",
                        course=f"course/{entry_id}.png" if number else None,
                    )
                )
    changes: dict[int, dict[str, Any]] = {
        1: {"faults": (finding("gap", "Slices are missing.", ["000001_a.dcm"]),), "verdict": "stack"},
        4: {"flags": (ADVICE, "A long sentence that says more of the same. " * 9)},
        5: {"is_complete": False},
        7: {"images": (), "no_images": "Nothing came out.", "faults": (finding("not-converted", "No image."),) * 2},
        8: {"images": (PageImage(name="sub-0001/x_dwi", named_by="guess"),)},
    }
    changes[10] = {"description": "MR with very many words " * 20, "faults": changes[1]["faults"]}
    changes[10]["images"] = (PageImage(name="sub-0002/func/sub-0002_" + "acq-long_run-12_" * 12, named_by="guess"),) * 3
    for place, change in changes.items():
        if place < len(made):
            made[place] = replace(made[place], **change)
    return made


def _draw(folder: Path, cases: list[PageCase]) -> None:
    """Make the pictures that cases name."""
    for name in ("montage", "thumbnail", "course"):
        (folder / name).mkdir(parents=True)
        for case in cases:
            path = getattr(case, name)
            if path:
                seed = int(hashlib.sha256(path.encode()).hexdigest()[:8], 16)
                grey = np.random.default_rng(seed).integers(0, 255, (12, 16), np.uint8)
                size = (160, 120) if name == "thumbnail" else (900, 700)
                Image.fromarray(grey).resize(size, Image.Resampling.NEAREST).save(folder / path)


@pytest.fixture(scope="module")
def chromium(program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start one browser for all tests of this module, without a network."""
    with browser(program("chromium"), tmp_path_factory.mktemp("profile"), *no_network()) as started:
        yield started


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small study's page with its pictures."""
    folder = tmp_path_factory.mktemp("released") / "review"
    cases = _cases(4)
    _draw(folder, cases)
    write_page(folder / "index.html", cases, study="TRIAL-7")
    return folder


@pytest.fixture
def page(chromium: Browser, study: Path) -> Iterator[Browser]:
    """Open the small study's page; whatever a test does, nothing may be complained of and nothing fetched elsewhere."""
    chromium.resize(1280, 800)
    chromium.open("about:blank")
    chromium.requests.clear()
    chromium.complaints.clear()
    chromium.open((study / "index.html").as_uri())
    chromium.settle()
    yield chromium
    assert chromium.complaints == []
    inside = study.as_uri() + "/"
    assert chromium.requests
    assert [one for one in chromium.requests if not one.startswith(inside) and one != "data:,"] == []


def _click(page: Browser, selector: str) -> None:
    page.run(f"document.querySelector({json.dumps(selector)}).click()")
    page.settle()


def _type(page: Browser, text: str) -> None:
    page.run("(box => { box.focus(); box.select(); })(document.getElementById('search'))")
    page.ask("Input.insertText", text=text)
    page.settle()


def _texts(page: Browser, selector: str) -> list[str]:
    found = page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.innerText.trim())")
    assert isinstance(found, list)
    return found


def _shown(page: Browser) -> list[str]:
    """List the entry ids of the list's rows, in their order."""
    return page.run("[...document.querySelectorAll('tbody tr[data-id]')].map(row => row.dataset.id)")


def _columns(page: Browser) -> list[str]:
    return page.run("[...document.querySelectorAll('thead th')].map(one => one.getAttribute('aria-sort'))")


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_same_cases_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    cases = _cases(5)
    write_page(tmp_path / "a" / "index.html", cases, study="TRIAL-7")
    random.Random(3).shuffle(cases)
    write_page(tmp_path / "b" / "index.html", iter(cases), study="TRIAL-7")
    assert (tmp_path / "a" / "index.html").read_bytes() == (tmp_path / "b" / "index.html").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["index.html"]
    assert render_page(cases) != render_page(cases[1:])


def test_everything_given_is_on_the_page_and_nothing_else() -> None:
    case = replace(_cases(1)[1], label="LABEL-1", no_images="WHY-1", no_montage="BARE-1", flags=("FLAG-1",))
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', render_page([case]), re.DOTALL)[1])
    assert len(facts["cases"]) == 1
    held = json.dumps(facts["cases"][0])
    for one in fields(PageCase):
        value = getattr(case, one.name)
        if isinstance(value, str):
            assert value in held, one.name
    assert facts["cases"][0]["faults"] == [["gap", "Slices are missing.", ["000001_a.dcm"]]]
    assert facts["codes"] == {"gap": CODES["gap"][1]}
    assert facts["metrics"] == ["spikes", "tSNR"]
    assert [[facts["metrics"][number], figure] for number, figure in facts["cases"][0]["metrics"]] == [
        ["tSNR", "48.2"],
        ["spikes", "1"],
    ]


def test_the_policy_lets_nothing_run_but_what_is_inside() -> None:
    content = render_page(_cases(1))
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', content)[1])
    rules = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert set(rules["img-src"].split()) == {"'self'", "file:", "data:"}
    for element, rule in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(rf"<{element}>(.*?)</{element}>", content, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert "http" not in content.replace("http-equiv", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_ends_the_element_that_holds_it(text: str) -> None:
    case = replace(_cases(1)[0], description=text, label=text, kind=text, flags=(text,), metrics=((text, text),))
    content = render_page([case], study=text)
    assert content.count("<script") == 2
    assert content.count("</script") == 2
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', content, re.DOTALL)[1])
    assert facts["cases"][0]["description"] == text
    assert facts["columns"] == [text]
    assert html.unescape(re.search("<h1>(.*?)</h1>", content, re.DOTALL)[1]) == f"Review of {text}"


def test_text_that_is_no_unicode_does_not_stop_the_page(tmp_path: Path) -> None:
    write_page(tmp_path / "index.html", [replace(_cases(1)[0], label="broken \udcff name")])
    assert "broken ? name" in (tmp_path / "index.html").read_text("utf-8")


@pytest.mark.parametrize("path", ["/montage/a.png", "../nifti/a.png", "montage/../../a.png", "a\\..\\b.png", ""])
def test_a_picture_elsewhere_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="below the page's folder"):
        write_page(tmp_path / "index.html", [replace(_cases(1)[0], montage=path)])
    assert not (tmp_path / "index.html").exists()


def test_an_entry_id_is_given_once() -> None:
    with pytest.raises(ValueError, match="same entry id"):
        render_page([_cases(1)[0]] * 2)


def test_a_case_is_made_of_a_manifest_entry() -> None:
    entry = Entry(
        entry_id="SUB-0001_ses-1_000300_a",
        subject="SUB-0001",
        visit="ses-1",
        series="000300_a",
        modality="MR",
        description="MR 2D EP",
        sop_class="",
        transfer_syntax="",
        instances=(),
        geometry=Geometry(verdict="stack", findings=(finding("gap", "A gap."), finding("spacing-differs", "A note."))),
        montage="montage/a.png",
        thumbnail="thumbnail/a.png",
        course="course/a.png",
        images=(
            ImageRecord(
                path=f"{NIFTI}/sub-0001/ses-1/func/sub-0001_ses-1_bold.nii.gz",
                sha256="0" * 64,
                size=1,
                shape=(64, 64, 36, 200),
                named_by="guess",
            ),
        ),
        no_images="",
        group="func/bold",
        digest="0" * 64,
        problems=(finding("incomplete-series", "Two files are missing."), finding("unreadable", "One is broken.")),
    )
    case = page_case(entry, data_set=NIFTI, label="rest", flags=["high"], metrics=[("tSNR", "40")])
    assert [one.code for one in case.faults] == ["gap", "unreadable"]
    assert [one.code for one in case.notes] == ["spacing-differs"]
    assert case.is_complete is False
    assert case.images == (
        PageImage(name="sub-0001/ses-1/func/sub-0001_ses-1_bold", named_by="guess", shape=(64, 64, 36, 200)),
    )
    assert (case.column, case.label, case.flags, case.verdict) == ("func/bold", "rest", ("high",), "stack")
    assert (case.montage, case.thumbnail, case.course) == ("montage/a.png", "thumbnail/a.png", "course/a.png")
    assert page_case(replace(entry, problems=()), data_set=NIFTI).is_complete is True


def test_rare_kinds_share_the_last_column_and_no_case_is_lost() -> None:
    cases = _cases(2)
    cases += [
        replace(cases[0], entry_id=f"rare-{number}", series=f"9{number:05d}", kind=f"rare {number:02d}")
        for number in range(20)
    ]
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', render_page(cases), re.DOTALL)[1])
    assert len(facts["columns"]) == MOST_COLUMNS
    # In the order in which a visit has them.
    assert facts["columns"][:3] == ["anat/T1w", "func/task-rest_bold", "dwi/dwi"]
    assert len(facts["cases"]) == len(cases)
    columns = [case["column"] for case in facts["cases"]]
    assert columns.count(MOST_COLUMNS) == 23 - MOST_COLUMNS


# -- in a browser ------------------------------------------------------------------------------------------------------


def test_it_opens_with_all_visits(page: Browser) -> None:
    assert page.run("document.title") == "Review of TRIAL-7"
    assert _texts(page, "#totals") == ["4 subjects, 12 visits, 36 series"]
    assert page.run("document.querySelectorAll('tbody tr:not(.space)').length") == 12
    assert page.run("document.querySelectorAll('tbody button.picture').length") == 36
    page.wait_for(
        "[...document.querySelectorAll('tbody img')].slice(0, 6).every(one => one.complete && one.naturalWidth)"
    )
    assert page.run("document.querySelectorAll('tbody img:not([loading=lazy])').length") == 0
    counts = {text.split("\n")[0]: text.split("\n")[-1] for text in _texts(page, "#states button")}
    assert {name.strip("0123456789 ") for name in counts} == {
        "All",
        "Faults",
        "Incomplete",
        "Not converted",
        "Name guessed",
    }


def test_it_opens_from_a_server_as_well(
    program: Callable[[str], str], study: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            asked.append(self.path)

    serve = functools.partial(Handler, directory=str(study.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with browser(program("chromium"), tmp_path_factory.mktemp("served")) as other:
            other.open(f"http://127.0.0.1:{server.server_port}/review/index.html")
            other.wait_for("[...document.querySelectorAll('tbody img')].slice(0, 6).every(one => one.naturalWidth)")
            _click(other, "tbody button.picture")
            other.wait_for("document.querySelector('#show img').naturalWidth > 0")
            assert "--case SUB-0001" in _texts(other, ".command")[0]
            assert "viewer review manifest.json" in _texts(other, ".command")[0]
            assert other.complaints == []
        server.shutdown()
    assert asked
    assert [path for path in asked if not path.startswith("/review/")] == []


def test_visits_can_be_sorted(page: Browser) -> None:
    def heads() -> list[str]:
        return [text.replace("\n", " ") for text in _texts(page, "tbody th[scope=row]")]

    assert heads() == sorted(heads())
    _click(page, "[data-sort=subject]")
    assert heads() == sorted(heads(), reverse=True)
    assert _columns(page)[:2] == ["descending", "none"]
    _click(page, "[data-sort=faults]")
    assert page.run("document.querySelector('tbody tr:not(.space) .remarks').innerText").startswith("not-converted")
    assert [state for state in _columns(page) if state] == ["none", "none", "descending"]


@pytest.mark.parametrize(
    ("column", "key"),
    [
        ("subject", lambda case: case.subject),
        ("visit", lambda case: case.visit),
        ("series", lambda case: case.kind),
        ("name", lambda case: case.images[0].name if case.images else ""),
        ("verdict", lambda case: case.verdict),
        ("files", lambda case: case.is_complete),
        ("faults", lambda case: -len(case.faults)),
    ],
)
def test_the_list_can_be_sorted_by_each_column(page: Browser, column: str, key: Callable[[PageCase], Any]) -> None:
    cases = _cases(4)
    _click(page, "#view-list")
    page.resize(1280, 4000)
    if column != "subject":
        _click(page, f"[data-sort={column}]")
    expected = sorted(cases, key=key)
    shown = _shown(page)
    by_id = {case.entry_id: case for case in cases}
    assert [key(by_id[one]) for one in shown] == [key(case) for case in expected]
    assert sorted(shown) == sorted(by_id)
    places = [state for state in _columns(page) if state in ("ascending", "descending")]
    assert places == ["descending" if column == "faults" else "ascending"]
    _click(page, f"[data-sort={column}]")
    assert [key(by_id[one]) for one in _shown(page)] == sorted((key(case) for case in cases), reverse=True)
    assert page.run("document.activeElement.dataset.sort") == column


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("sub-0003", lambda case: case.subject == "SUB-0003"),
        ("SUB-0003 t1W", lambda case: case.subject == "SUB-0003" and case.kind == "anat/T1w"),
        ("slices are missing", lambda case: bool(case.faults) and bool(case.images)),
        ("not-converted", lambda case: not case.images),
        ("41.2", lambda case: False),
        ("", lambda case: True),
    ],
)
def test_the_list_is_filtered_by_text(page: Browser, text: str, fits: Callable[[PageCase], bool]) -> None:
    page.resize(1280, 4000)
    _click(page, "#view-list")
    _type(page, text)
    assert _shown(page) == [case.entry_id for case in _cases(4) if fits(case)]
    if not _shown(page):
        _click(page, "#reset")
        assert len(_shown(page)) == 36


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("faults", lambda case: bool(case.faults)),
        ("incomplete", lambda case: not case.is_complete),
        ("unconverted", lambda case: not case.images),
        ("guessed", lambda case: any(image.named_by == "guess" for image in case.images)),
    ],
)
def test_the_list_is_filtered_by_state(page: Browser, name: str, fits: Callable[[PageCase], bool]) -> None:
    expected = [case.entry_id for case in _cases(4) if fits(case)]
    assert expected
    _click(page, "#view-list")
    _click(page, f"[data-state={name}]")
    assert _shown(page) == expected
    assert _texts(page, f"[data-state={name}] .number") == [str(len(expected))]
    # Among the visits the other series of the same visit stay, but fade.
    _click(page, "#view-visits")
    bright = page.run("[...document.querySelectorAll('tbody .picture:not(.off)')].map(one => one.dataset.id)")
    assert sorted(bright) == sorted(expected)
    _click(page, f"[data-state={name}]")
    assert page.run("document.querySelectorAll('tbody .picture:not(.off)').length") == 36


def test_advice_is_hidden_until_it_is_asked_for(page: Browser) -> None:
    flagged = next(case.entry_id for case in _cases(4) if case.flags)

    def visible() -> str:
        return page.run("document.body.innerText + document.body.outerHTML.replace(/<script[^]*?<\\/script>/g, '')")

    for view in ("visits", "list"):
        _click(page, f"#view-{view}")
        assert ADVICE not in visible()
        assert page.run("document.querySelectorAll('.tip, [data-state=flagged]').length") == 0
        _click(page, f"tbody .picture[data-id='{flagged}']")
        assert ADVICE not in visible()
        assert "48.2" not in visible()
        _click(page, "#close")
    assert "Judge the picture first" in _texts(page, "#advice-why")[0]
    assert page.run("document.getElementById('advice').getAttribute('aria-checked')") == "false"

    _click(page, "#advice")
    assert page.run("document.getElementById('advice').getAttribute('aria-checked')") == "true"
    assert ADVICE in visible()
    assert "advice" in _texts(page, "#advice-why")[0]
    _click(page, "[data-state=flagged]")
    assert _shown(page) == [flagged]
    _click(page, "[data-sort=flags]")
    assert _columns(page)[-1] == "descending"
    _click(page, "tbody tr[data-id] td")
    assert ADVICE in " ".join(_texts(page, "dialog"))
    assert "48.2" in " ".join(_texts(page, "dialog"))
    _click(page, "#close")
    _click(page, "#advice")
    assert ADVICE not in visible()
    assert len(_shown(page)) > 1


def test_a_case_shows_its_pictures_and_its_facts(page: Browser) -> None:
    cases = _cases(4)
    _click(page, f"tbody .picture[data-id='{cases[1].entry_id}']")
    assert page.run("document.getElementById('case').open")
    for picture, tab in ((cases[1].montage, "montage"), (cases[1].course, "course")):
        _click(page, f"#tab-{tab}")
        page.wait_for("document.querySelector('#show img').naturalWidth == 900")
        assert page.run("document.querySelector('#show img').src").endswith(f"/{picture}")
    told = _texts(page, ".about")[0]
    for text in ("Slices are missing.", "000001_a.dcm", "MR 2D EP", "by the study’s rule", "x_task-rest_bold"):
        assert text in told
    # The tab stays from case to case where there is such a picture.
    page.press("ArrowRight")
    assert cases[2].subject in _texts(page, "#case-title")[0]
    assert page.run("document.querySelector('#show img').src").endswith(f"/{cases[2].course}")
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert page.run("document.querySelector('#show img').src").endswith(f"/{cases[0].montage}")
    page.press("ArrowLeft")
    assert "anat/T1w" in _texts(page, "#case-title")[0]
    assert _texts(page, ".others figcaption") == ["ses-20230312", "ses-20240318", "ses-20250401"]
    page.press("Escape")
    assert not page.run("document.getElementById('case').open")
    assert page.run("document.activeElement.dataset.id") == cases[0].entry_id


def test_what_was_not_converted_says_why(page: Browser) -> None:
    case = next(case for case in _cases(4) if not case.images)
    _click(page, f"tbody .picture[data-id='{case.entry_id}']")
    told = _texts(page, ".about")[0]
    assert "not converted Nothing came out." in told
    guessed = next(case for case in _cases(4) if any(image.named_by == "guess" for image in case.images))
    _click(page, "#close")
    _click(page, f"tbody .picture[data-id='{guessed.entry_id}']")
    assert "x_dwi guess" in _texts(page, ".about")[0]


def test_the_viewer_command_can_be_copied(page: Browser, study: Path) -> None:
    case = _cases(4)[3]
    expected = f"python -m viewer review {study / 'manifest.json'} --case {case.entry_id} --reviewer NAME"
    _click(page, f"tbody .picture[data-id='{case.entry_id}']")
    assert _texts(page, ".command") == [expected]
    for clipboard in ("navigator.clipboard", "{writeText: () => Promise.reject(new Error('closed'))}"):
        page.run(f"Object.defineProperty(navigator, 'clipboard', {{value: {clipboard}, configurable: true}}); 0")
        page.run("document.addEventListener('copy', () => window.copied = getSelection().toString(), {once: true}); 0")
        page.run("document.getElementById('copy').textContent = 'Copy'")
        place = page.run(
            "(box => [box.left + box.width / 2, box.top + box.height / 2])"
            "(document.getElementById('copy').getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            page.ask("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
        page.wait_for("document.getElementById('copy').textContent != 'Copy'")
        assert page.run("document.getElementById('copy').textContent") == "Copied"
    assert page.run("window.copied") == expected  # the second way copies what is selected


def test_the_keyboard_is_enough(page: Browser) -> None:
    page.run("document.getElementById('view-list').focus()")
    page.press("Enter")
    assert page.run("document.getElementById('table').className") == "list"
    page.run("document.querySelector('tbody button.picture').focus()")
    for key, place in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", 35), ("Home", 0), ("ArrowUp", 0)):
        page.press(key)
        assert page.run("Number(document.activeElement.dataset.row)") == place, key
    page.press("End")
    seen = page.run(
        "(box => box.top >= 0 && box.bottom <= innerHeight)(document.activeElement.getBoundingClientRect())"
    )
    assert seen
    page.press("Enter")
    assert page.run("document.getElementById('case').open")
    page.press("Escape")
    assert page.run("Number(document.activeElement.dataset.row)") == 35
    page.run("document.getElementById('view-visits').click(); document.querySelector('tbody button.picture').focus()")
    page.press("ArrowRight")
    assert page.run("document.activeElement.dataset.cell") == "1"
    page.press("ArrowDown")
    assert page.run("[document.activeElement.dataset.row, document.activeElement.dataset.cell].join()") == "1,1"


def test_a_case_has_an_address(page: Browser, study: Path) -> None:
    case = _cases(4)[20]
    page.open("about:blank")
    page.open((study / "index.html").as_uri() + f"#{case.entry_id}")
    page.settle()
    assert page.run("document.getElementById('case').open")
    assert case.visit in _texts(page, "#case-title")[0]
    page.press("ArrowRight")
    assert page.run("location.hash") == f"#{_cases(4)[21].entry_id}"


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 800])
def test_it_fits_and_can_be_read(page: Browser, width: int, is_dark: bool) -> None:
    page.resize(width, 800, is_dark=is_dark)
    for view in ("visits", "list"):
        _click(page, f"#view-{view}")
        for advised in ("", "#advice"):
            if advised:
                _click(page, advised)
            assert page.run("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [
                width,
                800,
            ]
            assert page.run("document.getElementById('scroller').clientHeight") > 400
            heights = page.run(
                "[...new Set([...document.querySelectorAll('tbody tr:not(.space)')].map(row => row.offsetHeight))]"
            )
            assert heights == [100 if view == "visits" else 78]
            assert page.run(_FAINT) == []
        _click(page, "#advice")
    case = _cases(4)[1]
    _click(page, f"tbody .picture[data-id='{case.entry_id}']")
    box = page.run(
        "(box => [box.left, box.top, box.right, box.bottom])(document.getElementById('case').getBoundingClientRect())"
    )
    assert box[0] >= 0
    assert box[1] >= 0
    assert box[2] <= width
    assert box[3] <= 800
    assert page.run("document.querySelector('#show').clientHeight") > 250
    assert page.run(_FAINT) == []


_FAINT = """
(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const linear = (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.slice(0, 3).map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const box = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || box.closest("script, .hidden, noscript") || !box.checkVisibility()) continue;
    if (document.querySelector("dialog[open]") && !box.closest("dialog")) continue;
    let behind = box;
    while (behind && (numbers(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
    const one = light(numbers(getComputedStyle(box).color));
    const other = light(numbers(getComputedStyle(behind).backgroundColor));
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5 && !box.closest(":disabled")) faint.push(`${walker.currentNode.data}: ${contrast.toFixed(2)}`);
  }
  return faint;
})()
"""
"""Every visible text whose contrast with what is behind it is below 4.5 (WCAG 2.2, success criterion 1.4.3)."""


def test_a_program_can_read_the_tables(page: Browser) -> None:
    for view, rows in (("visits", 12), ("list", 36)):
        _click(page, f"#view-{view}")
        table = page.run(
            "(table => [table.getAttribute('aria-rowcount'), Boolean(table.getAttribute('aria-label'))])"
            "(document.getElementById('table'))"
        )
        assert table == [str(rows + 1), True]
        assert page.run("document.querySelectorAll('thead th:not([scope=col])').length") == 0
        assert page.run("document.querySelectorAll('tbody tr:not(.space):not([aria-rowindex])').length") == 0
        assert page.run("document.querySelectorAll('tbody tr:not(.space) > th[scope=row]').length") > 5
    tree = page.ask("Accessibility.getFullAXTree")["nodes"]
    for role in ("button", "switch", "searchbox", "image", "columnheader", "rowheader"):
        found = [node for node in tree if node.get("role", {}).get("value") == role and not node["ignored"]]
        assert found or role == "image", role
        assert [node for node in found if not node.get("name", {}).get("value")] == [], role


# -- hostile texts, and many cases -------------------------------------------------------------------------------------


def test_hostile_texts_are_shown_as_texts(chromium: Browser, tmp_path: Path) -> None:
    cases = []
    for case, text in zip(_cases(1), HOSTILE, strict=False):
        fault = replace(finding("gap", "x"), text=text, files=(text,))
        cases.append(
            replace(
                case,
                subject=text,
                visit=text,
                description=text,
                label=text,
                kind=text,
                modality=text,
                faults=(fault,),
                notes=(fault,),
                images=(PageImage(name=text, named_by=text, shape=(1, 2)),),
                no_images=text,
                flags=(text,),
                metrics=((text, text),),
                montage=None,
                thumbnail=None,
                course=None,
                no_montage=text,
            )
        )
    assert len(cases) == len(HOSTILE)
    write_page(tmp_path / "index.html", cases, study=HOSTILE[1])
    chromium.open("about:blank")
    chromium.requests.clear()
    chromium.complaints.clear()
    chromium.resize(1280, 2000)
    chromium.open((tmp_path / "index.html").as_uri())
    chromium.settle()
    assert chromium.run("document.querySelector('h1').textContent") == f"Review of {HOSTILE[1]}"
    _click(chromium, "#advice")
    for view in ("visits", "list"):
        _click(chromium, f"#view-{view}")
        told = chromium.run("document.getElementById('table').textContent")
        for text in HOSTILE:
            assert text in told
    for case in cases:
        _click(chromium, f"tbody .picture[data-id='{case.entry_id}']")
        assert chromium.run("document.querySelector('.about').textContent").count(case.label) >= 8
        _click(chromium, "#close")
    assert chromium.run("window.hacked") is None
    assert chromium.run("document.querySelectorAll('script').length") == 2
    assert chromium.complaints == []
    assert {one for one in chromium.requests if one != "data:,"} == {(tmp_path / "index.html").as_uri()}


def test_the_policy_holds_in_the_browser(page: Browser) -> None:
    """What a hole in the script could be used for is refused by the browser."""
    attacks = {
        "fetch": "fetch('https://example.org/').then(() => 'done', () => 'refused')",
        "picture": "new Promise(done => { const one = new Image(); one.onerror = () => done('refused'); "
        "one.onload = () => done('done'); one.src = 'https://example.org/x.png'; })",
        "script": "(() => { const one = document.createElement('script'); try { one.text = 'window.ran = 1'; } "
        "catch { return 'refused'; } document.body.append(one); return window.ran ? 'done' : 'refused'; })()",
        "markup": "(() => { try { document.body.innerHTML = 'x'; return 'done'; } catch { return 'refused'; } })()",
        "socket": "(() => { try { new WebSocket('wss://example.org/'); } catch { return 'refused'; } "
        "return new Promise(done => setTimeout(() => done('refused'), 50)); })()",
    }
    assert {name: page.run(attack) for name, attack in attacks.items()} == dict.fromkeys(attacks, "refused")
    assert any("Content Security Policy" in one for one in page.complaints)
    # What an address was asked for was never sent: the policy stands before the network.
    asked = [one for one in page.requests if "example.org" in one]
    page.complaints.clear()
    for one in asked:
        page.requests.remove(one)


def test_thousands_of_cases_open_and_only_those_in_view_are_made(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("many")
    cases = _cases(400)
    assert len(cases) == 3600
    write_page(folder / "index.html", cases, study="TRIAL-7")
    chromium.resize(1280, 800)
    chromium.open("about:blank")
    chromium.requests.clear()
    chromium.complaints.clear()
    chromium.open((folder / "index.html").as_uri())
    chromium.settle()
    assert _texts(chromium, "#totals") == ["400 subjects, 1,200 visits, 3,600 series"]
    assert chromium.run("document.querySelectorAll('tbody tr').length") < 40
    assert len(chromium.requests) < 150
    _click(chromium, "#view-list")
    assert chromium.run("document.querySelectorAll('tbody tr').length") < 40
    assert chromium.run("document.getElementById('table').getAttribute('aria-rowcount')") == "3601"
    # Scrolled anywhere, the rows that belong there are there.
    for place in (0, 1000, 3599, 1800):
        chromium.run(f"document.getElementById('scroller').scrollTop = {place * 78}")
        chromium.settle()
        rows = chromium.run(
            "[...document.querySelectorAll('tbody tr[data-id]')].map(row => [row.dataset.id, row.offsetTop])"
        )
        assert 5 < len(rows) < 40
        first = [case.entry_id for case in cases].index(rows[0][0])
        assert [row[0] for row in rows] == [case.entry_id for case in cases[first : first + len(rows)]]
        head = chromium.run("document.getElementById('head').offsetHeight")
        assert [row[1] - head for row in rows] == [78 * (first + number) for number in range(len(rows))]
        assert first <= place < first + len(rows)
    _type(chromium, "SUB-0399 ses-20250401 dwi")
    assert _shown(chromium) == [
        case.entry_id
        for case in cases
        if (case.subject, case.visit, case.kind) == ("SUB-0399", "ses-20250401", "dwi/dwi")
    ]
    # Pictures were never drawn here, so each that was looked for is complained of, and of nothing else.
    assert {one for one in chromium.complaints if "ERR_FILE_NOT_FOUND" not in one} == set()


def test_many_series_of_a_kind_at_one_visit_are_all_to_be_had(chromium: Browser, tmp_path: Path) -> None:
    base = _cases(1)[0]
    cases = [
        replace(base, entry_id=f"{base.entry_id}-{number}", series=f"{number:06d}", thumbnail=None, montage=None)
        for number in range(9)
    ]
    write_page(tmp_path / "index.html", cases)
    chromium.resize(1280, 1200)
    chromium.open("about:blank")
    chromium.complaints.clear()
    chromium.open((tmp_path / "index.html").as_uri())
    chromium.settle()
    assert _texts(chromium, "tbody .more") == ["+4"]
    assert chromium.run("document.querySelectorAll('tbody .picture').length") == 6
    _click(chromium, "tbody .more")
    assert _shown(chromium) == [case.entry_id for case in cases]
    assert chromium.complaints == []


def test_a_page_without_cases_says_so(chromium: Browser, tmp_path: Path) -> None:
    write_page(tmp_path / "index.html", [])
    chromium.open("about:blank")
    chromium.complaints.clear()
    chromium.open((tmp_path / "index.html").as_uri())
    chromium.settle()
    assert "No series fits." in _texts(chromium, "#nothing")[0]
    assert chromium.complaints == []
