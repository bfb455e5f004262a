"""The command line: every command is listed, errors are one line, exit statuses say how it went."""

import re
import subprocess
import sys
import types

import pytest

import workbench
from workbench import cli
from workbench.errors import InputError, fail
from workbench.reproduce import Outcome


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    listed = capsys.readouterr().out
    for command in ("reproduce", "lab", "catalog", "preflight"):
        assert re.search(rf"^\s+{command}\s", listed, re.MULTILINE), command


def test_help_imports_no_heavy_library():
    heavy = {"torch", "pandas", "plotly", "papermill"}
    code = f"import sys; from workbench.cli import parser; parser(); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [[], ["unknown"], ["reproduce", "--scale", "huge"], ["catalog", "--bogus"], ["preflight"],
                                   ["preflight", "m", "s", "--tokens", "0"]])  # fmt: skip
def test_wrong_usage_is_status_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "usage: workbench" in capsys.readouterr().err


def test_an_error_is_one_line_without_traceback(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_catalog", lambda options: fail(InputError, "a\nthing", "another", "do this"))
    assert cli.main(["catalog"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "workbench: a thing. Expected: another. To mend it: do this.\n"


def test_a_bug_shows_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "_catalog", lambda options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["catalog"])


def test_interrupt_is_130(monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_catalog", interrupted)
    assert cli.main(["catalog"]) == 130


def test_a_reader_that_stops_early_is_no_error():
    much = "[print('x' * 70) for _ in range(9999)] and 0"
    code = f"import sys; from workbench import cli; cli._catalog = lambda options: {much}; sys.exit(cli.main(['catalog']))"
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}', sys.executable], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize(("statuses", "expected"), [(["ok", "ok"], 0), (["failed", "ok"], 1)])
def test_reproduce_prints_the_table_and_fails_when_one_fails(statuses, expected, monkeypatch, capsys):
    called = {}

    def fake(chosen, **arguments):
        called.update(arguments, chosen=chosen)
        return [
            Outcome(f"0{i}_name", status, 1.0, 2, "cell 3: NameError: x" if status == "failed" else "") for i, status in enumerate(statuses)
        ]

    monkeypatch.setattr("workbench.reproduce.reproduce", fake)
    assert cli.main(["reproduce", "00", "01", "--scale", "small", "--figures", "there"]) == expected
    assert called == {"chosen": ["00", "01"], "scale": "small", "figures": "there"}
    out = capsys.readouterr().out
    assert "notebook  status  seconds  figures" in out
    assert ("NameError" in out) == bool(expected)


def test_reproduce_of_an_unknown_notebook_names_the_mend(capsys):
    assert cli.main(["reproduce", "99"]) == 2
    assert "workbench: no notebook begins with 99" in capsys.readouterr().err


def test_lab_opens_the_notebooks_and_passes_arguments_on(monkeypatch):
    seen = []
    monkeypatch.setattr(cli.os, "execv", lambda path, command: seen.extend(command))
    monkeypatch.setattr(cli.os, "geteuid", lambda: 0)
    cli.main(["lab", "--no-browser", "--port=9999"])
    assert seen[:3] == [sys.executable, "-m", "jupyterlab"]
    assert any(word.endswith("/notebooks") for word in seen)
    assert seen[-3:] == ["--no-browser", "--port=9999", "--allow-root"]
    assert cli.main(["lab", "--folder", "/nowhere"]) == 2
    seen.clear()
    monkeypatch.setattr(cli.os, "geteuid", lambda: 1000)
    cli.main(["lab"])
    assert "--allow-root" not in seen


def test_catalog_filters_by_words(monkeypatch, capsys):
    import pandas as pd

    table = pd.DataFrame({"name": ["pylm-4l/a", "gpt2/b"], "hook": ["x", "y"], "d_sae": [16, 32]})
    monkeypatch.setitem(vars(workbench), "catalog", lambda: table)
    assert cli.main(["catalog", "PYLM"]) == 0
    out = capsys.readouterr().out
    assert "pylm-4l/a" in out
    assert "gpt2" not in out
    assert cli.main(["catalog", "pylm", "y", "zebra"]) == 2
    assert "zebra" in capsys.readouterr().err


@pytest.mark.parametrize(("verdict", "status"), [("ok", 0), ("suspect", 0), ("wrong", 1)])
def test_preflight_prints_the_verdict(verdict, status, monkeypatch, capsys):
    import pandas as pd

    report = types.SimpleNamespace(verdict=verdict, reason="because", checks=pd.DataFrame({"check": ["L0"], "measured": ["32"]}))
    model = types.SimpleNamespace(tokenizer="tokenizer")
    for name, answer in {"load_model": model, "load_sae": "sae", "corpus": "tokens", "preflight": report}.items():
        monkeypatch.setitem(vars(workbench), name, lambda *args, answer=answer, **kwargs: answer)
    assert cli.main(["preflight", "m", "s", "--tokens", "100"]) == status
    out = capsys.readouterr().out
    assert f"verdict: {verdict}: because" in out
    assert "32" in out
