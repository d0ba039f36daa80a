"""Make models whose variables have shapes and no values, from their configurations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_graft._keras import private


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Let variables that are made inside have a shape and a dtype, but no value.

    In a stateless scope Keras makes no values, and notes the variables for later
    (`uninitialized_variables`, 3.12 - 3.16). These are forgotten again: they never get any.
    """
    key = "uninitialized_variables"
    before = list(private.global_state.get_global_attribute(key) or ())
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        private.global_state.set_global_attribute(key, before)


def model_of_config(config: str, safe_mode: bool) -> Any:
    """Return the model of the JSON in a `.keras` file (`_model_from_config`, 3.12 - 3.16)."""
    return private.model_from_config(config, None, compile=False, safe_mode=safe_mode)


def model_of_legacy_config(config: str, safe_mode: bool) -> Any:
    """Return the model of the JSON in a legacy `.h5` file.

    Uses `saving_utils.model_from_config`, `json_utils.decode`, `keras_option_scope`,
    `SafeModeScope` (3.12 - 3.16).
    """
    known = keras.saving.get_custom_objects()
    legacy = private.option_scope(use_legacy_config=True)
    with legacy, private.SafeModeScope(safe_mode):
        decoded = private.decode_json(config)
        return private.legacy_model_from_config(decoded, custom_objects=dict(known))
