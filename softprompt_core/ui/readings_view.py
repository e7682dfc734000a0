"""What the browser may ask of the readings that need the model: how far they are, start, cancel, and files.

Starting only puts work into the background; the page asks for news and draws them (assets/js/readings.js).
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt_core import studies
from softprompt_core.errors import UserError
from softprompt_core.records import ENDED, RunInfo
from softprompt_core.studies import UNDER_WAY, Progress
from softprompt_core.ui import charts, messages, results
from softprompt_core.ui.context import Context

MOST_MASS = 40_000
"""Numbers of attention by layer, head and token that are sent; beyond it only their sums are."""
DIGITS = 5
BACKWARD = 2.5
"""How many times longer a training step takes than a forward pass over the same rows."""


class Wanted(BaseModel):
    """What the page asks: a run, readings to make, the run to hold it against, and the stamps of what it shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field("", max_length=100)
    names: tuple[str, ...] = Field((), max_length=20)
    other: str = Field("", max_length=100)
    table: str = Field("", max_length=40)
    seen: dict[str, str] = {}


def sources(context: Context) -> list[Callable[[Any], str]]:
    """The functions the page's script calls; each takes one JSON value and gives a JSON string."""
    root = context.store.root

    def answer(name: str, doing: str, work: Callable[[Context, Wanted], Any]) -> Callable[[Any], str]:
        def run(asked: Any) -> str:
            try:
                return charts.compact(work(context, _parse(asked)))
            except Exception as error:
                return charts.compact({"error": messages.sentence(error, root=root, doing=doing)})

        run.__name__ = name     # the name under which the script calls it
        return run

    return [
        answer("readings", "reading what the prompt does", news),
        answer("study", "starting the readings", _start),
        answer("halt", "cancelling the readings", _cancel),
        answer("rows", "writing the table", table_file),
        answer("report", "writing the report", report_file),
        answer("keep", "keeping the twin", keep_twin),
    ]


def _parse(asked: Any) -> Wanted:
    try:
        return Wanted.model_validate(asked)
    except ValidationError:
        raise UserError("The page asked for a reading in a way that is not known. Reload the page.") from None


# --------------------------------------------------------------------- news


def news(context: Context, wanted: Wanted) -> dict[str, Any]:
    """The state of every reading of a run; documents that the page does not show yet come with it.

    `reason` says why nothing can be measured at all.
    """
    from softprompt_core.inspection.study import READINGS
    from softprompt_core.inspection.trust import PARTIAL, READABLE

    store, info = context.store, context.store.run(wanted.run)
    answer: dict[str, Any] = {
        "run": info.run_id, "reason": "", "order": list(READINGS), "items": {}, "others": others(context, info),
        "bands": [PARTIAL, READABLE],
    }
    if info.status not in ENDED:
        return answer | {"reason": "What the prompt does is measured once its training has ended."}
    try:
        key = context.readings.key(info.run_id)
    except UserError as error:
        return answer | {"reason": str(error)}
    progress = context.readings.progress(info.run_id)
    names = [*READINGS, *(name for name in progress if name not in READINGS)]
    if wanted.other and (name := f"pair:{wanted.other}") not in names:
        names.append(name)
    if (text := last_twin(context, info.run_id)) and (name := f"twin:{text}") not in names:
        names.append(name)
    for name in names:
        item = state(context, info.run_id, name, key, progress.get(name))
        if item["stage"] == "done" and item["stamp"] != wanted.seen.get(name):
            item["reading"] = slim(studies.kept(store, info.run_id, name, key) or {})
        answer["items"][name] = item
    answer["cost"] = cost(info, rows=min(studies.ROWS, int(info.result.get("test_rows") or studies.ROWS)))
    return answer


def state(context: Context, run_id: str, name: str, key: str, progress: Progress | None) -> dict[str, Any]:
    """Stage, share and stamp of one reading; a kept one is done, whoever made it."""
    if progress and progress.stage in UNDER_WAY:
        return {"stage": progress.stage, "share": round(progress.share, 3), "stamp": ""}
    try:
        kept = studies.kept_at(context.store, run_id, name, key)
    except UserError as error:      # the run it was held against is gone
        return {"stage": "failed", "share": 0.0, "stamp": "", "reason": str(error)}
    if kept:
        return {"stage": "done", "share": 1.0, "stamp": kept}
    stage = progress.stage if progress and progress.stage in ("failed", "cancelled") else "none"
    reason = progress.reason if progress and stage == "failed" else ""
    return {"stage": stage, "share": 0.0, "stamp": "", "reason": reason}


def others(context: Context, own: RunInfo) -> list[list[str]]:
    """[id, label] of every other run on the same model that has virtual tokens, newest first."""
    found = []
    for info in context.store.runs():
        is_fit = info.config["model"] == own.config["model"] and info.status in ENDED
        has_tokens = charts.method_of(info) not in results.NO_TOKENS and context.store.has_prompt(info.run_id)
        if is_fit and has_tokens and info.run_id != own.run_id:
            accuracy = charts.percent(info.result.get("eval_accuracy"))
            found.append([info.run_id, f"{info.name} · {accuracy} · {info.run_id[-4:]}"])
    return found


def last_twin(context: Context, run_id: str) -> str:
    """The text of the twin kept with the run; empty when there is none."""
    try:
        path = context.store.folder(run_id) / "readings" / "twin.json"
        return str(json.loads(path.read_text(encoding="utf-8"))["reading"]["text"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def cost(info: RunInfo, *, rows: int) -> dict[str, Any]:
    """What all readings together take: model passes over a row, and seconds judged by the run's own training."""
    from softprompt_core.inspection.ablation import SHUFFLES, WAYS
    from softprompt_core.inspection.retention import DRAWS
    from softprompt_core.inspection.steering import BATCH, PEZ_STEPS
    from softprompt_core.inspection.study import ABLATION_ROWS

    tokens, few = int(info.config["virtual_tokens"]), min(ABLATION_ROWS, rows)
    forward = rows * (DRAWS + 7) + few * (tokens * (len(WAYS) + 1) + SHUFFLES + 2) + 26 * rows
    backward = PEZ_STEPS * BATCH + 32 * 32
    trained = info.result.get("seconds"), info.step * int(info.config["batch_size"])
    seconds = None
    if trained[0] and trained[1]:
        seconds = math.ceil(trained[0] / trained[1] * (forward / BACKWARD + backward))
    return {"passes": forward + backward, "seconds": seconds, "rows": rows}


def slim(value: Any) -> Any:
    """A document with numbers rounded for the page, None where there is none, and no block too large to draw."""
    if isinstance(value, Mapping):
        kept = {key: slim(item) for key, item in value.items() if key != "mass"}
        if "mass" in value and _size(value["mass"]) <= MOST_MASS:
            kept["mass"] = slim(value["mass"])
        return kept
    if isinstance(value, list | tuple):
        return [slim(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _size(value: Any) -> int:
    return sum(_size(item) for item in value) if isinstance(value, list) else 1


# --------------------------------------------------------- start, cancel, keep


def _start(context: Context, wanted: Wanted) -> dict[str, Any]:
    context.readings.ask(wanted.run, wanted.names)
    return {}


def _cancel(context: Context, wanted: Wanted) -> dict[str, Any]:
    context.readings.cancel(wanted.run)
    return {}


def keep_twin(context: Context, wanted: Wanted) -> dict[str, Any]:
    """{"run"}: the id of a new run whose prompt is the twin trained last."""
    return {"run": studies.keep_twin(context.store, wanted.run)}


# -------------------------------------------------------------------- files


def table_file(context: Context, wanted: Wanted) -> dict[str, str]:
    """{"name", "text"} of one table as CSV. Raises UserError when it has not been measured."""
    from softprompt_core.inspection.tables import TABLES, table

    if wanted.table not in TABLES:
        raise UserError(f"There is no table {wanted.table!r}. Reload the page.")
    name = TABLES[wanted.table][0]
    asked = {"pair": f"pair:{wanted.other}", "twin": f"twin:{last_twin(context, wanted.run)}"}.get(name, name)
    reading = studies.kept(context.store, wanted.run, asked, context.readings.key(wanted.run))
    if reading is None:
        raise UserError("This has not been measured yet. Press “Measure what it does”.")
    head, rows = table(wanted.table, reading)
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    write(head)
    for row in rows:
        write([charts.neutral(cell) for cell in row])
    return {"name": f"{wanted.run}-{wanted.table.replace('_', '-')}.csv", "text": out.getvalue()}


def report_file(context: Context, wanted: Wanted) -> dict[str, str]:
    """{"name", "text"} of the whole inspection as one HTML page that needs nothing else."""
    document = studies.inspection_with_readings(context.store, wanted.run)
    return {"name": f"{wanted.run}-report.html", "text": report_of(context.store.run(wanted.run), document)}


def report_of(info: RunInfo, document: Mapping[str, Any]) -> str:
    """The report of an inspected run."""
    from softprompt_core.inspection.report import report

    written = time.strftime("%d %b %Y %H:%M")
    return report(
        document, title=info.name, line=charts.result_line(info), facts=[*charts.run_facts(info), ("report", written)]
    )
