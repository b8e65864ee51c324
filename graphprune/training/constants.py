"""The numbers of recovery: what each one is, and what chose it."""

from __future__ import annotations

HELD_OUT = 8
"""One batch in so many is held out to judge by, at least one."""

EPOCHS = 10
"""Passes over the data, at most, unless told."""

BATCH = 64
"""Samples for a step, unless told."""

RATE = 0.01
"""The share of its norm by which the first steps change a weight matrix. Tried on ResNet,
MobileNet, ViT and LSTM of digits and on two networks of Fashion-MNIST, nine tenths of the
parameters gone: 0.005 and 0.02 come out alike, 0.025 fails on the LSTM; the loss on held-out inputs
falls further than with AdamW at 0.001 or 0.003 on all of them."""

PATIENCE = 3
"""Looks at the held-out batches without gain after which training stops. Not measured."""

SAMPLES = 65536
"""Samples that are read at most of data that can be read once: they stay in memory. Passes over a
stream that tells no length end after as many."""

MEMORY = 2**29
"""Bytes of a loader's samples that are in memory at once, of each: those held out, those that are
being shuffled, those that are read meanwhile. Some 900 pictures of 224 by 224."""

FEATURES = 8
"""Layers that are compared at most, evenly spaced: each costs the memory of its outputs."""
