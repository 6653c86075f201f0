"""The figures of a run as tables in Markdown."""

from collections.abc import Iterator, Mapping
from typing import Any

COLUMNS = {
    "images_per_second": ("images/s", "{:,.0f}"),
    "queries_per_second": ("queries/s", "{:,.0f}"),
    "products_per_second": ("points x products/s", "{:,.0f}"),
    "range": ("range of turns", ""),
    "ms_per_step": ("ms a step", "{:.2f}"),
    "tflops": ("TFLOP/s", "{:.3g}"),
    "share_of_peak": ("of peak", "{:.1%}"),
    "device_peak_mb": ("peak MB", "{:,.0f}"),
    "equal_indices": ("as jaxdiff's", "{:.2%}"),
    "compiled_after_s": ("compiled after, s", "{:.0f}"),
}
LINES = ("health", "parity", "study")
BY_MODEL = ("train", "sample")
RATED = ("neighbors", "lpips", "probe")
RATES = ("images_per_second", "queries_per_second", "products_per_second")


def format_tables(entries: Mapping[str, Any]) -> str:
    """Tables of all parts that have rates, and lines of the others."""
    blocks = ["\n".join(_header(entries))]
    for part in LINES:
        if part in entries:
            blocks.append("\n".join(_lines(part, entries[part])))
    for what in BY_MODEL:
        for model, rows in entries.get(what, {}).items():
            blocks.append("\n".join(_rate_table(f'{what} "{model}"', rows)))
    for part in RATED:
        if part in entries:
            blocks.append("\n".join(_rate_table(part, entries[part])))
    shown = {"about", "seconds", "skipped", *LINES, *BY_MODEL, *RATED}
    for part in entries.keys() - shown:
        blocks.append("\n".join(_lines(part, entries[part])))
    return "\n\n".join(blocks)


def _header(entries: Mapping[str, Any]) -> Iterator[str]:
    about = entries["about"]
    sizes = "sizes of a CPU, which say nothing of speed" if about["tiny"] else "full sizes"
    yield f"{about['device']} beside {about['host']}"
    yield f"{sizes}, {entries.get('seconds', 0):.0f} s, {about['date']}"
    for name, reason in entries.get("skipped", {}).items():
        yield f"skipped: {name} ({reason})"


def _lines(name: str, value: Any, indent: str = "") -> Iterator[str]:
    """A nested entry, a line each value."""
    if isinstance(value, Mapping) and value:
        yield f"{indent}- {name}:"
        for key, item in value.items():
            yield from _lines(key, item, indent + "  ")
    else:
        yield f"{indent}- {name}: {'none' if value in ([], {}, None) else value}"


def _rate_table(title: str, entry: Any) -> Iterator[str]:
    """One row per worker, one column for everything that one of them has."""
    rows = {name: row for name, row in entry.items() if isinstance(row, Mapping)}
    columns = [key for key in COLUMNS if any(key in row for row in rows.values())]
    if not columns:
        yield from _lines(title, entry)
        return
    yield f"| {title} | " + " | ".join(COLUMNS[key][0] for key in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, row in rows.items():
        label = f"{name} ({row['missing']})" if "missing" in row else name
        yield f"| {label} | " + " | ".join(_cell(key, row.get(key)) for key in columns) + " |"
    yield from _ratio(rows)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key == "range":
        return " to ".join(f"{rate:,.0f}" for rate in value)
    return COLUMNS[key][1].format(value)


def _ratio(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Our best rate over the peer's best."""
    rates = {
        name: next((row[key] for key in RATES if row.get(key)), 0.0) for name, row in rows.items()
    }
    ours = max((rate for name, rate in rates.items() if name.startswith("jaxdiff")), default=0.0)
    peer = max((rate for name, rate in rates.items() if name.startswith("torch")), default=0.0)
    missing = [name for name, rate in rates.items() if name.startswith("torch") and not rate]
    if ours and peer:
        yield ""
        note = f", without {' and '.join(missing)}, which gave no rate" if missing else ""
        yield f"Our fastest over the peer's fastest{note}: {ours / peer:.2f}"
