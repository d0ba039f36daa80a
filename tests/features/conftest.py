"""The trunk that most tests of features run."""

import pytest
from feature_helpers import donor

import keras_graft as kg
from keras_graft.features.store import retries


@pytest.fixture(autouse=True)
def _waits(monkeypatch):
    """Calls to URLs are not made again after some time, unless a test says so."""
    monkeypatch.setattr(retries, "WAITS", ())


@pytest.fixture
def trunk():
    return kg.freeze(kg.split(donor(), at="pool")[0])
