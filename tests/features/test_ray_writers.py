"""Many writers of one store: actors without a cluster, each a thread of this process.

They are called as Ray calls actors, and one that dies is started again and gets its call again.
`test_ray.py` has real ones.
"""

import itertools
import json
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import crash_writer
import keras
import numpy as np
import pytest

import keras_graft as kg
from keras_graft.features import FeatureStore
from keras_graft.features.engines import ray_local, ray_pool, ray_worker
from keras_graft.features.engines.ray_pool import AHEAD, EACH, in_order
from keras_graft.features.store.folder import Folder
from keras_graft.features.store.journal import Journal
from keras_graft.features.store.loading import load
from keras_graft.features.store.manifest import RUN
from keras_graft.features.store.remote import folder_at

pytestmark = pytest.mark.once
module = sys.modules["keras_graft.features._compute"]  # the function hides the module


class Dies(BaseException):
    """An actor is killed."""


class Actor:
    """Runs the calls of an object in one thread, one after the other."""

    def __init__(self, make):
        self.made, self._make, self._object = 0, make, None
        self._thread = ThreadPoolExecutor(1)
        self.alive = True

    def __getattr__(self, name):
        def remote(*args):
            future = self._thread.submit(self._call, name, args)
            return SimpleNamespace(future=lambda: future)

        return SimpleNamespace(remote=remote)

    def _call(self, name, args):
        while True:
            if self._object is None:
                self._object, self.made = self._make(), self.made + 1
            try:
                return getattr(self._object, name)(*args)
            except Dies:
                self._object = None  # Ray starts another one and calls it again

    def stop(self):
        self._thread.shutdown(wait=True, cancel_futures=True)


class Calls:
    """Actors whose calls end when the test says so."""

    def __init__(self, count, ready=None):
        self.running, self.lock = {}, threading.Lock()
        self.actors = [self._actor(i) for i in range(count if ready is None else ready)]
        self.late = [(self._actor(i), Future()) for i in range(len(self.actors), count)]
        for actor, started in self.late:
            actor.ready = SimpleNamespace(
                remote=lambda f=started: SimpleNamespace(future=lambda: f)
            )

    def _actor(self, number):
        done = Future()
        done.set_result(None)

        def work(*call):
            future = Future()
            self.running[call[0]] = number, future
            return SimpleNamespace(future=lambda: future)

        return SimpleNamespace(
            ready=SimpleNamespace(remote=lambda: SimpleNamespace(future=lambda: done)),
            work=SimpleNamespace(remote=work),
        )

    @property
    def all(self):
        return [*self.actors, *(actor for actor, _ in self.late)]

    def end(self, call):
        self.running.pop(call)[1].set_result(call)


def reader(calls, results, source, arrived):
    """Read results in a thread; return it."""

    def read():
        for result in in_order(calls.all, source, arrived):
            results.append(result)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def until(condition):
    for _ in range(6_000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came")


def test_a_slow_actor_holds_up_the_order_and_bounds_what_the_others_are_given():
    calls, results, seen = Calls(3), [], []
    read, asked = itertools.count(), []

    def source():
        for i in read:
            if i == 40:
                return
            asked.append(i)
            yield (i,)

    thread = reader(calls, results, source(), seen.append)
    until(lambda: len(calls.running) == 3 * EACH)
    assert sorted(calls.running) == list(range(3 * EACH)) == asked  # no data beyond what runs
    first = {calls.running[i][0] for i in range(3)}
    assert first == {0, 1, 2}  # in turns
    while len(asked) < AHEAD * 3:  # all but the first call are fast
        number = len(asked)
        calls.end(max(list(calls.running)))
        until(lambda n=number: len(asked) > n)
        assert len(calls.running) == 3 * EACH
    while len(calls.running) > 1:
        calls.end(max(list(calls.running)))
    until(lambda: len(seen) == AHEAD * 3 - 1)
    assert asked == list(range(AHEAD * 3)) and not results and list(calls.running) == [0]
    calls.end(0)
    until(lambda: results == list(range(AHEAD * 3)))
    while len(results) < 40:
        until(lambda: calls.running or len(results) == 40)
        for call in list(calls.running):
            calls.end(call)
    thread.join(30)
    assert results == list(range(40)) and sorted(seen) == results and not thread.is_alive()


def test_an_actor_that_starts_later_is_given_calls_then():
    calls, results = Calls(2, ready=1), []
    thread = reader(calls, results, ((i,) for i in range(12)), lambda result: None)
    until(lambda: len(calls.running) == EACH)
    assert {own for own, _ in calls.running.values()} == {0}
    calls.late[0][1].set_result(None)
    until(lambda: len(calls.running) == 2 * EACH)
    assert sum(own for own, _ in calls.running.values()) == EACH
    while len(results) < 12:
        until(lambda: calls.running or len(results) == 12)
        for call in list(calls.running):
            calls.end(call)
    thread.join(30)
    assert results == list(range(12))


def test_what_fails_is_raised_in_the_order_of_the_calls():
    calls, got = Calls(2), []
    ordered = in_order(calls.all, ((i,) for i in range(9)), got.append)

    def end():
        until(lambda: len(calls.running) == 2 * EACH)
        calls.running.pop(1)[1].set_exception(ValueError("the second"))
        calls.end(0)

    threading.Thread(target=end, daemon=True).start()
    assert next(ordered) == 0
    with pytest.raises(ValueError, match="the second"):
        next(ordered)
    late = Calls(2, ready=1)
    late.late[0][1].set_exception(ImportError("it cannot start"))
    with pytest.raises(ImportError, match="cannot start"):
        list(in_order(late.all, ((i,) for i in range(9)), got.append))

    def broken():
        yield (0,)
        raise OSError("a file is missing")

    with pytest.raises(OSError, match="a file is missing"):
        list(in_order(Calls(2).all, broken(), got.append))
    assert list(in_order(Calls(2).all, (), got.append)) == []


class Cluster:
    """What the engine uses of Ray."""

    def __init__(self):
        self.actors, self.killed, self.hooks = [], [], {}
        self.data = SimpleNamespace(Dataset=type("Dataset", (), {}))

    put = get = staticmethod(lambda given: given)

    def cluster_resources(self):
        return {"CPU": 64}

    def remote(self, kind):
        def make(*args):
            actor = Actor(lambda: kind(*args))
            self.actors.append(actor)
            return actor

        def options(**how):
            assert how["max_restarts"] == how["max_task_retries"] == -1
            return SimpleNamespace(remote=make)

        return SimpleNamespace(options=options)

    def kill(self, actor):
        actor.stop()
        self.killed.append(actor)


FAKE = {"structure": "fake", "weights": "fake"}


@pytest.fixture
def cluster(monkeypatch):
    found = Cluster()
    monkeypatch.setitem(sys.modules, "ray", found)
    monkeypatch.setitem(sys.modules, "ray.data", found.data)
    monkeypatch.setattr(module, "check_fixed", lambda trunk, frozen: None)
    monkeypatch.setattr(module, "fingerprint", lambda trunk: FAKE)
    monkeypatch.setattr(ray_local, "shipped", lambda trunk: ((b"", {}), FAKE))
    monkeypatch.setattr(ray_worker, "loaded", lambda *file: crash_writer.Trunk())
    monkeypatch.setattr(ray_worker, "fingerprint", lambda model: FAKE)
    yield found
    for actor in found.actors:
        actor.stop()


def data():
    return list(crash_writer.data())


def run(path, actors=3, given=None, engine="ray", **kwargs):
    how = {"ray": {"actors": actors}} if engine == "ray" else {}
    kwargs = {"shard_bytes": 1000, "progress": False, **kwargs}
    return module.compute(
        crash_writer.Trunk(), given or data(), path, engine=engine, **how, **kwargs
    )


def assert_same(store, local):
    """The same manifest and the same files with the same bytes."""
    assert store.complete and store.manifest == local.manifest
    own, other = (
        {p.name: p.read_bytes() for p in Path(s.path).iterdir() if p.name != "lock"}
        for s in (store, local)
    )
    assert own == other


def hooked(monkeypatch, name, before):
    """Call `before(folder, file name)` before a method of folders."""
    real = getattr(Folder, name)

    def call(self, file, *args):
        before(self, file)
        return real(self, file, *args)

    monkeypatch.setattr(Folder, name, call)


def test_the_store_is_that_of_the_local_engine_whatever_the_number_of_actors(
    cluster, tmp_path, monkeypatch
):
    local = run(tmp_path / "local", engine="local")
    assert len(local.manifest.shards) == 14
    main, writers = threading.get_ident(), set()

    def before(folder, file):
        if file.startswith(("shard", "journal")):
            writers.add((file[:7], threading.get_ident() == main))

    hooked(monkeypatch, "write", before)
    for actors in (1, 3, 20):
        assert_same(run(tmp_path / str(actors), actors), local)
    # Actors write all of them: the caller only merges, and there is nothing to merge yet.
    assert writers == {("shard-0", False), ("journal", False)}
    assert len(cluster.actors) == 24 and cluster.killed[:1] == cluster.actors[:1]
    monkeypatch.setattr("keras_graft.features.store.segments.MERGED", (2, 8))
    assert_same(run(tmp_path / "merged"), local)
    assert ("journal", True) in writers


def test_a_straggler_changes_neither_order_nor_bytes(cluster, tmp_path, monkeypatch):
    local, path = run(tmp_path / "local", engine="local"), tmp_path / "store"
    names, most = set(), AHEAD * 2

    def before(folder, file):
        if folder.path != path:
            return
        if file == "shard-00000.safetensors":  # the others do what they may do meanwhile
            until(lambda: len(list(path.glob("journal-*"))) == most - EACH)
            assert len(FeatureStore(path)) == 0  # what comes after a gap does not count
        names.update(p.name for p in path.glob("shard-*.safetensors"))

    hooked(monkeypatch, "write", before)
    store = run(path, 2)
    assert_same(store, local)
    assert len(names) == 14


def test_the_bar_counts_the_samples_of_all_actors(cluster, tmp_path, monkeypatch):
    path, seen = tmp_path / "store", []

    class Bar:
        def __init__(self, total, unit_name):
            assert unit_name == "sample"

        def update(self, current, finalize):
            seen.append((current, finalize))

    monkeypatch.setattr(keras.utils, "Progbar", Bar)

    def before(folder, file):
        if file == "shard-00000.safetensors":
            until(lambda: len(seen) >= AHEAD * 2 - EACH)  # it does not wait for the first shard

    hooked(monkeypatch, "write", before)
    run(path, 2, progress=True)
    counts = [count for count, _ in seen]
    assert counts == sorted(counts) and counts[-1] == 400 and len(seen) == 15
    assert [last for _, last in seen] == [False] * 14 + [True]


@pytest.mark.parametrize("when", ["before the shard", "before the name", "before the answer"])
def test_nothing_is_lost_and_nothing_twice_when_an_actor_dies(cluster, tmp_path, monkeypatch, when):
    local = run(tmp_path / "local", engine="local")
    died, computed, real = [], [], ray_worker.Worker._computed

    def counted(self, name, *args):
        computed.append(name)
        return real(self, name, *args)

    def die(*args):
        if not died:
            died.append(args)
            raise Dies

    def before(folder, file):
        if file.startswith(
            {"before the shard": "shard-00005", "before the name": "journal"}.get(when, "?")
        ):
            die()

    monkeypatch.setattr(ray_worker.Worker, "_computed", counted)
    hooked(monkeypatch, "write", before)
    if when == "before the answer":
        told = ray_worker.Worker._told
        monkeypatch.setattr(
            ray_worker.Worker, "_told",
            lambda self, call: (told(self, call), die())[0],
        )  # fmt: skip
    store = run(tmp_path / "store")
    assert died and sum(actor.made for actor in cluster.actors) == 4
    assert_same(store, local)
    # What was named is taken as it is: another machine's bits may differ.
    assert len(computed) == (14 if when == "before the answer" else 15)


class Killed(BaseException):
    """The caller is killed."""


def stopped(path, at, monkeypatch, wait=None, **kwargs):
    """Kill the caller when it takes in a shard."""
    real = Journal.take

    def take(self, entry):
        if len(self.manifest.shards) == at:
            raise Killed
        real(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "take", take)
        with pytest.raises(Killed):
            run(path, **kwargs)


def test_a_killed_caller_loses_no_shard_that_has_no_gap_before_it(cluster, tmp_path, monkeypatch):
    path, local = tmp_path / "store", run(tmp_path / "local", engine="local")
    with monkeypatch.context() as patch:
        # The caller is killed before it takes the third; the actors had done more.
        reading = Journal.take
        patch.setattr(
            Journal, "take", lambda self, entry: (until(lambda: (path / "shard-00006.safetensors").exists()),
                                                  reading(self, entry)))  # fmt: skip
        stopped(path, 2, monkeypatch)
    found = load(Folder(path))
    assert len(found.shards) > 2 and not found.complete and RUN in found.versions
    assert found.shards == local.manifest.shards[: len(found.shards)]
    computed, real = [], ray_worker.Worker._computed
    monkeypatch.setattr(
        ray_worker.Worker, "_computed",
        lambda self, name, *args: (computed.append(name), real(self, name, *args))[1],
    )  # fmt: skip
    order = data()
    assert_same(run(path, 1, order), local)
    assert len(computed) == 14 - len(found.shards)


def test_shards_behind_a_gap_are_computed_again_and_leave_nothing(cluster, tmp_path, monkeypatch):
    path, local = tmp_path / "store", run(tmp_path / "local", engine="local")
    stopped(path, 7, monkeypatch)
    gap = sorted(path.glob("journal-*"))[3]
    gap.unlink()  # as if its actor had been slow
    assert len(FeatureStore(path).manifest.shards) == 3 and len(list(path.glob("shard-*"))) >= 7
    shuffled = data()[::-1]
    store = run(path, 5, shuffled)
    assert store.complete and len(store.manifest.shards) == 14 and store.verify()
    x = np.concatenate([x for x, _ in data()])
    rows = store.find(x)
    assert sorted(rows) == list(range(400))
    taken, whole = store.take(rows), local.to_numpy()
    for name in ("twice", "first"):
        assert taken["features"][name].tobytes() == whole["features"][name].tobytes()
    np.testing.assert_array_equal(taken["targets"], whole["targets"])
    assert {p.name for p in path.iterdir()} == {
        "lock",
        "manifest.json",
        *store.manifest.shards.files(),
    }


def test_what_an_actor_of_a_killed_caller_still_writes_belongs_to_no_store(
    cluster, tmp_path, monkeypatch
):
    """The next run begins at the same shard, with other data in it: the order is another one."""
    path, local = tmp_path / "store", run(tmp_path / "local", engine="local")
    made, real = [], ray_worker.Worker.__init__

    def keep(self, *args):
        real(self, *args)
        made.append(self)

    monkeypatch.setattr(ray_worker.Worker, "__init__", keep)
    stopped(path, 0, monkeypatch)
    orphan = made[0]
    for file in path.glob("journal-*"):
        file.unlink()
    shuffled, taken = data()[::-1], []

    def take(self, entry, real=Journal.take):
        if not taken:
            taken.append(1)
            batches = [own[:2] for own in data()[:3]]
            told = orphan.work(0, 0, [ray_local.Batch(*own) for own in batches])
            assert "Another process is writing" in json.loads(told)["wrong"]
        real(self, entry)

    monkeypatch.setattr(Journal, "take", take)
    store = run(path, 2, shuffled)
    assert taken and store.verify() and store.complete
    assert RUN not in store.manifest.versions
    np.testing.assert_array_equal(store.to_numpy()["targets"][:10], shuffled[0][1])
    assert sorted(store.to_numpy()["targets"]) == sorted(local.to_numpy()["targets"])


def test_a_run_that_was_killed_at_its_end_is_finished_without_actors(
    cluster, tmp_path, monkeypatch
):
    path, local = tmp_path / "store", run(tmp_path / "local", engine="local")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "finish", lambda self: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(path)
    assert RUN in FeatureStore(path).manifest.versions
    before = len(cluster.actors)
    assert_same(run(path), local)
    assert len(cluster.actors) == before and RUN not in FeatureStore(path).manifest.versions


def test_another_writer_is_noticed_by_actors_and_when_segments_are_merged(
    cluster, tmp_path, monkeypatch
):
    pytest.importorskip("fsspec")
    url = "memory://test_ray_writers/noticed"
    says = "Another process is writing to memory://test_ray_writers/noticed"
    found = run(tmp_path / "local", engine="local").manifest.replace(complete=True)

    def before(self, entry, real=Journal.take):
        if len(self.manifest.shards) == 1:
            folder_at(url).write("manifest.json", found.text()[1])
        real(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "take", before)
        with pytest.raises(kg.FeatureError, match=says):
            run(url)
    assert load(folder_at(url)) == found  # and not what was computed
    # The caller itself, where no actor is left to notice it.
    folder, entries = Folder(tmp_path / "caller"), list(found.shards)
    monkeypatch.setattr("keras_graft.features.store.segments.MERGED", (2, 8))
    made = Journal(folder, found.replace(shards=(), complete=False), "mark")
    made.take(entries[0])
    found.save(folder)
    with pytest.raises(kg.FeatureError, match="Another process is writing"):
        made.take(entries[1])


def test_a_folder_that_actors_do_not_share_is_said(cluster, tmp_path, monkeypatch):
    """Each machine has its own: what an actor sees has no manifest."""
    monkeypatch.setattr(ray_worker, "folder_at", lambda path: Folder(tmp_path / "of the actor"))
    says = "The caller wrote 'manifest.json', and for an actor it is not in .*of the actor: give a folder"
    with pytest.raises(kg.FeatureError, match=says):
        run(tmp_path / "store")
    assert not (tmp_path / "of the actor").exists() or not list(
        (tmp_path / "of the actor").iterdir()
    )


def test_data_that_breaks_off_keeps_what_was_computed(cluster, tmp_path):
    path, local = tmp_path / "store", run(tmp_path / "local", engine="local")

    def broken(stop):
        for i, batch in enumerate(crash_writer.data()):
            if i == stop:
                raise RuntimeError("a file is missing")
            yield batch

    with pytest.raises(RuntimeError, match="a file is missing"):
        run(path, 2, broken(2))  # before the first shard is full
    assert not (path / "manifest.json").exists()
    with pytest.raises(RuntimeError, match="a file is missing"):
        run(path, 1, broken(36))
    assert 0 < len(FeatureStore(path)) <= 360
    assert_same(run(path), local)


def test_a_damaged_name_is_written_again(cluster, tmp_path):
    folder, found = Folder(tmp_path), run(tmp_path / "local", engine="local").manifest
    made = Journal(folder, found.replace(shards=(), complete=False), "mark")
    made.numbered.add(folder, 0, found.shards[0])
    assert (
        made.numbered.find(folder, 0) == found.shards[0] and made.numbered.find(folder, 1) is None
    )
    (own,) = tmp_path.glob("journal-*")
    own.write_bytes(own.read_bytes()[:-9])
    assert made.numbered.find(folder, 0) is None


def test_the_window_is_what_the_docs_say():
    assert (ray_pool.EACH, ray_pool.AHEAD) == (2, 4)
