from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from prox_monai.commands.interruption import terminable
from prox_monai.demo import stock


def test_a_request_to_end_is_an_interruption():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_workers_end_as_ever():
    """A pool waits for the workers that it asks to end; one that went on would never let it go."""
    read, write = os.pipe()
    with terminable():
        child = os.fork()
        if child == 0:
            os.write(write, str(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL).encode())
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"True"


def test_another_thread_changes_nothing():
    seen = []

    def work():
        with terminable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_a_command_ends_with_its_caller(tmp_path, monkeypatch):
    """Else a training would go on, and the next call would begin a second one in its folder."""
    started = tmp_path / "started"
    script = tmp_path / "train"
    script.write_text(f"#!{sys.executable}\nimport os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    script.chmod(0o755)
    monkeypatch.setattr(stock.shutil, "which", lambda *_, **__: str(script))

    def interrupt(line: str) -> None:
        started.write_text(line)
        raise KeyboardInterrupt

    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        stock.run_stock("train", (), tmp_path / "log", {}, interrupt)
    assert time.monotonic() - before < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_a_whole_command_asked_to_end(tmp_path):
    """Its exit code is that of an interruption."""
    code = (
        "import os, signal, sys\n"
        "from prox_monai.cli import main\n"
        "from prox_monai.commands.command import Command\n"
        "sys.exit(main(['end'], [Command('end', 'end', lambda _: os.kill(os.getpid(), signal.SIGTERM))]))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 130, found.stderr
    assert "stopped" in found.stderr
