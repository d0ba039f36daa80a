"""Features: run a frozen trunk once, store its outputs, train a head on them, join both."""

from keras_graft.features.advise import Advice, advise
from keras_graft.features.compute import compute
from keras_graft.features.dataset import FeatureDataset
from keras_graft.features.fit_head import Fitted, fit_head
from keras_graft.features.ray_engine import RayOptions
from keras_graft.features.store import FeatureStore, keep

__all__ = [
    "Advice", "FeatureDataset", "FeatureStore", "Fitted", "RayOptions", "advise", "compute",
    "fit_head", "keep",
]  # fmt: skip
