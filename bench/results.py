"""What was measured, kept: `results.json`, and from it alone the tables of `results.md` and the plots.

A run replaces the sections that it measured; each says when, where and with what.
"""

import json
import os
import platform
import subprocess
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import goals, soak, svg
from bench.programs import ROOT

Found = dict[str, Any]
FOLDER = ROOT / "docs/benchmarks"


def about(**settings: object) -> dict[str, object]:
    """When, where, with what."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    # What a run itself has written into docs changes nothing of what is measured.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": git("describe", "--always") + ("-dirty" if changed else ""),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "python": f"{platform.python_version()} ({python_ms():.0f} ms for a million additions)",
        "confluent-kafka": version("confluent-kafka"),
        **settings,
    }


def python_ms() -> float:
    """How fast Python is here: the same version built without profile-guided optimisation takes half as long again."""

    def million() -> int:
        total = 0
        for number in range(1_000_000):
            total += number
        return total

    return min(timeit.repeat(million, number=1, repeat=10)) * 1000


def write(folder: Path, found: Found, settings: Mapping[str, object]) -> None:
    """Put the sections that were measured among those that are there, and draw everything anew."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "results.json"
    everything = json.loads(kept.read_text()) if kept.exists() else {}
    everything |= {section: {"about": about(**settings), "found": it} for section, it in found.items()}
    text = json.dumps(everything, indent=1) + "\n"
    kept.write_text(text)
    everything = json.loads(text)
    for name, draw in PLOTS.items():
        if name in everything:
            (folder / f"{name}.svg").write_text(draw(everything[name]["found"]))
    (folder / "results.md").write_text(page(everything))


def page(everything: Found) -> str:
    """The tables of all sections, as Markdown."""
    measured = {section: it["found"] for section, it in everything.items()}
    parts = [
        "# Results\n\nWritten by `make bench` from `results.json`; [what each line is and how to read it](../benchmarks.md).",
        "## Floors and goals\n\n" + _table(("", "floor", "goal", "measured", ""), goals.rows(measured)),
    ]
    for name, (title, table) in TABLES.items():
        if name in measured:
            plot = f"\n\n![{title}]({name}.svg)" if name in PLOTS else ""
            told = ", ".join(f"{key} {value}" for key, value in everything[name]["about"].items())
            parts.append(f"## {title}\n\n{table(measured[name])}{plot}\n\n{told}.")
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    aligned = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, aligned, *rows))


def _costs(found: Found) -> str:
    head = ("contender", "median/s", "spread", "ratio", "peak MB", "CPU s per million")
    rows = []
    for name, it in found.items():
        ratio = "–" if it["ratio"] is None else f"{it['ratio']:.2f}"
        figures = (f"{it['rate']:,.0f}", f"{it['spread']:.0%}", ratio, f"{it['peak_rss_mb']:,.0f}")
        rows.append((f"{name} {it['version']}".strip(), *figures, f"{it['cpu_s_per_million']:.1f}"))
    return _table(head, rows)


def _ten_ms(found: Found) -> str:
    rows = [
        (name, f"{it['rate']:,.0f}", f"{it['ratio']:.3f}", it["order"], it["delivery"]) for name, it in found.items()
    ]
    return _table(("contender", "median/s", "of ideal", "order of a key", "delivery"), rows)


def _latency(found: Found) -> str:
    names = ("p50", "p90", "p99", "p999", "max")
    rows = [
        (f"{int(rate):,} orders/s", f"{it['sent_per_s']:,.0f}", *(f"{it[name]:.1f}" for name in names))
        for rate, it in found.items()
    ]
    return _table(("", "sent/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"), rows)


def _curve(found: Found) -> str:
    members = list(next(iter(found["rates"].values())))
    rows = [(f"{each} partitions", *(f"{it[one]:,.0f}" for one in members)) for each, it in found["rates"].items()]
    return _table(("orders/s, by processes", *members), rows)


def _soak(found: Found) -> str:
    rows = [(f"{n}", f"{it['rate']:,.0f}", f"{it['rss_mb']:,.0f}") for n, it in enumerate(found["tenths"], 1)]
    said = (
        f"{found['orders']:,} orders in {found['seconds']:,.0f} s; peak {found['peak_rss_mb']:,.0f} MB, growth from the second "
        f"tenth to the last {soak.growth(found):+.1f} MB; the second half ran at {soak.drift(found):.2f} of the first."
    )
    return said + "\n\n" + _table(("tenth", "orders/s", "MB"), rows)


def _start(found: Found) -> str:
    return _table(("", "s"), [(name, f"{seconds:.2f}") for name, seconds in found.items()])


TABLES: dict[str, tuple[str, Callable[[Found], str]]] = {
    "costs": ("What the pipeline costs", _costs),
    "ten_ms": ("10 ms async handler, one process", _ten_ms),
    "latency": ("Latency end to end", _latency),
    "curve": ("More processes", _curve),
    "soak": ("Soak", _soak),
    "start": ("Start", _start),
}


def _draw_costs(found: Found) -> str:
    groups: dict[str, dict[str, float]] = {}
    for name, it in found.items():
        groups.setdefault(it["ceiling"].rpartition(", ")[2], {})[name] = it["rate"]
    return svg.bars("What the pipeline costs: orders a second, median", list(groups.items()))


def _draw_latency(found: Found) -> str:
    series = {}
    for rate, it in found.items():
        # What lies above the last edge is drawn at the maximum.
        series[f"{int(rate):,} a second"] = [
            (edge or it["max"], 100 * count / it["measured"]) for edge, count in it["histogram"]
        ]
    return svg.lines("Latency end to end", series, x="ms", y="% of the orders", log_x=True)


def _draw_curve(found: Found) -> str:
    series = {
        f"{partitions} partitions": [(float(members), rate) for members, rate in rates.items()]
        for partitions, rates in found["rates"].items()
    }
    return svg.lines(f"More processes, on {found['cores']} cores", series, x="processes", y="orders a second")


def _draw_soak(found: Found) -> str:
    memory = [(handled / 1e6, rss / 1e6) for _, handled, rss in found["samples"]]
    pairs = list(zip(found["samples"], found["samples"][1:], strict=False))
    rate = [(now[1] / 1e6, (now[1] - before[1]) / (now[0] - before[0]) / 1e3) for before, now in pairs]
    return svg.lines("Soak", {"memory, MB": memory, "1000 orders a second": rate}, x="million orders", y="")


PLOTS: dict[str, Callable[[Found], str]] = {
    "costs": _draw_costs,
    "latency": _draw_latency,
    "curve": _draw_curve,
    "soak": _draw_soak,
}
