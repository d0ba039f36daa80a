"""merge_checkpoints: equal to NumPy by hand, from models and files, in bounded memory."""

import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from donor import equal, unchanged
from keras import layers

import keras_graft as kg
from keras_graft.testing import random_inputs

SEEDS = 0, 1, 2


def made(seed, width=5, dtype="float32"):
    x = keras.Input((4,), name="x")
    i = keras.Input((width,), name="i")
    inner = keras.Model(i, layers.Dense(3, name="d")(i), name="inner")
    h = layers.BatchNormalization(name="bn", dtype=dtype)(
        layers.Dense(width, name="in", dtype=dtype)(x)
    )
    y = layers.Dense(2, name="out", dtype=dtype)(inner(layers.Dropout(0.5, seed=1)(h)))
    model = keras.Model(x, y, name="m")
    rng = np.random.default_rng(seed)
    for v in model.weights:
        v.assign(rng.uniform(0.5, 1.5, v.shape) if "var" in v.name else rng.normal(size=v.shape))
    return model


def values(model):
    return [keras.ops.convert_to_numpy(v).astype("float64") for v in model.weights]


# -- by hand -----------------------------------------------------------------------------------


def mean(xs, b, w):
    return sum(wi * x for wi, x in zip(w, xs, strict=True)) / sum(w)


def slerp(xs, b, w):
    t, (x, y) = w[1] / sum(w), xs
    a = np.arccos(np.clip((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), -1, 1))
    if np.cos(a) > 0.9995 or np.isnan(a):
        return (1 - t) * x + t * y
    return np.sin((1 - t) * a) / np.sin(a) * x + np.sin(t * a) / np.sin(a) * y


def task_arithmetic(xs, b, w, scale=0.7):
    return b + scale * sum(wi * (x - b) for wi, x in zip(w, xs, strict=True))


def ties(xs, b, w, scale=0.7, density=0.4):
    deltas = []
    for x in xs:
        d = x - b
        k = round(density * d.size)
        keep = np.zeros(d.size, bool)
        keep[np.argsort(-np.abs(d).ravel(), kind="stable")[:k]] = True
        deltas.append(np.where(keep.reshape(d.shape), d, 0))
    sign = np.sign(sum(wi * d for wi, d in zip(w, deltas, strict=True)))
    up = sum(wi * np.where(np.sign(d) == sign, d, 0) for wi, d in zip(w, deltas, strict=True))
    down = sum(wi * ((np.sign(d) == sign) & (d != 0)) for wi, d in zip(w, deltas, strict=True))
    return b + scale * np.where(down > 0, up / np.where(down > 0, down, 1), 0)


CASES = {
    "mean": (mean, {"weights": [1, 2, 0.5]}),
    "slerp": (slerp, {"weights": [3, 1]}),
    "task_arithmetic": (task_arithmetic, {"weights": [1, 0.5, -1], "scale": 0.7}),
    "ties": (ties, {"weights": [1, 2, 0.5], "scale": 0.7, "density": 0.4}),
}


@pytest.mark.parametrize("method", CASES)
def test_each_method_is_its_formula_and_changes_no_source(method, tmp_path):
    by_hand, given = CASES[method]
    models = [made(seed) for seed in SEEDS][: len(given["weights"])]
    base = None if method in ("mean", "slerp") else made(9)
    with unchanged(models[0], tmp_path):
        result = kg.merge_checkpoints(models, method, base=base, **given)
        rows = zip(values(result.model), *map(values, models), strict=True)
        starts = [None] * 99 if base is None else values(base)
        for (new, *olds), start, v in zip(rows, starts, models[0].weights, strict=False):
            expected = by_hand(olds, start, given["weights"])
            np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-6, err_msg=v.path)
        assert set(map(id, result.model.weights)).isdisjoint(map(id, models[0].weights))
        assert len(result.merged) == len(models[0].weights) and not result.copied
        del result


def test_dare_keeps_a_share_of_each_delta_and_scales_it():
    models, base = [made(0, 200), made(1, 200)], made(9, 200)
    result = kg.merge_checkpoints(models, "dare", base=base, density=0.25, seed=3, weights=[1, 2])
    again = kg.merge_checkpoints(models, "dare", base=base, density=0.25, seed=3, weights=[1, 2])
    other = kg.merge_checkpoints(models, "dare", base=base, density=0.25, seed=4, weights=[1, 2])
    kernels = [m.model.get_layer("in").kernel for m in (result, again, other)]
    equal(kernels[0], kernels[1])
    assert not np.array_equal(*(keras.ops.convert_to_numpy(k) for k in kernels[::2]))
    start = values(base)[0]
    expected = start.copy()
    for i, (model, weight) in enumerate(zip(models, [1, 2], strict=True)):
        draw = np.random.default_rng([3, zlib.crc32(b"in/kernel"), i])
        mask = draw.random(start.shape, "float32") < 0.25
        assert 0.2 < mask.mean() < 0.3
        expected += weight * mask * (values(model)[0] - start) / 0.25
    np.testing.assert_allclose(values(result.model)[0], expected, rtol=1e-5, atol=1e-5)


def test_limits_that_must_give_a_source_back():
    a, b = made(0), made(1)
    for given in (
        {"sources": [a, a]}, {"sources": [a, b], "weights": [1, 0]},
        {"sources": [a, b], "method": "slerp", "weights": [1, 0]},
        {"sources": [a], "method": "task_arithmetic", "base": b},
        {"sources": [a], "method": "ties", "base": b, "density": 1},
        {"sources": [a], "method": "dare", "base": b, "density": 1},
    ):  # fmt: skip
        result = kg.merge_checkpoints(**given)
        for new, old in zip(values(result.model), values(a), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)
    equal(kg.merge_checkpoints([a, a]).model(x := random_inputs(a)), a(x))


def test_by_selector():
    a, b = made(0), made(1)
    result = kg.merge_checkpoints([a, b], only=["inner", "out/kernel"])
    assert result.merged == ("inner/d/kernel", "inner/d/bias", "out/kernel")
    equal(result.model.get_layer("in").kernel, a.get_layer("in").kernel)
    result = kg.merge_checkpoints([a, b], weights={"inner/**": [0, 1], "in": [3, 1]})
    kernel = lambda m, *path: values_of(m, *path)  # noqa: E731
    np.testing.assert_allclose(
        kernel(result.model, "inner", "d"), kernel(b, "inner", "d"), rtol=1e-6
    )
    expected = 0.75 * kernel(a, "in") + 0.25 * kernel(b, "in")
    np.testing.assert_allclose(kernel(result.model, "in"), expected, rtol=1e-5, atol=1e-6)
    half = 0.5 * kernel(a, "out") + 0.5 * kernel(b, "out")
    np.testing.assert_allclose(kernel(result.model, "out"), half, rtol=1e-5, atol=1e-6)


def values_of(model, *path):
    for name in path:
        model = model.get_layer(name)
    return keras.ops.convert_to_numpy(model.kernel)


# -- files ---------------------------------------------------------------------------------------


def write(model, path):
    if path.name.endswith(".keras"):
        model.save(path)
    elif path.name.endswith(".h5"):
        model.save_weights(path)
    else:
        kg.save_weights(model, path)
    return path


def load(path, like):
    model = keras.models.clone_model(like)
    if path.name.endswith(".keras"):
        return keras.saving.load_model(path)
    if path.name.endswith(".h5"):
        model.load_weights(path)
    else:
        kg.transplant(path, model)
    return model


SUFFIXES = ".keras", ".weights.h5", ".safetensors"


@pytest.mark.parametrize("method", ["mean", "ties"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_give_what_models_give(suffix, method, tmp_path):
    models, base = [made(seed) for seed in SEEDS], made(9)
    files = [write(m, tmp_path / f"{i}{suffix}") for i, m in enumerate(models)]
    before = [file.read_bytes() for file in files]
    start = {} if method == "mean" else {"base": write(base, tmp_path / f"base{suffix}")}
    given = {} if method == "mean" else {"base": base}
    expected = kg.merge_checkpoints(models, method, **given).model
    result = kg.merge_checkpoints(files, method, **start, out=tmp_path / f"out{suffix}")
    assert result.model is None and result.out == f"out{suffix}"
    equal(load(tmp_path / f"out{suffix}", models[0]).weights, expected.weights)
    assert [file.read_bytes() for file in files] == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("tmp")) == []


@pytest.mark.parametrize("out", SUFFIXES)
def test_models_and_files_together(out, tmp_path):
    a, b, c = (made(seed) for seed in SEEDS)
    expected = kg.merge_checkpoints([a, b, c]).model
    kinds = [
        [a, write(b, tmp_path / "b.keras"), write(c, tmp_path / "c.weights.h5")],
        [a, b, write(c, tmp_path / "c.safetensors")],
        [write(a, tmp_path / "a.keras"), b, write(c, tmp_path / "c.weights.h5")],
    ]
    for i, sources in enumerate(kinds):
        result = kg.merge_checkpoints(sources, out=tmp_path / f"{i}{out}")
        assert (result.model is None) == (i == 2 or out == ".safetensors")
        merged = load(tmp_path / f"{i}{out}", a) if (i, out) != (2, ".safetensors") else None
        if merged is not None:
            equal(merged.weights, expected.weights)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_safetensors_made_from_files_without_names_fit_the_model(suffix, tmp_path):
    a, b = (made(seed) for seed in SEEDS[:2])
    files = [write(m, tmp_path / f"{i}{suffix}") for i, m in enumerate((a, b))]
    kg.merge_checkpoints(files, out=tmp_path / "out.safetensors")
    into = made(9)
    kg.transplant(tmp_path / "out.safetensors", into)
    equal(into.weights, kg.merge_checkpoints([a, b]).model.weights)
    kg.merge_checkpoints([tmp_path / "out.safetensors"], out=tmp_path / "again.safetensors")
    kg.transplant(tmp_path / "again.safetensors", into := made(9))
    equal(into.weights, kg.merge_checkpoints([a, b]).model.weights)


def test_names_that_keras_gave_and_other_dtypes(tmp_path):
    def unnamed(seed, dtype="bfloat16"):
        keras.utils.set_random_seed(seed)
        made = keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype=dtype), layers.Dense(2)])
        return made

    a, b = unnamed(0), unnamed(1)
    result = kg.merge_checkpoints([a, b], weights=[1, 3])
    assert str(result.model.weights[0].dtype) == str(a.weights[0].dtype)
    for new, x, y in zip(values(result.model), values(a), values(b), strict=True):
        np.testing.assert_allclose(new, 0.25 * x + 0.75 * y, rtol=2**-8)  # the dtype's last bit
    for suffix in (".weights.h5", ".keras"):
        files = [write(m, tmp_path / f"{i}{suffix}") for i, m in enumerate((a, b))]
        kg.merge_checkpoints(files, weights=[1, 3], out=tmp_path / f"out{suffix}")
        equal(load(tmp_path / f"out{suffix}", a).weights, result.model.weights)


def test_what_is_no_float_is_copied(tmp_path):
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        group = file.create_group("layers/counter/vars")
        group.parent.create_group("vars") if "vars" not in group.parent else None
        group["0"] = np.int32(3)
        group["1"] = np.float32([1, 2])
    with h5py.File(tmp_path / "b.weights.h5", "w") as file:
        group = file.create_group("layers/counter/vars")
        group["0"] = np.int32(5)
        group["1"] = np.float32([3, 6])
    sources = [tmp_path / "a.weights.h5", tmp_path / "b.weights.h5"]
    result = kg.merge_checkpoints(sources, out=tmp_path / "c.weights.h5")
    assert len(result.copied) == 1
    with h5py.File(tmp_path / "c.weights.h5") as file:
        assert file["layers/counter/vars/0"][()] == 3
        np.testing.assert_array_equal(file["layers/counter/vars/1"], [2, 4])


# -- refusals --------------------------------------------------------------------------------------


def other():
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(7, name="in")(x), name="other")


REFUSED = {
    "none": (lambda a, b, p: kg.merge_checkpoints([]), "sources is a list of models or files, got []"),
    "one": (lambda a, b, p: kg.merge_checkpoints(a), "sources is a list of models or files"),
    "what": (lambda a, b, p: kg.merge_checkpoints([a, 3]), "must be a Keras model or layer"),
    "method": (lambda a, b, p: kg.merge_checkpoints([a, b], "avg"), "method='avg' is not one of 'mean', 'slerp'"),
    "slerp": (lambda a, b, p: kg.merge_checkpoints([a, b, a], "slerp"), "'slerp' takes two sources, got 3"),
    "base": (lambda a, b, p: kg.merge_checkpoints([a, b], "ties"), "give base=, the model or file"),
    "no base": (lambda a, b, p: kg.merge_checkpoints([a, b], base=a), "'mean' takes no base="),
    "weights": (lambda a, b, p: kg.merge_checkpoints([a, b], weights=[1]), "is not one number for each of 2 sources"),
    "sum": (lambda a, b, p: kg.merge_checkpoints([a, b], weights=[1, -1]), "have the sum 0"),
    "glob": (lambda a, b, p: kg.merge_checkpoints([a, b], weights={"gone": [1, 1]}), "weights= names 'gone', which matches no weight"),
    "only": (lambda a, b, p: kg.merge_checkpoints([a, b], only="gone"), "only= names 'gone', which matches no weight"),
    "density": (lambda a, b, p: kg.merge_checkpoints([a, b], "ties", base=a, density=2), "density=2 is not above 0 and at most 1"),
    "density of mean": (lambda a, b, p: kg.merge_checkpoints([a, b], density=0.5), "density= is for 'ties', 'dare', not for 'mean'"),
    "scale": (lambda a, b, p: kg.merge_checkpoints([a, b], scale=2), "scale= is for"),
    "shape": (lambda a, b, p: kg.merge_checkpoints([a, made(0, 6)]), "'in/kernel' has the shape (4, 5) in 'm', and (4, 6) in 'm'"),
    "architecture": (lambda a, b, p: kg.merge_checkpoints([a, other()]), "'other' has no"),
    "out": (lambda a, b, p: kg.merge_checkpoints([a, b], out=p / "a.txt"), "does not end in .keras, .weights.h5 or .safetensors"),
    "folder": (lambda a, b, p: kg.merge_checkpoints([a, b], out=p / "no" / "a.keras"), "there is no such folder"),
    "no out": (lambda a, b, p: kg.merge_checkpoints([write(a, p / "a.keras"), b]), 'give out="merged.keras"'),
    "from": (lambda a, b, p: kg.merge_checkpoints([write(a, p / "a.weights.h5"), b], out=p / "o.keras"), "Write .weights.h5 or .safetensors, or give models instead of files"),
    "file": (lambda a, b, p: kg.merge_checkpoints([p / "gone.keras"], out=p / "o.keras"), "there is no file"),
}  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("case", REFUSED)
def test_refusals_write_nothing(case, tmp_path):
    call, words = REFUSED[case]
    with pytest.raises(kg.WeightsError) as caught:
        call(made(0), made(1), tmp_path)
    assert words in str(caught.value), str(caught.value)
    assert str(caught.value).startswith("merge_checkpoints: ")
    assert not [p for p in tmp_path.iterdir() if p.name not in ("a.keras", "a.weights.h5")]


# -- memory ------------------------------------------------------------------------------------------

SCRIPT = textwrap.dedent("""
    import re, sys
    from pathlib import Path
    import numpy as np
    import keras_graft as kg

    def now(name):
        return int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

    folder, method, suffix = sys.argv[1:]
    small = f"{folder}/small{suffix}"
    kg.merge_checkpoints([small] * 2, out=f"{folder}/warm{suffix}")  # imports are done
    given = {"base": f"{folder}/a{suffix}"} if method not in ("mean", "slerp") else {}
    start = now("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    kg.merge_checkpoints([f"{folder}/a{suffix}", f"{folder}/b{suffix}"], method, out=f"{folder}/o{suffix}", **given)
    print((now("VmHWM") - start) // 1024)
""")


def big(path, seed, rows, count=4):
    rng = np.random.default_rng(seed)
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        arrays = {f"l{i}.kernel": rng.random((rows, 1024), "float32") for i in range(count)}
        save_file(arrays, path)
        return
    with h5py.File(path, "w") as file:
        for i in range(count):
            group = file.create_group(f"layers/dense_{i}/vars")
            group["0"] = rng.random((rows, 1024), "float32")


def grown(folder, method, suffix, rows, count=4):
    """Return by how many MB a process grows that merges two files."""
    big(folder / f"small{suffix}", 0, 2)
    for seed, name in enumerate("ab"):
        big(folder / f"{name}{suffix}", seed, rows, count)
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), method, suffix],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(out.stdout.split()[-1])


@pytest.mark.once
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="Linux says what the peak is"
)
@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors"])
@pytest.mark.parametrize("method", ["mean", "slerp", "dare"])
def test_memory_does_not_grow_with_the_files(method, suffix, tmp_path):
    grew = grown(tmp_path, method, suffix, rows=12 * 1024)  # one weight has 48 MB, a file 192 MB
    assert 0 < grew < 100
