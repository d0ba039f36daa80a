"""What both uses of Ray share: what actors are given, and what becomes of what they say."""

from __future__ import annotations

import json
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import FeatureError
from keras_graft.features.data import Batch
from keras_graft.features.engines.pipeline import failed
from keras_graft.features.engines.ray_options import RayOptions
from keras_graft.features.engines.ray_worker import Work, loaded
from keras_graft.features.engines.run import Run
from keras_graft.features.fixed_trunk import inner_layers
from keras_graft.features.store.entries import ShardEntry
from keras_graft.features.store.journal import Journal
from keras_graft.features.store.location import leftovers
from keras_graft.features.store.manifest import Manifest
from keras_graft.model.fingerprint import fingerprint
from keras_graft.printable import words_of


def environment(how: RayOptions) -> dict[str, Any]:
    return {"env_vars": {"KERAS_BACKEND": how.backend or keras.backend.backend()}}


def made_by(manifest: Manifest, how: RayOptions) -> Manifest:
    """Return a manifest that names the backend of the actors."""
    backend = how.backend or keras.backend.backend()
    return manifest.replace(versions={**manifest.versions, "backend": backend})


def entry_of(text: str, where: str = "") -> ShardEntry:
    """Return the entry that an actor told.

    Raises:
        FeatureError: What it says is wrong.
    """
    told = json.loads(text)
    if "wrong" in told:
        raise FeatureError(told["wrong"] + where)
    return ShardEntry.of(told)


def check_skipped(run: Run, entry: ShardEntry) -> None:
    if entry.skipped and not run.skip:
        raise failed(entry.skipped[0])


def ended(run: Run, journal: Journal) -> None:
    """Mark the store as complete, and delete what killed actors left."""
    journal.finish()
    for name in leftovers(run.folder, journal.manifest):
        run.folder.delete(name)


def tried(batch: Batch) -> Batch:
    """Return one sample for actors to try: if it fails, the cause is not a single sample."""
    return batch[:1]


def actors(how: RayOptions, work: Work) -> int:
    """Return the number of actors; warn if they leave no processor to read the data."""
    import ray

    there = ray.cluster_resources().get("CPU", 0)
    left = there - (1 if work.rows is not None else 0)
    if how.actors is None:
        return max(1, min(2, int(left / how.cpus))) if how.cpus else 2
    if how.actors * how.cpus > left:
        warnings.warn(
            f"{how.actors} actors with {how.cpus:g} processors each leave none of the cluster's "
            f"{there:g} to read the data: unless the cluster grows, this waits forever. Take "
            "fewer: ray={'actors': ...}, or {'cpus': 0.5}.",
            stacklevel=2,
        )
    return how.actors


def _imported(thing: Any) -> bool:
    """Whether an actor can import something without being given it."""
    home = getattr(thing, "__module__", None) or ""
    return home.partition(".")[0] in ("keras", "keras_graft")


def shipped(trunk: Any) -> tuple[tuple[bytes, dict[str, Any]], dict[str, str]]:
    """Return what actors load the trunk from, and the fingerprint that it has after loading.

    Raises:
        FeatureError: If it cannot be loaded here either.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trunk.keras"
        _keras.save(trunk, path)
        file = path.read_bytes()
        config = zipfile.ZipFile(path).read("config.json").decode()
    # Only registered code that the trunk needs: actors may not be able to import the rest.
    custom = {
        name: thing
        for name, thing in keras.saving.get_custom_objects().items()
        if json.dumps(name) in config and not _imported(thing)
    }
    for layer in inner_layers(trunk):
        if not _imported(type(layer)):
            custom.setdefault(type(layer).__name__, type(layer))
    try:
        # Saving may change weights: Keras merges LoRA.
        return (file, custom), fingerprint(loaded(file, custom))
    except Exception as error:
        raise FeatureError(
            f"{trunk.name!r} cannot be loaded from the file that it was saved to, as actors do: "
            f'{words_of(error)} With engine="local" it needs no file.'
        ) from error
