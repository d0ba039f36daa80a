"""Features: run a frozen trunk once, store its outputs, train a head on them, join both."""

from keras_graft.features._advise import Advice, advise
from keras_graft.features._compute import compute
from keras_graft.features._export import Exported, export
from keras_graft.features.engines.ray_options import RayOptions
from keras_graft.features.head.dataset import FeatureDataset
from keras_graft.features.head.fit_head import Fitted, fit_head
from keras_graft.features.sources.image_folder import ImageFolder
from keras_graft.features.store.keep import keep
from keras_graft.features.store.store import FeatureStore

__all__ = [
    "Advice", "Exported", "FeatureDataset", "FeatureStore", "Fitted", "ImageFolder", "RayOptions",
    "advise", "compute", "export", "fit_head", "keep",
]  # fmt: skip
