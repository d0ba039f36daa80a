"""The command `demo`."""

from __future__ import annotations

from keras_graft_cli.group import MORE
from keras_graft_cli.running import Run, Told, command


@command(panel=MORE, json=False)
def demo(run: Run) -> Told:
    """Cut a real architecture in the middle, join it again, and show that nothing changed."""
    import keras
    import numpy as np

    import keras_graft as kg
    from keras_graft.model.files import load
    from keras_graft_cli.rows import Rows

    run.progress.say("Building MobileNetV3Small")
    model = load("app:MobileNetV3Small", (64, 64, 3))
    found = kg.cuts(model)
    cut = found[len(found) // 2]
    trunk, head = kg.split(model, at=cut)
    joined = kg.join(trunk, head)
    x = np.random.default_rng(0).random((2, 64, 64, 3), "float32") * 255
    whole, parts, again = (
        np.asarray(keras.ops.convert_to_numpy(y)) for y in (model(x), head(trunk(x)), joined(x))
    )
    rows = [
        ("places to cut at a single value", len(found)),
        ("cut in the middle, at", cut.name),
        ("parameters of the whole", model.count_params()),
        ("parameters of the trunk", trunk.count_params()),
        ("parameters of the head", head.count_params()),
        ("largest difference of head(trunk(x)) from the whole", float(np.abs(whole - parts).max())),
        ("largest difference of the joined model", float(np.abs(whole - again).max())),
        ("layers of the joined model that are the donor's own",
         sum(a is b for a, b in zip(joined.layers[1:], model.layers[1:], strict=True))),
    ]  # fmt: skip
    head = ("MobileNetV3Small, fresh weights", "")
    return Told(None, Rows(head, [(a, f"{b}") for a, b in rows]))
