"""What type checkers are told is true: `make lint` checks the script, and here it runs."""

import sys
from pathlib import Path

import pytest

import keras_graft as kg

sys.path.append(str(Path(__file__).parent / "typing"))


@pytest.mark.once
def test_the_script_that_type_checkers_check_runs():
    import user_script

    user_script.main()


@pytest.mark.once
def test_the_package_says_that_it_is_typed():
    assert (Path(kg.__file__).parent / "py.typed").exists()


@pytest.mark.once
def test_completion_shows_what_belongs():
    assert dir(kg.resize) == sorted(kg.resize.__all__)
    assert {"channels", "vocabulary", "positions"} <= set(dir(kg.resize))
    assert not {"np", "re", "keras", "Any"} & set(dir(kg.resize))
