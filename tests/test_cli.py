from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from yolo_uncert import __version__, cli
from yolo_uncert.cli import FAILURE, INTERRUPTED, USAGE_ERROR, main, parse
from yolo_uncert.help import mode_help, overview
from yolo_uncert.modes import MODES
from yolo_uncert.options import OptionError


@pytest.fixture
def calls(monkeypatch):
    """What the commands would have been called with."""
    seen = []
    monkeypatch.setattr(cli, "COMMANDS", {name: lambda o, n=name: seen.append((n, o)) for name in MODES})
    return seen


class Notes(list):
    """What was called, and what a prediction returns."""

    results = ("a result",)


def closable(results):
    yield from results


@pytest.fixture
def model(monkeypatch):
    """Stand-in for the facade that notes how it is used, and predicts what is in ``model.results``."""
    seen = Notes()

    class Model:
        def __init__(self, model, task=None):
            seen.append(("YOLO", model, task))

        def __getattr__(self, mode):
            def run(**options):
                seen.append((mode, options))
                return closable(seen.results) if mode in ("predict", "track") else "exported.onnx"

            return run

    monkeypatch.setattr(cli, "YOLO", Model)
    return seen


# --- reading the command line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train model=a.yaml epochs=3", ("train", {"model": "a.yaml", "epochs": 3})),
        ("model=a.yaml train", ("train", {"model": "a.yaml"})),
        ("mode=val data=x.yaml", ("val", {"data": "x.yaml"})),
        ("--mode=val --data=x.yaml", ("val", {"data": "x.yaml"})),
        ("train lr0 = 0.1", ("train", {"lr0": 0.1})),
        ("obb train", ("train", {"task": "obb"})),
        ("predict source=0 save=False imgsz=64,32", ("predict", {"source": 0, "save": False, "imgsz": (64, 32)})),
        ("predict show save_txt", ("predict", {"show": True, "save_txt": True})),
        ("train retrofit", ("train", {"retrofit": True})),
        ("train iou_alpha=0.3 sigma_source=None", ("train", {"iou_alpha": 0.3, "sigma_source": None})),
        ("demo out=here", ("demo", {"out": "here"})),
        ("demo out=2024 data_root=1e3", ("demo", {"out": "2024", "data_root": "1e3"})),
        ("demo out=None", ("demo", {"out": None})),
        ("val data=2024_11_30 model=5e3 name=0x1", ("val", {"data": "2024_11_30", "model": "5e3", "name": "0x1"})),
        ("predict source=2024_11_30", ("predict", {"source": "2024_11_30"})),
        ("scene source=5.0 out=1_0", ("scene", {"source": "5.0", "out": "1_0"})),
        ("train data=['a.yaml','b.yaml'] save_dir=1_0", ("train", {"data": ["a.yaml", "b.yaml"], "save_dir": "1_0"})),
        ("val val detect task=detect", ("val", {"task": "detect"})),
        ("val sigma_source=none score_fusion = none", ("val", {"sigma_source": "none", "score_fusion": "none"})),
        ("val classes=none", ("val", {"classes": None})),
        ("predict half=True line_thickness=2", ("predict", {"quantize": 16, "line_width": 2})),
        ("calibrate level=0.8 remove=True", ("calibrate", {"level": 0.8, "remove": True})),
    ],
)
def test_arguments(line, expected):
    assert parse(line.split()) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model=a.pt", "mode is None. One of: train, val"),
        ("mode=trian", r"mode is 'trian' \(did you mean 'train'\?\)"),
        ("trian", r"'trian' is neither a mode nor key=value \(did you mean 'train'\?\)"),
        ("val epochs", "'epochs' is neither a mode nor key=value"),
        ("val train model=a.pt", "val and train: one mode only"),
        ("mode=val train", "val and train: one mode only"),
        ("val mode=train", "val and train: one mode only"),
        ("train obb task=detect", "obb and detect: one task only"),
        ("train obb detect", "obb and detect: one task only"),
        ("train model=", "model"),
        ("train iou_alfa=1", r"train: unknown option 'iou_alfa' \(did you mean 'iou_alpha'\?\); see yolo-uncert help"),
        ("val conff=1", r"unknown option 'conff' \(did you mean 'conf'\?\)"),
        ("train out=x", "train: unknown option 'out'"),
        (
            "calibrate methd=isotonic",
            r"unknown option 'methd' \(did you mean 'method'\?\); see yolo-uncert help calibrate",
        ),
    ],
)
def test_wrong_arguments(line, message):
    with pytest.raises(OptionError, match=message):
        parse(line.split())


@pytest.mark.parametrize(
    ("name", "key"), [("best.pt", "model"), ("a.onnx", "model"), ("b.yaml", "data"), ("c.jpg", "source")]
)
def test_file_without_a_key_is_told_its_key(tmp_path, monkeypatch, name, key):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(OptionError, match=rf"neither a mode nor key=value \(did you mean '{key}={name}'\?\)"):
        parse(["predict", name])


def test_settings_file_comes_before_the_command_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"mode": "train", "data": "a.yaml", "epochs": 3, "iou_alpha": 0.3, "save_dir": "x"}))
    expected = {"data": "a.yaml", "epochs": 9, "iou_alpha": 0.3, "save_dir": "x"}
    assert parse([f"cfg={file}", "epochs=9"]) == ("train", expected)
    assert parse(["val", f"cfg={file}"])[0] == "val"


@pytest.mark.parametrize("mode", ["val rows=jsonl", "predict retrofit=True", "scene pdq=True", "info overlay=True"])
def test_an_option_without_effect_is_mentioned(mode, caplog, tmp_path):
    option = mode.split()[1].partition("=")[0]
    parse(mode.split())
    assert f"{mode.split()[0]}: {option} has no effect here" in caplog.text
    caplog.clear()
    file = tmp_path / "args.yaml"  # of a run, which has all options
    file.write_text(yaml.safe_dump({option: True}))
    parse([mode.split()[0], f"cfg={file}"])
    assert "no effect" not in caplog.text


def test_settings_file_of_a_run_does_not_lead_into_its_folder(tmp_path):
    file = tmp_path / "args.yaml"
    leads = {"save_dir": str(tmp_path), "exist_ok": True, "resume": "weights/last.pt"}
    file.write_text(yaml.safe_dump({"mode": "train", "data": "a.yaml", **leads}))
    assert parse([f"cfg={file}"]) == ("train", {"data": "a.yaml"})
    assert parse([f"cfg={file}", f"save_dir={tmp_path}"])[1]["save_dir"] == str(tmp_path)


def test_settings_file_of_a_run_can_be_used_again(tiny):
    mode, options = parse([f"cfg={tiny.run('detect') / 'args.yaml'}", "save_dir=elsewhere"])
    assert mode == "train"
    assert Path(options["model"]).name == Path(tiny.yaml("detect")).name
    assert (options["imgsz"], options["save_dir"]) == (64, "elsewhere")


# --- running ----------------------------------------------------------------------------------------------------------


def test_train_gives_all_options_to_the_model(model):
    assert main(["train", "model=yolo11n-uncert.yaml", "data=bccd.yaml", "epochs=3", "task=obb"]) == 0
    assert model == [("YOLO", "yolo11n-uncert.yaml", "obb"), ("train", {"data": "bccd.yaml", "epochs": 3})]


def test_resume_takes_its_model_from_the_checkpoint(model):
    assert main(["train", "resume=a/last.pt"]) == 0
    assert main(["train", "resume", "model=b/last.pt"]) == 0
    assert model == [
        ("YOLO", "a/last.pt", None),
        ("train", {"resume": True}),
        ("YOLO", "b/last.pt", None),
        ("train", {"resume": True}),
    ]


def test_val_and_export(model, capsys):
    assert main(["val", "model=a.pt", "data=b.yaml", "sigma_source=dfl"]) == 0
    assert main(["export", "model=a.pt", "format=onnx"]) == 0
    assert model[1] == ("val", {"data": "b.yaml", "sigma_source": "dfl"})
    assert model[3] == ("export", {"format": "onnx"})
    assert capsys.readouterr().out == "exported.onnx\n", "the one thing to be read by a script"


@pytest.mark.parametrize("mode", ["predict", "track"])
def test_results_are_streamed_and_saved(model, mode):
    assert main([mode, "model=a.pt", "source=0"]) == 0
    assert main([mode, "model=a.pt", "source=v.mp4", "save=False"]) == 0
    assert model[1] == (mode, {"stream": True, "save": True, "source": 0})
    assert model[3] == (mode, {"stream": True, "save": False, "source": "v.mp4"})


def test_a_folder_whose_name_is_a_number_is_no_camera(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2024").mkdir()
    assert main(["predict", "model=a.pt", "source=2024"]) == 0
    assert model[1][1]["source"] == "./2024"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train data=bccd.yaml", "model= is missing: a trained .pt or exported file, or a model yaml such as yolo11n"),
        ("train model=yolo11n-uncert.yaml", "data= is missing: a data yaml of yours, or one of bccd.yaml"),
        ("train model=yolo11n-uncert.yaml data=None", "data= is missing"),
        ("val", "model= is missing"),
        ("export", "model= is missing"),
        ("calibrate", "model= is missing"),
        ("info", "model= is missing"),
        ("calibrate model=yolov8n-uncert.yaml data=bccd.yaml", "give a trained .pt file as model="),
        ("calibrate model=yolov8n-uncert.yaml level=1.5", "level must be between 0 and 1, not 1.5"),
        ("predict model=a.pt", "source= is missing: an image, video"),
        ("track model=a.pt", "source= is missing"),
        ("nonsense", "'nonsense' is neither a mode nor key=value"),
        ("train iou_alfa=1", "did you mean 'iou_alpha'?"),
        ("help nonsense", "no help on 'nonsense'"),
        ("val model=nowhere.pt", "nowhere.pt"),
        ("val model=nowhere.yaml", "no models yaml named 'nowhere.yaml'"),
        ("train model=yolov8n-uncert.yaml data=nowhere.yaml", "no data yaml named 'nowhere.yaml'"),
        ("train model=yolov8n-uncert.yaml data=bccd.yaml data_root=/nowhere", "no local copy of the data set"),
        ("predict model=yolov8n.yaml source=x.jpg iou_alpha=3", "iou_alpha must be at most 1.0"),
        ("predict model=yolov8n.yaml source=x.jpg batch=0", "batch must be at least 1 image, not 0"),
        ("track model=yolov8n.yaml source=x.jpg batch=-1", "batch must be at least 1 image, not -1"),
        ("predict model=yolov8n.yaml source=x.jpg classes=99", "no class '99'"),
        ("predict model=yolov8n-cls.yaml source=x.jpg var_vote", "var_vote is for models of task detect or obb"),
        ("val model=yolov8n-seg.yaml data=x.yaml sigma_source=none", "not segment"),
        ("track model=yolov8n.yaml source=x.jpg tracker=3", "no tracker yaml named '3'"),
        ("train cfg=nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(line, message, caplog):
    assert main(line.split()) == USAGE_ERROR == 2
    assert message in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        TypeError("no"),
        AssertionError("no"),
        RuntimeError("no"),
        ConnectionError("no"),
        ImportError("no"),
    ],
)
def test_failures_exit_with_1_and_one_line(calls, monkeypatch, caplog, error):
    def fail(options):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "val", fail)
    assert main(["val"]) == FAILURE == 1
    (message,) = caplog.messages
    assert message.endswith(f"{type(error).__name__}: no"), "Ultralytics may have put its mark in front"


def test_error_without_a_message_tells_its_place(calls, monkeypatch, caplog):
    def fail(options):
        raise AssertionError

    monkeypatch.setitem(cli.COMMANDS, "val", fail)
    assert main(["val"]) == FAILURE
    assert "AssertionError: " in caplog.text
    assert "test_cli.py, line" in caplog.text


def test_unreadable_data_set_is_a_failure_without_a_traceback(tmp_path, caplog):
    (tmp_path / "data.yaml").write_text("train: missing\nval: missing\nnames: {0: a}\n")
    words = [f"data={tmp_path / 'data.yaml'}", f"project={tmp_path}", "device=cpu"]
    assert main(["train", "model=yolov8n-uncert.yaml", *words]) == FAILURE
    assert "missing" in caplog.text


def test_interruption_is_no_traceback(calls, monkeypatch, caplog):
    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "val", stop)
    assert main(["val"]) == INTERRUPTED == 130
    assert "interrupted" in caplog.text


def test_request_to_terminate_closes_the_results_like_ctrl_c(model, caplog):
    before, closed = signal.getsignal(signal.SIGTERM), []

    def results():
        try:
            yield 1
            signal.raise_signal(signal.SIGTERM)
            yield 2
        finally:
            closed.append(True)

    model.results = results()
    assert main(["predict", "model=a.pt", "source=0"]) == INTERRUPTED
    assert (closed, signal.getsignal(signal.SIGTERM)) == ([True], before)


def test_source_of_which_nothing_can_be_read_is_a_failure(model, caplog):
    model.results = iter(())
    assert main(["predict", "model=a.pt", "source=0"]) == FAILURE
    assert "nothing of the source could be read" in caplog.text


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", "help", "-h", "--help", "h"])
def test_overview(line, capsys, calls):
    assert main(line.split()) == 0
    assert capsys.readouterr().out == overview() + "\n"
    assert not calls


@pytest.mark.parametrize("line", ["help train", "train --help", "train -h", "train epochs=3 --help"])
def test_help_on_a_mode(line, capsys, calls):
    assert main(line.split()) == 0
    assert capsys.readouterr().out == mode_help("train") + "\n"
    assert not calls


def test_arguments_of_the_process_are_the_default(monkeypatch, calls):
    monkeypatch.setattr(sys, "argv", ["yolo-uncert", "val", "model=a.pt"])
    assert main() == 0
    assert calls == [("val", {"model": "a.pt"})]


@pytest.mark.parametrize("line", ["version", "--version", "v"])
def test_version(line, capsys):
    assert main([line]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_reader_that_leaves_early_is_no_error():
    command = [sys.executable, "-m", "yolo_uncert", "help", "train"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # as `head` does after its lines
        errors = process.stderr.read()
        assert process.wait() == 0
    assert errors == b""


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), None])
def test_an_interrupt_inside_a_kernel_is_an_interrupt(monkeypatch, caplog, cause):
    error = SystemError("CPUDispatcher returned a result with an exception set")
    error.__cause__ = cause

    def fail(_):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "info", fail)
    if cause is None:
        with pytest.raises(SystemError):
            cli.main(["info", "model=a.pt"])
    else:
        assert cli.main(["info", "model=a.pt"]) == INTERRUPTED
        assert "interrupted" in "\n".join(caplog.messages)
