"""Whatever a name is made of, every file system takes it, and takes no other for it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.sort.names import LONGEST_NAME, fold, safe_part, short_hash, unfold
from tests import strategies
from tests.sort.places import SPELLINGS, told_apart, unsafe_in


def test_the_judge_finds_what_is_unsafe() -> None:
    for name in ("..", "a" * 256, "con", "LPT1.txt", "com¹", "a.", "a ", "-rf", "a:b", "a\nb", "\u202egnp", "u\u0308"):
        assert unsafe_in(name), name
    assert unsafe_in("SYN_Müller_山田_0123abcd") == []


@given(strategies.header_texts(), st.integers(8, 80))
def test_parts_keep_their_limit(text: str, limit: int) -> None:
    part = safe_part(text, limit=limit)
    assert len(part.encode("utf-8")) <= limit + 1
    assert part == "" or unsafe_in(part) == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Müller^Jürgen", "Müller_Jürgen"),
        ("Mu\u0308ller", "Müller"),
        ("山田^太郎", "山田_太郎"),
        ("हिन्दी", "हिन्दी"),
        ("t1_mprage 1.0mm", "t1_mprage_1.0mm"),
        ("../../etc", "etc"),
        ("a...b", "a_b"),
        ("-rf", "rf"),
        ("con", "con_"),
        ("con.x", "con_.x"),
        ("console", "console"),
        ("\u202e\u2066", ""),
        ("", ""),
        ("é" * 60, "é" * 40),
        ("a\ufe0fb\u3164\u034f", "ab"),
    ],
)
def test_parts_stay_readable(text: str, part: str) -> None:
    assert safe_part(text) == part


@given(st.lists(st.text(max_size=6), min_size=2, max_size=2), st.lists(st.text(max_size=6), min_size=2, max_size=2))
@example(["a\0b", "c"], ["a", "b\0c"])
@example(["a\1", "b"], ["a", "\1b"])
@example(["\0", ""], ["", "\0"])
def test_hashes_of_two_identities_differ(one: list[str], other: list[str]) -> None:
    assert (short_hash(*one, digits=64) == short_hash(*other, digits=64)) == (one == other)


# Folders that fold together ------------------------------------------------------------------------------------------

_spelled = st.sampled_from([part for part in map(safe_part, SPELLINGS) if part] + ["b", "B", "c"])


@given(
    st.sets(st.lists(_spelled, min_size=2, max_size=3).map("/".join), max_size=12), st.randoms(use_true_random=False)
)
def test_no_two_folders_fold_together(folders: set[str], random: object) -> None:
    final = told_apart(sorted(folders))
    assert len({fold(name) for name in final.values()}) == len(folders)
    # At every level: two folders share a parent if and only if they did.
    for one in folders:
        for other in folders:
            for depth in (1, 2):
                before = one.split("/")[:depth] == other.split("/")[:depth]
                after = [fold("/".join(final[folder].split("/")[:depth])) for folder in (one, other)]
                assert before == (after[0] == after[1])
    shuffled = sorted(folders)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert unfold(shuffled) == unfold(sorted(folders))
    # Once is enough.
    assert unfold(final.values()) == {}


def test_only_what_collides_is_renamed() -> None:
    final = told_apart(["P/a/x", "p/a/x", "q/straße/x", "q/STRASSE/x", "q/z/x", "r/a", "s/A"])
    assert final == {
        "P/a/x": f"P_{short_hash('P')}/a/x",
        "p/a/x": f"p_{short_hash('p')}/a/x",
        "q/straße/x": f"q/straße_{short_hash('straße')}/x",
        "q/STRASSE/x": f"q/STRASSE_{short_hash('STRASSE')}/x",
        "q/z/x": "q/z/x",
        "r/a": "r/a",
        "s/A": "s/A",
    }


def test_a_folder_that_is_called_like_a_renamed_one_gives_way() -> None:
    taken = f"a_{short_hash('a')}"
    for folders in (["a", "A", taken], ["a", "A", taken, taken.upper()]):
        final = told_apart(folders)
        assert final == {name: f"{name}_{short_hash(name)}" for name in folders}
        assert len({fold(name) for name in final.values()}) == len(folders)


def test_spellings_whose_short_hashes_meet_get_long_ones() -> None:
    one, other = "ReStinG-staTe-boLd-run", "reStING-STAtE-boLd-run"
    assert short_hash(one) == short_hash(other)
    assert unfold([one, other]) == {name: f"{name}_{short_hash(name, digits=32)}" for name in (one, other)}


def test_renamed_names_are_not_too_long() -> None:
    long = "é" * 127
    final = told_apart([long, long.upper()])
    assert len({fold(name) for name in final.values()}) == 2
    assert all(len(name.encode()) <= LONGEST_NAME for name in final.values())


def test_letters_that_show_nothing_make_no_other_name() -> None:
    """They do not count on ext4 with case folding."""
    assert fold("a\ufe0f") == fold("a\u034f") == fold("A\u3164") == "a"
    assert len(set(told_apart(["a", "a\ufe0f"]).values())) == 2
