"""The part of docs/performance.md that a run writes: the figures and charts of everything that was measured last."""

import json
from pathlib import Path
from typing import Any

from bench.charts import chart_path
from bench.harness import Must, three_digits

BEGIN, END = "<!-- written by make bench -->", "<!-- to here -->"


def write(page: Path, results: Path) -> None:
    """Put the results' tables between the marks of the page, and leave the rest of it alone."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    found = [json.loads(path.read_text()) | {"name": path.stem} for path in sorted(results.glob("P*.json"))]
    parts = "\n\n".join(_part(page, one) for one in found)
    page.write_text(f"{before}{BEGIN}\n\n{parts}\n\n{END}{after}")


def _part(page: Path, one: dict[str, Any]) -> str:
    chart = chart_path(one["name"])
    picture = f"![{one['title']}]({chart.relative_to(page.parent).as_posix()})\n\n" if chart.exists() else ""
    rows = "\n".join(_row(line) for line in one["lines"])
    header = "| figure | ours | peer | limit | ratio | must | met |\n|---|---|---|---|---|---|---|"
    return f"### {one['name']}: {one['title']}\n\n{picture}{header}\n{rows}"


def _row(line: dict[str, Any]) -> str:
    must = Must(**line["must"]) if line["must"] else None
    met = "" if must is None else "yes" if must.met(line["value"]) else "no"
    cells = [line["what"], line["ours"], line["peer"], line["limit"], three_digits(line["value"]), str(must or ""), met]
    return f"| {' | '.join(cells)} |"
