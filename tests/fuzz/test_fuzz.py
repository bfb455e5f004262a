"""Damaged and hostile files come back equal or are refused, in time and within memory: 200 mutants a reader, of a fixed seed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("group", ["results", "stores", "saes", "models", "tables"])
def test_mutants_come_back_equal_or_are_refused(group):
    """Each group in a process of its own, which forks: nothing of this one (threads, locks, memory) reaches the mutants."""
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", "--group", group], cwd=ROOT, capture_output=True, text=True, timeout=550)
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines()[2:]]
    assert rows, done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(sum(map(int, row[1:8])) == 200 for row in rows)
    assert all(int(row[3]) > 20 for row in rows if "corpus" not in row[0]), "a reader that refuses nothing reads nothing"
