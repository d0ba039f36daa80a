"""Files are written all or none, on the disk, with their modes, also when a process is killed."""

import json
import os
import stat
import subprocess
import sys

import pytest

import keras_graft as kg
from keras_graft.errors import FileError
from keras_graft.model import files
from keras_graft.model import saving as writing

pytestmark = pytest.mark.skipif(os.name == "nt", reason="processes and modes are other ones there")


class Model:
    """All that is asked of a model here: it writes a file."""

    def __init__(self, text, error=None):
        self.text, self.error = text, error

    def save(self, path):
        path.write_text(self.text)
        if self.error:
            raise self.error


def pair(text):
    return {"trunk": Model(f"{text} trunk"), "head": Model(f"{text} head")}


def paths(folder):
    return {name: folder / f"{name}.keras" for name in ("trunk", "head")}


def found(folder):
    return {p.name: p.read_text() for p in folder.iterdir()}


BOTH = {
    text: {"trunk.keras": f"{text} trunk", "head.keras": f"{text} head"} for text in ("old", "new")
}
CALLS = ("replace", "fsync", "open")


def killed_at(call, number, work):
    """Run `work` in a process that is killed when it comes to the n-th call of one of `os`."""
    child = os.fork()
    if child == 0:
        real, left = getattr(os, call), [number]

        def dies(*args, **kwargs):
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            return real(*args, **kwargs)

        setattr(os, call, dies)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("call", CALLS)
def test_killed_anywhere_it_is_the_old_pair_or_the_new_one(call, tmp_path):
    ends = []
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        files.save(pair("old"), paths(folder))
        code = killed_at(call, number, lambda folder=folder: files.save(pair("new"), paths(folder)))
        mixed = found(folder)
        # The next one to read or write in the folder, whatever it does, settles it.
        if number % 2:
            with pytest.raises(FileError, match="already exists"):
                files.check_free(paths(folder), force=False)
        else:
            with pytest.raises(FileError, match="There is no file"):
                files.load(str(folder / "other.keras"))
        now = found(folder)
        assert now in BOTH.values(), (call, number, now)
        ends.append((code, now == BOTH["new"], len(mixed) > 2))
        if code == 0:
            break
    assert ends[-1] == (0, True, False) and len(ends) > 2, ends
    assert ends[0][1] is False or call == "open"
    assert any(left for _, _, left in ends)


def test_a_live_process_is_left_alone(tmp_path):
    theirs = writing._own(tmp_path, "keras")
    theirs.write_text("being written")
    other = tmp_path / ".keras-graft-00000000-1-00000000.keras"  # of another machine
    other.write_text("")
    (tmp_path / ".hidden.keras").write_text("a user's own")
    files.save(pair("new"), paths(tmp_path))
    assert theirs.exists() and other.exists() and (tmp_path / ".hidden.keras").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"a": 1}',
        '{"../x.keras": "y.keras"}',
        '{"OWN": "../y.keras"}',
        '{"OWN": "x"}',
    ],
)
def test_a_journal_from_anywhere_leads_nowhere(text, tmp_path):
    folder = tmp_path / "downloaded"
    folder.mkdir()
    files.save(pair("old"), paths(folder))
    (tmp_path / "y.keras").write_text("mine")
    dead = 2**30 + 7  # no such process
    own = f".keras-graft-{writing._machine()}-{dead}-00000000.keras"
    (folder / own).write_text("forged")
    (
        folder / own.replace(".keras", ".journal", 2).replace(".journal-graft", ".keras-graft")
    ).write_text(text.replace("OWN", own))
    writing.settle(folder)
    assert found(folder) == BOTH["old"] and (tmp_path / "y.keras").read_text() == "mine"


def test_modes(tmp_path):
    before = os.umask(0o027)
    try:
        files.save(pair("old"), paths(tmp_path))
        modes = [stat.S_IMODE(p.stat().st_mode) for p in paths(tmp_path).values()]
        assert modes == [0o640, 0o640]
        (tmp_path / "head.keras").chmod(0o600)
        files.save(pair("new"), paths(tmp_path))
        modes = [stat.S_IMODE(p.stat().st_mode) for p in paths(tmp_path).values()]
        assert modes == [0o640, 0o600] and found(tmp_path) == BOTH["new"]
    finally:
        os.umask(before)


def test_a_full_disk_names_the_file_and_leaves_the_old_ones(tmp_path):
    files.save(pair("old"), paths(tmp_path))
    full = OSError(28, "No space left on device")
    for models in (
        {"trunk": Model("new", full), "head": Model("new")},
        {"trunk": Model("new"), "head": Model("new", RuntimeError("Can't write data"))},
    ):
        name = "trunk" if models["trunk"].error else "head"
        with pytest.raises(FileError, match=rf"{name}.keras' cannot be written: "):
            files.save(models, paths(tmp_path))
        assert found(tmp_path) == BOTH["old"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_the_command_on_a_disk_that_is_full(tmp_path):
    from models import residual

    residual().save(tmp_path / "m.keras")
    (tmp_path / "parts").mkdir()
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));"
        "from keras_graft_cli.app import app; app(sys.argv[1:])"
    )
    args = ["split", str(tmp_path / "m.keras"), "--at", "add0", "-o", str(tmp_path / "parts")]
    # -B: else half of the bytecode of what it imports would be written too.
    done = subprocess.run([sys.executable, "-B", "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "trunk.keras' cannot be written: " in done.stderr.splitlines()[-1], done.stderr
    assert os.listdir(tmp_path / "parts") == []


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        events.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def renamed(old, new):
        events.append(("replace", os.path.basename(old), os.path.basename(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.save(pair("new"), paths(tmp_path))
    kinds = [e[0] if e[1] != tmp_path.name else "folder" for e in events]
    assert kinds == [
        "fsync",
        "fsync",
        "fsync",
        "replace",
        "folder",
        "replace",
        "replace",
        "folder",
        "folder",
    ]
    assert found(tmp_path) == BOTH["new"] and json and kg
