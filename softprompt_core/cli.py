"""The command line: every command prints for people, or with --json one document for programs.

Exit codes: 0 done; 2 the user's input; 1 a fault of the program, whose traceback is in the log file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from softprompt_core.config import (
    INITS,
    METHODS,
    CompareConfig,
    TrainConfig,
    config_from_json,
    layered,
    parse_compare,
    parse_config,
)
from softprompt_core.environment import default_runs_dir, prepare_environment
from softprompt_core.errors import UserError
from softprompt_core.operations import KEPT_IN_FORKS
from softprompt_core.presets import list_presets, load_preset
from softprompt_core.sources import with_absolute_paths
from softprompt_core.store import Store

BASELINES = {
    "hand_written": "hand-written prompt", "no_prompt": "no prompt", "few_shot": "few-shot prompt",
    "majority": "majority class",
}
FIGURES = {
    "train_loss": "training loss", "eval_loss": "test loss", "eval_accuracy": "test accuracy",
    "eval_macro_f1": "test macro-F1", "selected_step": "selected step", "seconds": "seconds",
    "tokens_per_second": "tokens a second",
}
LOG_LINES = 10
METRICS = ("cosine", "dot", "l2")
CORRECTIONS = ("none", "centred", "csls", "all_but_top")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    prepare_environment()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["app"]:
        from softprompt_core.ui.launch import main as launch

        return launch(arguments[1:]) or 0
    runs_dir = default_runs_dir()
    try:
        options = _parser().parse_args(arguments)
        runs_dir = Path(options.runs_dir)
        document = options.run(options, Store(runs_dir))
        if options.json:
            print(json.dumps(_without_nan(document), ensure_ascii=False, allow_nan=False))
        else:
            options.show(document)
    except UserError as error:
        print(str(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception:
        print(f"A fault in the program; the details are in {_log_fault(runs_dir)}", file=sys.stderr)
        return 1
    return 0


def _without_nan(value: Any) -> Any:
    """The same document with null where a number is infinite or none at all."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _log_fault(runs_dir: Path) -> Path | str:
    path = runs_dir / "softprompt.log"
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"softprompt {' '.join(sys.argv[1:])}\n{traceback.format_exc()}\n")
    except OSError:
        traceback.print_exc()
        return "the lines above"
    return path


# ----------------------------------------------------------------- parsing


class _Parser(argparse.ArgumentParser):
    """argparse with errors as one sentence and exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}. See '{self.prog} --help'.")


def _parser() -> argparse.ArgumentParser:
    about = "Train and inspect soft prompts on frozen language models."
    parser = _Parser(prog="softprompt", allow_abbrev=False, description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, about: str, run: Callable[..., Any], show: Callable[[Any], None]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
        command.add_argument("--runs-dir", default=str(default_runs_dir()),
                             help="where runs are kept (default $SOFTPROMPT_HOME or runs/)")
        command.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else")
        command.set_defaults(run=run, show=show)
        return command

    train = add("train", "Train a soft prompt.", _train, _show_train)
    _add_settings(train)
    train.add_argument("--preflight", action="store_true",
                       help="say what the run will be and what looks like a slip, and train nothing")
    resume = add("resume", "Go on with a run that was stopped, interrupted or failed.", _resume, _show_train)
    resume.add_argument("prompt", metavar="RUN")
    resume.add_argument("--steps", help="train it on to so many steps in all; needed when it is done")
    fork = add("fork", "Train a new run that begins where another was.", _fork, _show_train)
    fork.add_argument("prompt", metavar="RUN")
    fork.add_argument("--step", help="of the checkpoint to begin at (default: the newest)")
    fork.add_argument("--keep-optimizer", action="store_true", help="begin with the optimiser's state, too")
    _add_settings(fork, leave_out=KEPT_IN_FORKS, has_defaults=False)
    compare = add("compare", "Train several initialisations on the same data and compare.", _compare, _show_compare)
    _add_settings(compare, leave_out=("init", "method"))
    compare.add_argument("--init", default=",".join(CompareConfig.model_fields["inits"].default),
                         help=f"of prompt tuning; comma-separated, out of {', '.join(INITS)}")
    compare.add_argument("--method", help=f"comma-separated, out of {', '.join(METHODS)} (default prompt); "
                         "a given learning rate is prompt tuning's or the first one's, the others have their own")
    compare.add_argument("--seeds", default="1", help="runs of each initialisation and method")
    inspect = add("inspect", "Nearest words of each virtual token.", _inspect, _show_inspect)
    inspect.add_argument("prompt", metavar="RUN|ADAPTER_DIR")
    inspect.add_argument("--model", help="for an adapter folder that does not name its model")
    inspect.add_argument("--top", default="10", help="neighbours of each token")
    inspect.add_argument("--metric", default="cosine", help=", ".join(METRICS))
    inspect.add_argument("--correction", default="none", help=", ".join(CORRECTIONS))
    inspect.add_argument("--readings", metavar="all|NAMES", help="measure what the prompt does, too (minutes): all, or "
                         "comma-separated out of ladder, signature, tokens, attributions, attention, says_of_itself; "
                         "what has been measured before is shown anyway")
    inspect.add_argument("--report", metavar="FILE", help="write the whole inspection as one HTML page")
    evaluate = add("eval", "Test a run's prompt on labelled data.", _eval, _show_figures)
    evaluate.add_argument("prompt", metavar="RUN")
    evaluate.add_argument("--data", help="left out: the run's own test rows")
    predict = add("predict", "Classify texts with a run's prompt.", _predict, _show_predictions)
    predict.add_argument("prompt", metavar="RUN")
    predict.add_argument("--text", action="append", help="a text; may be given several times")
    predict.add_argument("--file", help="a CSV, TSV or JSONL file with the run's columns, or .txt, a text a line")
    export = add("export", "Write a folder that peft.PeftModel.from_pretrained loads.", _export, _show_path)
    export.add_argument("prompt", metavar="RUN")
    export.add_argument("--to", required=True, metavar="DIR")
    bring = add("import", "Make a run of a PEFT folder, .npy or .safetensors prompt.", _import, _show_path)
    bring.add_argument("path", metavar="DIR")
    bring.add_argument("--model", help="the base model, where the folder does not name it")
    bring.add_argument("--name")
    runs = add("runs", "List, show, pause, unpause, stop or delete runs.", _runs, _show_runs)
    runs.add_argument("action", choices=("list", "show", "pause", "unpause", "stop", "delete"))
    runs.add_argument("prompt", metavar="RUN", nargs="?")
    commands.add_parser("app", help="Start the page (see 'softprompt app --help').", add_help=False)
    return parser


def _add_settings(
    command: argparse.ArgumentParser, *, leave_out: Sequence[str] = (), has_defaults: bool = True
) -> None:
    """One flag a setting; values are checked by the settings themselves, all mistakes together."""
    for key, info in TrainConfig.model_fields.items():
        if key not in leave_out:
            default = "" if info.default is None or not has_defaults else f" (default {str(info.default)!r})"
            about = f"{info.title}: {info.description}{default}".replace("%", "%%")
            command.add_argument(f"--{key.replace('_', '-')}", dest=f"set_{key}", help=about, metavar="VALUE")
    command.add_argument("--config", metavar="FILE", help="settings as JSON; flags win over the file")
    if has_defaults:
        command.add_argument("--preset", metavar="NAME", help="a recipe; --config and flags win over it. One of: "
                             + "; ".join(f"{preset.name}, {preset.title}" for preset in list_presets()))


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that a preset, the config file and flags name, later ones winning."""
    values: dict[str, Any] = {}
    if getattr(options, "preset", None) is not None:
        values = dict(load_preset(options.preset).settings)
    if options.config:
        path = Path(options.config)
        try:
            values = layered(values, config_from_json(path.read_text(encoding="utf-8"), origin=path.name))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The config file {options.config!r} cannot be read ({error}). Check the path.") from None
    flags: dict[str, Any] = {}
    for key in TrainConfig.model_fields:
        given = getattr(options, f"set_{key}", None)
        if given is not None:
            flags[key] = given.replace("\\n", "\n") if key == "template" else given
    return layered(values, flags)


def _whole(value: str, name: str, *, low: int = 1) -> int:
    if not (value.isascii() and value.isdigit() and 1 <= len(value) <= 9) or int(value) < low:
        raise UserError(f"--{name}: {value!r} was given; allowed is a whole number of at least {low}.")
    return int(value)


def _one_of(value: str, name: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise UserError(f"--{name}: {value!r} was given; allowed are {', '.join(allowed)}.")
    return value


# ---------------------------------------------------------------- commands


def _train(options: argparse.Namespace, store: Store) -> dict[str, Any]:
    from softprompt_core.operations import check, preflight, with_start

    config = parse_config(with_start(store, _given(options)))
    if options.preflight:
        options.show = _show_preflight
        return preflight(config, store=store, may_load=True).document()
    check(config, store)
    return _train_document(store, store.create(with_absolute_paths(config)))


def _resume(options: argparse.Namespace, store: Store) -> dict[str, Any]:
    from softprompt_core.jobs.execute import new_owner
    from softprompt_core.operations import prepare_resume

    store.mark_interrupted()
    run_id = store.run(options.prompt).run_id
    prepare_resume(store, run_id, steps=None if options.steps is None else _whole(options.steps, "steps"))
    store.requeue(run_id, owner=(owner := new_owner()))
    return _train_document(store, run_id, owner=owner)


def _fork(options: argparse.Namespace, store: Store) -> dict[str, Any]:
    from softprompt_core.jobs.execute import new_owner
    from softprompt_core.operations import fork

    step = None if options.step is None else _whole(options.step, "step", low=0)
    run_id = fork(
        store, options.prompt, step=step, changes=_given(options), keeps_optimizer=options.keep_optimizer
    )
    store.requeue(run_id, owner=(owner := new_owner()))
    return _train_document(store, run_id, owner=owner)


def _train_document(store: Store, run_id: str, *, owner: str | None = None) -> dict[str, Any]:
    """What a queued run comes to when it is trained here; owner: whose it is already, should it be somebody's."""
    from softprompt_core.experiments import run_document

    _train_here(store, [run_id], owner=owner)
    info = store.run(run_id)
    if info.status == "failed":
        raise UserError(info.reason)
    return run_document(info)


def _compare(options: argparse.Namespace, store: Store) -> dict[str, Any]:
    from softprompt_core.experiments import comparison_document
    from softprompt_core.operations import check, with_start

    values = _given(options)
    if values.get("init_run"):
        values = with_start(store, values | {"init": "from_run"})
    methods = _listed(options.method) if options.method is not None else [values.get("method", "prompt")]
    first = "prompt" if "prompt" in methods else methods[0] if methods else "prompt"
    comparison = parse_compare(
        parse_config(values | {"method": first}), inits=_listed(options.init),
        seeds=_whole(options.seeds, "seeds"), methods=methods,
    )
    arms = comparison.arms()
    check(next((arm for arm in arms if arm.init == "from_run"), arms[0]), store)
    run_ids = store.create_group([with_absolute_paths(arm) for arm in arms])
    _train_here(store, run_ids)
    infos = [store.run(run_id) for run_id in run_ids]
    if all(info.status == "failed" for info in infos):
        raise UserError(infos[0].reason)
    return comparison_document(infos)


def _listed(value: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [part.strip() for part in value.split(",") if part.strip()]


def _train_here(store: Store, run_ids: list[str], *, owner: str | None = None) -> None:
    """Trains queued runs in this process; Ctrl-C stops them and keeps the best prompts.

    Where they could not be claimed, a program that took this one for dead has marked them interrupted, which the first
    heartbeat takes back, as they are nobody's or this owner's.
    """
    from softprompt_core.control import Control
    from softprompt_core.jobs.execute import beating, execute, new_owner, passes

    runs = {run_id: store.config(run_id) for run_id in run_ids}
    owner = owner or new_owner()
    store.claim(list(runs), owner=owner)
    control = Control()

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)        # a second Ctrl-C ends even a long download
        control.stop_all()

    previous = signal.signal(signal.SIGINT, interrupt)
    progress = _Progress(len(runs))
    try:
        with beating(store, list(runs), control, owner=owner):      # those that wait their turn, too
            for together in passes(runs):
                execute(store, together, control, owner=owner, on_record=progress)
    finally:
        signal.signal(signal.SIGINT, previous)


class _Progress:
    """A line a look at the validation split, and one a run's end, on stderr.

    Why a single run failed is left to the command, which ends with that sentence.
    """

    def __init__(self, runs: int) -> None:
        self._many = runs > 1
        self._loss: dict[str, float] = {}

    def __call__(self, record: Any) -> None:
        with contextlib.suppress(BrokenPipeError):      # a reader that went away must not end the run
            self._show(record)

    def _show(self, record: Any) -> None:
        from softprompt_core.records import EndRecord, EvalRecord, LogRecord, StepRecord

        who = f"{record.run_id}: " if self._many else ""
        if isinstance(record, StepRecord):
            self._loss[record.run_id] = record.loss
        elif isinstance(record, EvalRecord) and record.split == "validation":
            accuracy = "" if record.accuracy is None else f", accuracy {record.accuracy:.1%}"
            train = self._loss.get(record.run_id, math.nan)
            losses = f"train loss {train:.3f}, validation loss {record.loss:.3f}"
            print(f"{who}step {record.step}: {losses}{accuracy}", file=sys.stderr)
        elif isinstance(record, LogRecord) and (self._many or record.level != "error"):
            print(f"{who}{record.text}", file=sys.stderr)
        elif isinstance(record, EndRecord):
            print(f"{record.run_id}: {record.status}", file=sys.stderr)


def _inspect(options: argparse.Namespace, store: Store) -> dict[str, Any]:
    from softprompt_core import studies

    switches: dict[str, Any] = {
        "top": _whole(options.top, "top"),
        "metric": _one_of(options.metric, "metric", METRICS),
        "correction": _one_of(options.correction, "correction", CORRECTIONS),
    }
    is_run = store.has_run(options.prompt) or not os.path.exists(options.prompt)
    if is_run:
        names = [] if options.readings is None else _reading_names(options.readings)
        document = studies.inspection_with_readings(
            store, options.prompt, names=names, on_share=_show_share, **switches
        )
    elif options.readings is not None:
        raise UserError("--readings needs a run with its data. 'softprompt import' makes a run of a prompt.")
    else:
        document = _inspect_file(options, switches)
    if options.report is not None:
        _write_report(options, store, document, is_run=is_run)
    return document


def _inspect_file(options: argparse.Namespace, switches: dict[str, Any]) -> dict[str, Any]:
    """The `inspect` document of a prompt that is no run."""
    from softprompt_core import operations, studies
    from softprompt_core.adapters import check_fits, import_prompt
    from softprompt_core.models import load_model

    found = import_prompt(Path(options.prompt))
    name = options.model or found.base_model
    if not name:
        raise UserError(f"{options.prompt!r} does not say which model it belongs to. Name it with --model.")
    base = load_model(name)
    check_fits(found.prompt, base)
    return operations.inspect_prompt(base, found.prompt, **switches) | {"readings": studies.no_readings()}


def _reading_names(value: str) -> list[str]:
    """The readings named by --readings, in their own order. Raises UserError for one that does not exist."""
    from softprompt_core.studies import no_readings

    known = list(no_readings())
    wanted = known if value == "all" else _listed(value)
    for name in wanted:
        _one_of(name, "readings", ["all", *known])
    if not wanted:
        raise UserError(f"--readings: {value!r} was given; allowed are all or some of {', '.join(known)}.")
    return [name for name in known if name in wanted]


def _show_share(name: str, share: float) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"{name}: {share:.0%}", file=sys.stderr)


def _write_report(options: argparse.Namespace, store: Store, document: dict[str, Any], *, is_run: bool) -> None:
    from softprompt_core.files import write_aside
    from softprompt_core.inspection.report import report
    from softprompt_core.ui.charts import result_line, run_facts

    if is_run:
        info = store.run(options.prompt)
        page = report(document, title=info.name, line=result_line(info), facts=run_facts(info))
    else:
        page = report(document, title=Path(options.prompt).name)
    try:
        with write_aside(Path(options.report)) as file:
            file.write(page)
    except OSError as error:
        raise UserError(f"The report cannot be written to {options.report!r} ({error}). Name another file.") from None


def _eval(options: argparse.Namespace, store: Store) -> dict[str, Any]:
    from softprompt_core import operations

    return operations.evaluate_run(store, options.prompt, data=options.data)


def _predict(options: argparse.Namespace, store: Store) -> list[dict[str, Any]]:
    from softprompt_core import operations
    from softprompt_core.sources import read_rows

    if bool(options.text) == bool(options.file):
        raise UserError("Give the texts to classify either with --text or with --file.")
    if options.text:
        rows = operations.text_rows(store, options.prompt, options.text)
    elif options.file.endswith(".txt"):
        try:
            lines = Path(options.file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{options.file!r} cannot be read ({error}). Give a UTF-8 text file.") from None
        rows = operations.text_rows(store, options.prompt, [line for line in lines if line.strip()])
    else:
        rows = read_rows(Path(options.file), is_labelled=False)
    return operations.predict_with_run(store, options.prompt, rows)


def _export(options: argparse.Namespace, store: Store) -> dict[str, Any]:
    from softprompt_core import operations

    folder = operations.export_run(store, options.prompt, Path(options.to))
    return {"run_id": options.prompt, "path": str(folder)}


def _import(options: argparse.Namespace, store: Store) -> dict[str, Any]:
    from softprompt_core import operations

    path = Path(options.path)
    return {"run_id": operations.import_folder(store, path, model=options.model, name=options.name), "path": str(path)}


def _runs(options: argparse.Namespace, store: Store) -> Any:
    from softprompt_core.operations import listing

    store.mark_interrupted()
    if options.action == "list":
        return [listing(info) for info in store.runs()]
    if not options.prompt:
        raise UserError(f"'runs {options.action}' needs the id of a run. 'softprompt runs list' names them all.")
    info = store.run(options.prompt)
    if options.action == "stop":
        store.ask_to_stop(info.run_id)
    if options.action in ("pause", "unpause"):
        store.ask_to_pause(info.run_id, is_paused=options.action == "pause")
    if options.action == "show":
        options.show = lambda rows: _show_run(rows[0], store.logs(info.run_id))
    if options.action == "delete":
        store.delete(info.run_id)
        return [{**listing(info), "status": "deleted"}]
    return [listing(store.run(info.run_id))]


# ----------------------------------------------------------------- showing


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}"


def _show_train(document: dict[str, Any]) -> None:
    low, high = document.get("eval_accuracy_low"), document.get("eval_accuracy_high")
    interval = f" (95 % interval {low:.1%} to {high:.1%})" if low is not None and high is not None else ""
    print(f"{document['run_id']}: {document['status']} after {document.get('steps')} steps")
    print(f"test accuracy          {_percent(document.get('eval_accuracy'))}{interval}")
    baselines = document.get("baselines") or {}
    for source in [source for source in BASELINES if source in baselines]:
        figures = baselines[source]
        print(f"{BASELINES[source]:<22} {_percent(figures['accuracy'] if figures else None)}")


def _show_preflight(document: dict[str, Any]) -> None:
    for row in document["rows"]:
        print(f"{row['what']:<22} {row['value']}")
    for warning in document["warnings"]:
        print(f"warning: {warning}")


def _show_compare(document: dict[str, Any]) -> None:
    for entry in document["summary"]:
        learns = entry["trainable_parameters"]
        size = "" if learns is None else f", {learns:,} parameters trained"
        print(f"{entry['arm']:<22} {_percent(entry['accuracy_mean'])} over {entry['runs']} runs{size}")
    for source, name in BASELINES.items():
        if figures := (document["baselines"] or {}).get(source):
            print(f"{name:<22} {_percent(figures['accuracy'])}")
    print(document["verdict"])


def _show_inspect(document: dict[str, Any]) -> None:
    for token in document["tokens"]:
        words = "  ".join(f"{n['token']} {n['score']:.2f}" for n in token["neighbours"][:5])
        z = "" if token["z"] is None else f"z {token['z']:.1f}"
        print(f"{token['index'] + 1:>4}  {z:<8}{'echo' if token['echo'] else '':<6}{words}")
    for name, reading in document["readings"].items():
        if reading and "reason" in reading:
            print(f"{name}: {reading['reason']}")
    trust = document["trust"]
    print(("" if trust["score"] is None else f"Trust {trust['score']:.0f} of 100. ") + trust["sentence"])


def _show_figures(document: dict[str, Any]) -> None:
    for key, value in document.items():
        print(f"{key:<12} {value:.4f}" if isinstance(value, float) else f"{key:<12} {value}")


def _show_predictions(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(f"{row['label']}\t{row['probabilities'][row['label']]:.2f}\t{row['text']}")


def _show_path(document: dict[str, Any]) -> None:
    print(f"{document['run_id']}  {document['path']}")


def _show_runs(rows: list[dict[str, Any]]) -> None:
    for row in rows or [{"run_id": "no runs yet", "status": "", "name": "start one with 'softprompt train'"}]:
        print(f"{row['run_id']:<52} {row['status']:<12} {row['name']}")


def _show_run(row: dict[str, Any], logs: Sequence[tuple[float, Any]]) -> None:
    """A run for people: how it stands, the settings that are not the defaults, its figures, its last log lines."""
    print(f"{row['run_id']}: {row['status']}, step {row['step']} of {row['steps']}")
    for name in ("name", "reason", "group_id"):
        if row[name]:
            print(f"{name.replace('_id', ''):<22} {row[name]}")
    for key, info in TrainConfig.model_fields.items():
        if key != "name" and row["config"].get(key) not in (info.default, None):
            print(f"{info.title:<22} {row['config'][key]}")
    result = row["result"]
    for key, title in FIGURES.items():
        if result.get(key) is not None:
            print(f"{title:<22} {_percent(result[key]) if 'accuracy' in key else f'{result[key]:.4g}'}")
    for source, name in BASELINES.items():
        if figures := (result.get("baselines") or {}).get(source):
            print(f"{name:<22} {_percent(figures['accuracy'])}")
    for seconds, record in logs[-LOG_LINES:]:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}  {record.level:<8} {record.text}")


if __name__ == "__main__":
    sys.exit(main())
