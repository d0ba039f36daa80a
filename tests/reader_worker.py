"""One of several processes that train a head from one store, for test_readers.py.

Called as: reader_worker.py HOW STORE RANK WORLD PLACE. It prints the loss of each step or epoch.
"""

import os
import sys

STEPS, SEED, BATCH = 3, 5, 8
"""Epochs, the seed, and the batch of all processes together."""


def ddp(store, rank, world, place):
    """A loop of PyTorch with DistributedDataParallel."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from keras_graft.features import FeatureDataset

    torch.manual_seed(0)
    head = torch.nn.Linear(6, 1)
    if world > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{place}", rank=rank, world_size=world
        )  # fmt: skip
        head = DistributedDataParallel(head)
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    dataset = FeatureDataset(store, BATCH // world, seed=SEED, part=(rank, world))
    batches = dataset.as_torch()
    for _ in range(STEPS):
        for x, y in batches:
            loss = ((head(x)[:, 0] - y) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            whole = loss.detach().clone()
            if world > 1:
                distributed.all_reduce(whole)
            if rank == 0:
                print(f"loss {whole.item() / world:.9f}", flush=True)
    if world > 1:
        distributed.destroy_process_group()


def jax(store, rank, world, place):
    """`fit` with keras.distribution."""
    import jax
    import keras

    from keras_graft.features import FeatureDataset

    if world > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        with open(place) as file:
            keras.distribution.initialize(file.read().strip(), world, rank)
        parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(parallel)
    keras.utils.set_random_seed(0)
    head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    head.compile(keras.optimizers.SGD(0.1), "mse")
    dataset = FeatureDataset(store, BATCH // world, seed=SEED, part=(rank, world))
    found = head.fit(dataset, epochs=STEPS, shuffle=False, verbose=0)
    if rank == 0:
        print("\n".join(f"loss {loss:.9f}" for loss in found.history["loss"]), flush=True)


def mirrored(store, rank, world, place):
    """`fit` with MirroredStrategy: one process, which reads for all of its devices."""
    import contextlib

    import keras
    import tensorflow as tf

    from keras_graft.features import FeatureDataset

    scope = contextlib.nullcontext()
    if world > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * world
        )
        scope = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(world)]).scope()
    keras.utils.set_random_seed(0)
    with scope:
        head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
        head.compile(keras.optimizers.SGD(0.1), "mse")
    data, callbacks = FeatureDataset(store, BATCH, seed=SEED).fed()
    found = head.fit(data, epochs=STEPS, shuffle=False, verbose=0, callbacks=callbacks)
    print("\n".join(f"loss {loss:.9f}" for loss in found.history["loss"]), flush=True)


if __name__ == "__main__":
    how, folder, number, count, file = sys.argv[1:]
    os.environ["KERAS_BACKEND"] = {"jax": "jax", "mirrored": "tensorflow"}.get(how, "torch")
    {"ddp": ddp, "jax": jax, "mirrored": mirrored}[how](folder, int(number), int(count), file)
