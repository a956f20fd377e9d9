"""The tables of serving.jsonl, for the page of the benchmarks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from experiments import page
from experiments.rows import Row, read_rows


def write_page(rows: Path) -> None:
    """Write the section "serving" into the README.md beside the rows."""
    found = read_rows(rows)
    environment = found[-1]["environment"]
    sections = [
        "## `vgg serve`, client and server on the same two cores",
        page.facts({"command": "`python -m experiments.benchmarks.serving MODEL PHOTO`"}, environment),
        "Images per second, as a share of those of the network alone in batches of 16. At half of the load with one "
        "file a request: the 99th percentile of the latency, in multiples of that of a lone request, for regular and "
        "for random arrivals. A line is one measurement.",
        load(found),
        "Ten times the load:",
        overload(found),
        "Hostile images, and a good one after every twentieth:",
        hostile(found),
    ]
    page.insert(rows.with_name("README.md"), "serving", "\n\n".join(sections))


def load(rows: Sequence[Row]) -> str:
    """A line for each measurement of throughput and latency."""
    headings = [
        "model", "precision", "one file", "16 files", "16 preprocessed images", "one file, of a loop that decodes",
        "16 files, of it", "lone request (ms)", "p99, regular", "p99, random", "note",
    ]  # fmt: skip
    return page.markdown(headings, _loads(rows), left=2)


def _loads(rows: Sequence[Row]) -> Iterator[list[object]]:
    for row in rows:
        found = row.get("load", {})
        half = found.get("half_load", {})
        if "regular" not in half:  # measured in another way, before there were such requests
            continue
        alone, loop = half["ms_alone_median"], mean((found["loop_before"], found["loop_after"]))
        yield [
            _name(row),
            row["precision"],
            *(f"{found[kind]['images_per_second'] / loop:.2f}" for kind in ("one", "many", "tensors")),
            *(_of_file_loop(found, kind) for kind in ("one", "many")),
            f"{alone:.1f}",
            *(f"{half[kind]['ms_p99'] / alone:.1f}" for kind in ("regular", "random")),
            row.get("note", ""),
        ]


def _of_file_loop(found: Row, kind: str) -> str:
    if "file_loop_before" not in found:  # the row is older than this loop
        return "-"
    return f"{found[kind]['images_per_second'] / mean((found['file_loop_before'], found['file_loop_after'])):.2f}"


def overload(rows: Sequence[Row]) -> str:
    """A line for each overload."""
    headings = [
        "model", "connections", "requests/s", "seconds", "answered", "refused (503)", "lost", "right", "memory (MB)",
        "ready after (s)", "note",
    ]  # fmt: skip
    lines = [
        [
            _name(row),
            found["connections"],
            f"{found['requests_per_second']['sent']:,.0f}",
            f"{row['seconds']:.0f}",
            f"{found['statuses'].get('200', 0):,}",
            f"{found['statuses'].get('503', 0):,}",
            f"{found['statuses'].get('0', 0):,}",
            "all" if found["served_right"] else "not all",
            f"{found['memory_mb']['before']:,} to {found['memory_mb']['peak']:,}",
            f"{found['seconds_until_ready']:.1f}",
            row.get("note", ""),
        ]
        for row in rows
        if (found := row.get("overload"))
    ]
    return page.markdown(headings, lines, left=2)


def hostile(rows: Sequence[Row]) -> str:
    """A line for each flood of hostile images."""
    headings = ["model", "bodies", "4xx", "5xx", "lost", "slowest (s)", "good ones beside", "of them right", "note"]
    lines = [
        [
            _name(row),
            *(f"{count:,}" for count in _counts(found["statuses"])),
            f"{found['slowest_seconds']:.1f}",
            found["good_beside"],
            "all" if found["good_beside_right"] else "not all",
            row.get("note", ""),
        ]
        for row in rows
        if (found := row.get("hostile"))
    ]
    return page.markdown(headings, lines)


def _counts(statuses: dict[str, int]) -> list[int]:
    """All, those of 4xx and of 5xx, and those without an answer."""
    kinds = [sum(count for status, count in statuses.items() if status[0] == kind) for kind in "450"]
    return [sum(statuses.values()), *kinds]


def _name(row: Row) -> str:
    return str(row["model"]).partition(",")[0]
