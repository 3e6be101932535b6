"""The ``yolo-uncert`` command: modes and ``key=value`` options in the manner of Ultralytics' ``yolo``."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ultralytics.cfg import TASKS, _handle_deprecation, merge_equals_args, parse_key_value_pair
from ultralytics.utils import DEFAULT_CFG_DICT, LOGGER, RUNS_DIR, YAML
from ultralytics.utils.checks import check_yaml
from ultralytics.utils.files import increment_path

from yolo_uncert import __version__
from yolo_uncert.compare import compare
from yolo_uncert.demo import demo
from yolo_uncert.dota import prepare_dota
from yolo_uncert.engine.info import describe_model
from yolo_uncert.help import mode_help, overview
from yolo_uncert.model import YOLO
from yolo_uncert.modes import MODES
from yolo_uncert.options import OptionError, suggest
from yolo_uncert.paths import list_assets
from yolo_uncert.run_options import RunOptions, chooses_none, run_option_names
from yolo_uncert.scenes import detect_scene, detect_scenes
from yolo_uncert.scenes.several import names_several
from yolo_uncert.streams.signals import sigterm_as_interrupt

USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130
"""Exit codes: the command was wrong, what it asked for failed, or Ctrl-C or SIGTERM (128 + SIGINT, as in shells)."""

FOLDERS = ("out", "data_root", "save_dir", "project", "name")
"""Options whose value is no Python: a folder may be named 2024, or 2024_11_30."""

FILES = ("data", "model", "source")
"""Options whose value is no number; a source of digits is a camera."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    word = args[0].lstrip("-") if args else "help"
    try:
        if word in ("help", "h"):
            print(mode_help(args[1]) if len(args) > 1 else overview())
        elif {"-h", "--help"} & set(args):
            print(mode_help(word))
        elif word in ("version", "v"):
            print(__version__)
        else:
            mode, options = parse(args)
            COMMANDS[mode](options)
        sys.stdout.flush()
    except (OptionError, SyntaxError, FileNotFoundError) as error:
        LOGGER.error(str(error).strip())
        return USAGE_ERROR
    except BrokenPipeError:  # the reader of our output has gone, as in `yolo-uncert help train | head`
        # What is still buffered must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, TypeError, AssertionError, RuntimeError, OSError, ImportError) as error:
        LOGGER.error(f"{type(error).__name__}: {str(error) or _place(error)}")
        return FAILURE
    except (KeyboardInterrupt, SystemError) as error:
        # Ctrl-C inside a compiled kernel arrives as a SystemError that the interrupt caused.
        if not isinstance(error.__cause__ or error, KeyboardInterrupt):
            raise
        LOGGER.warning("interrupted; what was written so far is kept")
        return INTERRUPTED
    return 0


def parse(args: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Split arguments into the mode and its options.

    Raises:
        OptionError: The mode is missing or unknown, an argument is no ``key=value``, or its key is unknown.
    """
    given = _given(args)
    options = dict(given)
    if file := options.pop("cfg", None):
        options = {**_settings(file), **options}
    mode = _mode(options)
    options = _handle_deprecation(options)
    # save_dir is no default of Ultralytics, but stands in the args.yaml of its runs.
    allowed = [*DEFAULT_CFG_DICT, *run_option_names(), "save_dir", *MODES[mode].own]
    for key in options:
        if key not in allowed:
            raise OptionError(f"{mode}: unknown option {key!r}{suggest(key, allowed)}; see yolo-uncert help {mode}")
    heeded = {*MODES[mode].ours, *MODES[mode].own}
    for key in [name for name in run_option_names() if name in given and name not in heeded]:
        LOGGER.warning(f"{mode}: {key} has no effect here; see yolo-uncert help {mode}")
    return mode, options


def _given(args: Sequence[str]) -> dict[str, Any]:
    """Return what stands on the command line, mode and task among it."""
    defaults = {**DEFAULT_CFG_DICT, **asdict(RunOptions())}
    options: dict[str, Any] = {}
    for arg in merge_equals_args(list(args)):
        text = arg.removeprefix("--")
        if "=" in text:
            key, value = _key_value(text)
        elif text in MODES or text in TASKS:
            key, value = "mode" if text in MODES else "task", text
        elif isinstance(defaults.get(text), bool):
            key, value = text, True
        else:
            raise OptionError(f"{arg!r} is neither a mode nor key=value{_meant(text, [*MODES, *defaults])}")
        if key in ("mode", "task") and options.get(key, value) != value:
            raise OptionError(f"{options[key]} and {value}: one {key} only")
        options[key] = value
    return options


def _settings(file: Any) -> dict[str, Any]:
    """Return the options in a file; of one that a run has written, without those that lead into its folder."""
    left = {"cfg", "save_dir", "exist_ok", "resume"} if Path(str(file)).name == "args.yaml" else {"cfg"}
    return {k: v for k, v in YAML.load(check_yaml(file)).items() if k not in left}


def _mode(options: dict[str, Any]) -> str:
    """Take the mode out of the options; to validate several models is to compare them."""
    mode = options.pop("mode", None)
    if mode not in MODES:
        raise OptionError(f"mode is {mode!r}{suggest(mode, MODES)}. One of: {', '.join(MODES)}")
    return "compare" if mode == "val" and "," in str(options.get("model")) else str(mode)


def _meant(text: str, known: Sequence[str]) -> str:
    """Return what a word without ``key=`` may have been meant for, or nothing."""
    if not Path(text).exists():
        return suggest(text, known)
    kind = {".pt": "model", ".onnx": "model", ".torchscript": "model", ".yaml": "data"}
    return f" (did you mean '{kind.get(Path(text).suffix, 'source')}={text}'?)"


def _place(error: BaseException) -> str:
    """Return where an error without a message came from."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}: {frame.line}"


def _key_value(text: str) -> tuple[str, Any]:
    """Read ``key=value``, the value as Python if it can be."""
    try:
        key, value = parse_key_value_pair(text)
    except AssertionError as error:
        raise OptionError(str(error)) from error
    given = text.partition("=")[2].strip()
    camera = key == "source" and given.isdigit()
    named = (key in FOLDERS and value is not None) or (key in FILES and isinstance(value, (int, float)) and not camera)
    return key, given if named or chooses_none(key, given) else value


def _load(options: dict[str, Any]) -> YOLO:
    """Return the model that the options name, removing ``model`` and ``task`` from them."""
    if not options.get("model"):
        raise OptionError(
            "model= is missing: a trained .pt or exported file, or a model yaml such as yolo11n-uncert.yaml "
            "or yolo11n-obb-uncert.yaml"
        )
    return YOLO(options.pop("model"), task=options.pop("task", None))


def _train(options: dict[str, Any]) -> None:
    if options.get("resume") and options["resume"] is not True:
        options |= {"model": options["resume"], "resume": True}
    if not options.get("data") and not options.get("resume"):
        raise OptionError(f"data= is missing: a data yaml of yours, or one of {', '.join(list_assets('data'))}")
    _load(options).train(**options)


def _val(options: dict[str, Any]) -> None:
    _load(options).val(**options)


def _compare(options: dict[str, Any]) -> None:
    if not options.get("model"):
        raise OptionError("model= is missing: one trained model, or several separated by commas")
    options.pop("task", None)
    compare(options.pop("model"), **options)


def _stream(mode: str) -> Callable[[dict[str, Any]], None]:
    """Return a command that consumes results one by one, so that no video fills the memory."""

    def run(options: dict[str, Any]) -> None:
        if options.get("source") is None:
            raise OptionError("source= is missing: an image, video, folder, stream address or camera number")
        if isinstance(options["source"], int) and Path(str(options["source"])).exists():
            options["source"] = f"./{options['source']}"  # a folder named 2024, and no camera
        model = _load(options)
        with sigterm_as_interrupt(), closing(getattr(model, mode)(stream=True, **{"save": True, **options})) as results:
            frames = sum(1 for _ in results)
        if not frames:
            raise OSError("nothing of the source could be read")

    return run


def _scene(options: dict[str, Any]) -> None:
    if options.get("source") is None:
        raise OptionError("source= is missing: a raster or image, or a folder, pattern or list of them")
    source, folder = str(options.pop("source")), options.pop("out", None)
    if not folder:
        folder = increment_path(RUNS_DIR / "scene")
        LOGGER.info(f"a run that is stopped goes on with out={folder}")
    model = _load(options)
    if names_several(source):
        counts = [len(result) for result in detect_scenes(model, source, out=folder, **options)]
        LOGGER.info(f"{sum(counts)} boxes in {len(counts)} scenes; files in {folder}")
        return
    result = detect_scene(model, source, out=folder, **options)
    empty = f" ({result.empty_tiles} without valid pixels)" if result.empty_tiles else ""
    LOGGER.info(f"{len(result)} boxes in {result.tiles} tiles{empty}; files in {folder}")


def _prepare(options: dict[str, Any]) -> None:
    if options.get("source") is None:
        raise OptionError("source= is missing: a folder with the images and labelTxt of train, val and test")
    print(prepare_dota(str(options.pop("source")), options.pop("out", None), **options).summary())


def _export(options: dict[str, Any]) -> None:
    print(_load(options).export(**options))


def _calibrate(options: dict[str, Any]) -> None:
    print(_load(options).calibrate(**options))


def _info(options: dict[str, Any]) -> None:
    print(describe_model(_load(options)))


def _demo(options: dict[str, Any]) -> None:
    demo(**options)


COMMANDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "train": _train,
    "val": _val,
    "predict": _stream("predict"),
    "track": _stream("track"),
    "scene": _scene,
    "prepare": _prepare,
    "export": _export,
    "compare": _compare,
    "calibrate": _calibrate,
    "info": _info,
    "demo": _demo,
}


if __name__ == "__main__":
    raise SystemExit(main())
