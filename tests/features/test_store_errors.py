"""What stores say: no secret of a URL in it, and what a file system raises is an error of ours."""

import contextlib
import errno
import io
import os
import sys
import traceback

import crash_writer
import fsspec
import keras
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import keras_graft as kg
from keras_graft.features import FeatureDataset, FeatureStore
from keras_graft.features.store.masked import masked, secrets, without
from keras_graft_cli.app import app

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="nothing of a backend")
module = sys.modules["keras_graft.features._compute"]  # the function hides the module

URL = "vault://THEKEY:THE/SECRET@bucket/features?sig=THESIGNATURE&part=1"
SHOWN = "vault://***@bucket/features?sig=***&part=***"
HIDDEN = ("THEKEY", "SECRET", "THESIGNATURE", "THETOKEN")


class Vault(MemoryFileSystem):
    """A file system in memory, whose errors tell all that it knows."""

    protocol = "vault"
    store, pseudo_dirs = {}, [""]
    cachable = False
    breaks, error = None, ConnectionError

    @classmethod
    def _strip_protocol(cls, path):
        path = path.split("://")[-1].partition("?")[0].rpartition("@")[2]
        return "/" + path.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path):
        return {"client_kwargs": {"token": "THETOKEN"}}

    def __getattribute__(self, name):
        if name == type(self).breaks:
            raise type(self).error(f"cannot reach {URL}, token THETOKEN, of THEKEY and THE/SECRET")
        return super().__getattribute__(name)


@pytest.fixture(autouse=True)
def vault(monkeypatch):
    for name in ("check_fixed", "fingerprint"):
        monkeypatch.setattr(module, name, getattr(module, name))
    fsspec.register_implementation("vault", Vault, clobber=True)
    Vault.store.clear()
    Vault.breaks, Vault.error = None, ConnectionError
    yield Vault
    Vault.breaks = None


def assert_hidden(text):
    assert not [secret for secret in HIDDEN if secret in text], text


def refused(use, says):
    """Run what is refused; nothing that Python prints of it holds a secret."""
    with pytest.raises(kg.FeatureError, match=says) as caught:
        use()
    assert_hidden("".join(traceback.format_exception(caught.value)))
    seen = caught.value
    while seen is not None:
        assert_hidden(str(seen) + repr(seen))
        seen = seen.__cause__ or seen.__context__
    return str(caught.value)


@pytest.mark.parametrize("url, shown", [
    ("s3://KEY:SECRET@bucket/f", "s3://***@bucket/f"),
    ("s3://KEY:SEC/RE+T@bucket/f", "s3://***@bucket/f"),
    ("s3://KEY:SE'C R>ET@bucket/f", "s3://***@bucket/f"),
    ("https://u:p@ss@host/f", "https://***@host/f"), ("https://token@host/f", "https://***@host/f"),
    ("https://host/f?sig=abc&part=1", "https://host/f?sig=***&part=***"),
    ("https://host/f?TOKEN", "https://host/f?***"),
    ("https://host/f#access_token=abc", "https://host/f#access_token=***"),
    ("https://host/f?a=b;c=d#e=f", "https://host/f?a=***;c=***#e=***"),
    ("simplecache::s3://K:S@b/f", "simplecache::s3://***@b/f"),
    ("zip://a.zip::https://u:p@h/f?sig=a=b", "zip://a.zip::https://***@h/f?sig=***"),
    ("abfs://data@account.dfs/f", "abfs://data@account.dfs/f"),
    ("abfs://data:pw@account.dfs/f", "abfs://***@account.dfs/f"),
    ("hdfs://host:9000/me@work/f", "hdfs://host:9000/me@work/f"),
    ("s3://bucket/run#3/f", "s3://bucket/run#3/f"), ("/data/what?x=1", "/data/what?x=1"),
])  # fmt: skip
def test_what_is_shown_of_a_url(url, shown):
    assert masked(url) == shown == masked(shown)
    said = without(secrets(url), f"error 403 for '{url}': {url}")
    assert said == f"error 403 for '{shown}': {shown}"


def test_secrets_of_options_at_any_depth():
    options = {
        "key": "AKIA", "client_kwargs": {"aws_session_token": "abcd", "region": "eu"},
        "auth": ["user", b"hush"], "connection_string": "AccountKey=x", "anon": False,
    }  # fmt: skip
    assert set(secrets("s3://b", options)) >= {"AKIA", "abcd", "user", "hush", "AccountKey=x"}
    assert "eu" not in secrets("s3://b", options)


def test_nothing_shows_a_secret(capsys):
    store = crash_writer.run(URL)
    module.compute(crash_writer.Trunk(), crash_writer.data(), URL, progress=True)
    module.compute(crash_writer.Trunk(), crash_writer.data(), URL, resume=False, shard_bytes=1000)
    shown = [str(store), repr(store), store._repr_html_(), store.path, *capsys.readouterr()]
    assert store.path == SHOWN and all(SHOWN in text for text in shown[:4:3])
    shown += [str(vars(FeatureDataset(store, 8))), str(store.to_numpy())]
    assert Vault.store
    shown += [bytes(file.getvalue()).decode("latin-1") for file in Vault.store.values()]
    for use in ("info", "verify"):
        for how in ([], ["--json"]):
            app(["features", use, URL, *how], standalone_mode=False)
            shown.append(capsys.readouterr().out)
            assert SHOWN in shown[-1]
    assert_hidden("\n".join(shown))


def test_no_error_shows_a_secret():
    refused(
        lambda: FeatureStore(URL), "is not a store of features: it has no manifest.json. Make one"
    )
    refused(lambda: kg.features.keep(URL, 1), "is not a store of features")
    store = crash_writer.run(URL)
    root = "/bucket/features"
    file = Vault.store[f"{root}/shard-00002.safetensors"]
    good = file.getvalue()
    file.seek(0)
    file.write(b"damaged")
    refused(store.verify, "the checksum of 'shard-00002.safetensors'")
    refused(FeatureStore(URL).to_numpy, "the checksum of 'shard-00002.safetensors'")
    refused(lambda: FeatureDataset(URL, 8, indices=[-1]), "has the samples 0 to 399")
    said = refused(lambda: (file.truncate(9), FeatureStore(URL)), "has 9 bytes, .* were written")
    assert f"kg.features.keep({SHOWN!r}, 2)" in said
    file.seek(0)
    file.write(good)
    other = [(np.zeros((400, 8)), np.ones(400))]
    use = lambda: module.compute(crash_writer.Trunk(), other, URL, progress=False)  # noqa: E731
    refused(use, "holds different features")
    Vault.store[f"{root}/manifest.json"].truncate(50)
    refused(lambda: FeatureStore(URL), "manifest.json cannot be read")
    refused(lambda: FeatureStore(SHOWN), "is a URL with its secrets masked, as it is shown: give")
    refused(lambda: FeatureStore(URL.replace("vault", "novault")), "pip install 'keras-graft.feat")


@pytest.mark.parametrize("error", [ConnectionError, PermissionError, TimeoutError, RuntimeError])
@pytest.mark.parametrize("name, use", [
    ("ls", FeatureStore), ("size", FeatureStore), ("cat_file", crash_writer.run),
    ("pipe_file", lambda url: kg.features.keep(url, 1)), ("get_file", lambda url: FeatureStore(url).take([0])),
    ("open", lambda url: FeatureStore(url).verify()), ("cat_file", lambda url: FeatureStore(url)),
    ("rm_file", lambda url: kg.features.keep(url, 1)), ("makedirs", lambda url: kg.features.keep(url, 1)),
])  # fmt: skip
def test_errors_of_a_file_system_name_the_masked_url(vault, name, use, error):
    crash_writer.run(URL)
    vault.breaks, vault.error = name, error
    said = refused(lambda: use(URL), f"{error.__name__}: cannot reach vault")
    assert SHOWN in said and "token ***, of *** and ***" in said
    rights = error is PermissionError
    assert ("get permission to use this one" if rights else "call again: what was written") in said


def test_what_cannot_be_opened_is_said_without_its_secrets(vault, monkeypatch):
    def unreachable(self, **options):
        raise OSError(errno.EHOSTUNREACH, f"no route to {URL}")

    monkeypatch.setattr(vault, "__init__", unreachable)
    said = refused(lambda: FeatureStore(URL), "no route to vault")
    assert said.startswith(SHOWN) and "can its host be reached?" in said


def test_a_long_error_is_masked_before_it_is_cut_short(vault):
    crash_writer.run(URL)
    for length in range(250, 300):
        vault.error = lambda text, length=length: ConnectionError("." * length + " THE/SECRET")
        vault.breaks = "ls"
        said = refused(lambda: FeatureStore(URL), "ConnectionError")
        assert "THE" not in said
        vault.breaks = None


def test_the_command_says_it_in_a_line(vault):
    crash_writer.run(URL)
    vault.breaks = "ls"
    err = io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        app(["features", "info", URL])
    assert ended.value.code == 1 and err.getvalue().startswith(f"error: {SHOWN}: ")
    assert err.getvalue().count("\n") == 1
    assert_hidden(err.getvalue())


@pytest.mark.parametrize("name", ["manifest.json", "lock", "shard-00000.safetensors"])
def test_a_folder_where_a_file_belongs(tmp_path, name):
    (tmp_path / "s" / name).mkdir(parents=True)
    with pytest.raises(kg.FeatureError, match=f"{tmp_path / 's'}.*{name}"):
        crash_writer.run(tmp_path / "s")
    assert (tmp_path / "s" / name).is_dir()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(kg.FeatureError, match="'manifest.json' cannot be read: .*it is not a file"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("number, says", [
    (errno.EACCES, "Permission denied. Give another place, or get permission"),
    (errno.EIO, "Input/output error. Once the place can be reached, call again"),
    (errno.ENOSPC, "No space left on device. Make room, and call again"),
])  # fmt: skip
def test_errors_of_the_disk_name_the_folder(tmp_path, monkeypatch, number, says):
    from keras_graft.features.store import folder

    def fails(path, mode="r", **kwargs):
        if mode == "xb" or "shard" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return open(path, mode, **kwargs)

    crash_writer.run(tmp_path / "s")
    monkeypatch.setattr(folder, "open", fails, raising=False)
    for use in (FeatureStore(tmp_path / "s").verify, lambda: kg.features.keep(tmp_path / "s", 1),
                lambda: FeatureStore(tmp_path / "s").take([0])):  # fmt: skip
        with pytest.raises(kg.FeatureError, match=f"{tmp_path / 's'}: .*Error: {says}"):
            use()


@pytest.mark.parametrize("path", [
    "", "a\0b", "x" * 5000, "\ud800", b"bytes", 3, None, "memory://a\0b", "a/" * 3000, ["x"],
])  # fmt: skip
def test_what_is_no_path_of_a_store(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (FeatureStore, crash_writer.run, lambda path: kg.features.keep(path, 1)):
        with pytest.raises(kg.FeatureError, match="path|File name too long"):
            use(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [
    {"keys": [10**5000] * 400}, {"keys": ["\ud800"] * 400}, {"keys": [float("nan")] * 400},
    {"batch_size": 10**5000}, {"batch_size": -(10**5000)}, {"shard_bytes": 10**5000},
    {"shard_bytes": 1 << 70}, {"dtype": "\ud800" * 3000}, {"on_error": 10**5000},
    {"engine": "." * 3000},
])  # fmt: skip
def test_arguments_that_nobody_would_give(tmp_path, arguments):
    crash_writer.without_keras_models()
    with pytest.raises(kg.FeatureError) as caught:
        module.compute(
            crash_writer.Trunk(), crash_writer.data(), tmp_path / "s", progress=False, **arguments
        )
    assert len(str(caught.value)) < 500 and not (tmp_path / "s" / "manifest.json").exists()


def test_numbers_of_samples_and_names_that_nobody_would_give(tmp_path):
    store = crash_writer.run(tmp_path / "s")
    for indices in ([10**5000], [1 << 63], [float("nan")], ["." * 3000], [[[[0]]]], {"a": 1}):
        with pytest.raises(kg.FeatureError):
            store.take(indices)
        with pytest.raises(kg.FeatureError):
            FeatureDataset(store, 8, indices=indices)
    for more in (
        {"batch_size": -(10**5000)}, {"batch_size": 8, "seed": -1}, {"batch_size": 8, "seed": "x"},
        {"batch_size": 8, "validation_split": float("nan"), "subset": "training"},
    ):  # fmt: skip
        with pytest.raises(kg.FeatureError):
            FeatureDataset(store, **more)
    with pytest.raises(kg.FeatureError, match="has no"):
        store.take([0], "." * 3000)
    for shards in (-(10**5000), float("nan"), "1"):
        with pytest.raises(kg.FeatureError, match="give how many to keep"):
            kg.features.keep(store.path, shards)


def test_a_name_that_is_no_text(tmp_path):
    class Trunk(crash_writer.Trunk):
        def predict_on_batch(self, x):
            return {"a": x, "\ud800": x}

    crash_writer.without_keras_models()
    with pytest.raises(
        kg.FeatureError, match=r"The name 'features/\\ud800' of the features is not a t"
    ):
        module.compute(Trunk(), crash_writer.data(), tmp_path / "s", progress=False)
    assert not (tmp_path / "s" / "manifest.json").exists()
