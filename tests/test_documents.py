"""What the documents show runs."""

import re
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def test_the_code_of_the_readme():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    x = np.ones((1, 64, 64, 3), "float32")
    expected = keras.ops.convert_to_numpy(names["model"](x))
    assert np.array_equal(expected, keras.ops.convert_to_numpy(names["whole"](x)))
    assert np.array_equal(expected, keras.ops.convert_to_numpy(names["head"](names["trunk"](x))))
    assert len(names["taps"](x)) == 2 and names["rest"].count_params() > 0
    # The refusal that it shows, word for word.
    shown = re.search(
        r"'conv3_block2_1_relu' is no cut.*?True\.", (ROOT / "README.md").read_text(), re.S
    )
    with pytest.raises(names["kg"].CutError) as caught:
        names["kg"].split(names["model"], at="conv3_block2_1_relu")
    assert str(caught.value) == shown.group()


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="once is enough")
def test_the_benchmark_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["structure.py", "--quick"])
    for name in ("RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling"):
        cls = getattr(keras.initializers, name)
        monkeypatch.setattr(cls, "__call__", cls.__call__)  # it replaces them: put them back
    limit = sys.getrecursionlimit()
    try:
        runpy.run_path(str(ROOT / "benchmarks" / "structure.py"), run_name="__main__")
    finally:
        sys.setrecursionlimit(limit)
    page = capsys.readouterr().out
    assert "MobileNetV3Small" in page and re.search(r"none\s+0\s+\d+", page)
