"""The trunk that most tests of features run."""

import pytest
from feature_helpers import donor

import keras_graft as kg


@pytest.fixture
def trunk():
    return kg.freeze(kg.split(donor(), at="pool")[0])
