"""The numbers of the method by which statistics are taken and inputs are made.

Each line says what the number is, what it trades, and what chose it. *Not measured* means that it
was chosen by hand: nothing on record compares it with other values. *Tried* is explained in
`graphprune.compensation.constants`.
"""

from __future__ import annotations

# Reading calibration data

SAMPLES = 256
"""Samples read where the caller names no number. More take time and memory. On small networks, 256
samples gave all of the accuracy and 32 lost several points (`tools/bench_accuracy.py`)."""

BATCH_SIZE = 32
"""Samples in a batch where the data is one tensor or a data set without a loader. It only divides
the work; results do not depend on it, but for rounding."""

# Moments

ROWS_PER_CHANNEL = 32
"""Rows per channel that a covariance is estimated from; evenly spaced ones are taken where there
are more. More rows take time in proportion. Tried: 8, with no `ROWS_ENOUGH`, lowers
the networks on digits from 68.0 to 63.5."""

ROWS_ENOUGH = 8192
"""Rows that are always used, however few the channels: they take next to no time. Not measured."""

ROWS_TOGETHER = 8192
"""Rows that are multiplied at once. Products of a few rows each take longer than one of many. Not
measured."""

SCARCITY = 0.15
"""Ridge, as a share of the mean variance, where there are as many independent rows as channels (see
`Moments.scarcity`). More protects fits to few rows; less lets fits to many rows be exact.
Tried: 0 lowers the wide networks from 66.4 to 59.9 and MobileNetV2 from 44.5 / 14.8 to 2.3 / 1.6
(with 16 real images, from 72.7 / 57.8 to 7.8 / 7.8); 1 lowers the wide networks to 63.6. On the
other networks, 0 gives 68.9 where this gives 68.0."""

TINY = 1e-30
"""Keeps a division by a variance of zero finite."""

# Normal channels

QUADRATURE_NODES = 64
"""Nodes of the Gauss-Hermite quadrature. Exact for polynomials of degree 127; the kink of a ReLU
leaves an error of at most 0.005. Time and memory grow in proportion."""

HERMITE_ORDER = 4
"""Highest Hermite polynomial in Mehler's formula. What lies beyond counts as variance of the
channel alone, so that correlations come out slightly too small."""

VARIANCE_FLOOR = 1e-12
"""Least variance that a correlation is divided by."""

# Memory

MEMORY_LEAST, MEMORY_MOST = 1 << 31, 6 << 30
"""Least and most bytes that the values of both graphs may take at once. More samples at once are
faster; too many make the machine swap. Not measured."""

MEMORY_PART = 4
"""Between these two bounds, values may take one part in so many of the machine's memory: the rest
is for the model, its copy, and other programs. Not measured."""

CHUNK_BYTES = 1 << 26
"""Bytes that the values of one chunk of samples may take. Small chunks stay in the caches; large
ones need fewer calls. Not measured."""

UNTRIED_RUNS = 8
"""Runs over all samples, at the captured batch size, up to which no other batch size is tried: the
trial takes two runs itself."""

SAME_RELATIVE, SAME_ABSOLUTE = 1e-2, 1e-3
"""Relative and absolute difference up to which results at two batch sizes are the same. Rounding in
float32 stays far below; a graph that mixes samples goes far beyond."""

SAME_LOGITS = 1e-3
"""Relative and absolute difference up to which logits do not depend on a later token. As above:
rounding stays far below."""

# Making inputs: how many, and how long

LONGEST_SECONDS = 90.0
"""Estimated seconds on one core that `effort="auto"` may take to make inputs. What takes longer is
made in a quicker way. A matter of patience: 120 gave MobileNetV2 70.3 in place of 69.5 (10 % of its
MACs gone, no data)."""

STEPS, STEPS_BEST = 100, 500
"""Most runs of the gradient descent that matches batch-norm statistics, and with `effort="best"`.
It ends by itself once `MATCHED` is reached, on small networks after 15 to 25."""

STEPS_INVERTING = 40
"""Steps of the descent that inverts a classifier. A longer one makes the images of a class alike.
Tried on ViT, Mixer and LSTM on digits, three to eight trainings, 70 % of the channels gone: 93.8
with 40 steps and a rate of 0.15, 93.7 with 60 and 0.1, 93.6 with 30 and 0.2, 93.1 with 30 and 0.1.
"""

STEPS_TYPICAL = 50
"""Runs that a descent on batch-norm statistics takes before it ends by itself; for estimates of
time only."""

PARTS_SYNTHESISED = (1, 1 / 2, 1 / 4)
"""How many inputs are synthesised, as multiples of the number of real ones that would be read: the
first that time allows. Twice as many were made before: on digits, with half and 70 % of the
channels gone, nine networks are as accurate with these on average."""

STEPS_PICTURES = 20, 60
"""Least and most steps that painted pictures take towards batch-norm statistics where a whole
descent would take too long. A few pictures near the statistics tell more than many that are not:
for MobileNetV2 at 224 x 224, 24 pictures and 60 steps gave as much as 64 and 200."""

PICTURES_STEPPED = 24
"""Number of pictures from which the number of their steps follows: as many as these can take in the
time allowed. Not measured."""

FEWEST_MADE = 16
"""Fewest inputs that are worth a descent or text of a model's own; below, painted pictures or
random tokens, of which there can be more, are used. Not measured."""

PICTURES_TOGETHER = 8
"""Pictures that take steps are a multiple of this number, so that they divide into equal chunks."""

WRITING_ROUNDS = 4
"""Rounds in which a language model writes its inputs. In the same time, more inputs helped more
than more rounds."""

QUICK_MACS, QUICK_MACS_FAST = 1.2e12, 2e10
"""Multiply-accumulates that passes over painted pictures, random tokens or noise may take, and with
`effort="fast"`: by `SECONDS_PER_MAC`, forwards, 16 and 0.3 seconds. A matter of patience. Tried:
5e9 gives DLA-34 at 64 x 64, with random weights, 4 pictures in place of 20; outputs then keep 0.61
of their variation in place of 0.80, for a tenth less time (30 % of the parameters gone)."""

PASSES = 4
"""Passes over the samples that compensation makes; for estimates of time only."""

QUICK_FEWEST = 4
"""Painted pictures that are used at least, however long they take."""

WORTH_STEPPED = 0.3
"""What a painted picture that took some steps towards batch-norm statistics tells, as a share of a
real input: fits to such pictures get a ridge as if there were so many times fewer. Not measured.
Plain ones count in full: with 0.1 for them, `tools/bench_constants.py` found MobileNetV2 at 44.5
and 14.8 in place of 57.8 and 30.5 (10 and 20 % of the MACs gone, `effort="fast"`), VGG on digits
at 90.9 in place of 98.0 (half of the channels), MobileNet there at 89.3 in place of 86.3, and
CREPE, MiniLM and two ResNets within 0.5."""

DESCENT_BYTES = 1 << 30
"""Bytes that the values of one descent may take: all of them are kept for gradients. More inputs
than fit are made in several descents. Not measured."""

# Estimates of time, so that no choice depends on a clock

SECONDS_PER_MAC = 4e-11
SECONDS_PER_ELEMENT = 3.5e-9
SECONDS_PER_OPERATION = 2e-4
"""Seconds of a run forwards and backwards on one core: per multiply-accumulate, per number in a
result, and per operation. Fitted to timed descents on one machine; other machines differ by a
factor, which only moves the bounds of `effort="auto"`."""

SECONDS_PER_PICTURE, SECONDS_PER_PIXEL = 0.01, 4e-7
"""Seconds to paint a picture, and more for each of its numbers: 0.07 for 3 x 224 x 224."""

BACKWARD_FACTOR = 3
"""How many times longer a run forwards and backwards takes than one forwards: the gradient is two
products of the same size."""

SECONDS_PER_PRODUCT = SECONDS_PER_MAC / BACKWARD_FACTOR
"""Seconds of a multiply-accumulate of a matrix product in single precision."""

GRADIENT_LANES = 16
"""Input channels of a convolution up to which its gradient takes as long as for this many: the
kernels compute that many at a time. Found with CREPE, whose synthesis took half an hour where two
minutes were estimated."""

# Synthesis

MATCHED = 0.02
"""Loss, summed over all batch norms, at which inputs match the stored statistics. On small networks
with 70 % of the channels removed, a descent that ended at 0.9 lost half of the accuracy."""

PATIENCE, PROGRESS = 12, 0.9
"""Runs in which the least loss must fall by a tenth, else the descent is at its end. Not
measured."""

FIRST_MOVE = 0.2
"""How far the first step moves an input's numbers on average, in standard deviations. Tried: 0.1
and 0.4 take as many runs, give or take two, and PyTorch's own first step takes four to six
more."""

HISTORY = 10
"""Steps that L-BFGS remembers, each by two tensors of the inputs' size. Tried: 5 takes up to two
runs more."""

INVERSION_RATE, PICTURES_RATE = 0.15, 0.1
"""Adam's learning rate for inputs of variance 1, where classes are inverted, and where painted
pictures take steps towards batch-norm statistics. The first was tried with `STEPS_INVERTING`.
MobileNetV2 with 12 pictures at 224 x 224 and 44 steps came to a loss of 0.29 with Adam at the
second, of 0.44 with L-BFGS; ResNet-18 at 64 x 64 with 40 steps to 0.18 and 0.07."""

SYNTHESIS_BETAS = 0.5, 0.9
"""Decay rates of that Adam: those with which the published figures of this pipeline were taken. Not
swept on record."""

SMOOTHNESS = 0.1
"""Weight of the total variation in the loss. More gives smoother images that match less well. Not
swept on record."""

# Augmentation

ROLLED_PART = 8
"""Samples are shifted by at most one part in so many of a dimension: objects stay in the picture.
Not measured."""

BLENDED_MOST = 0.5
"""Most of another sample that is blended in; beyond, the two only change roles."""

BOX_LEAST, BOX_MOST = 0.15, 0.85
"""Least and most of a dimension that a pasted box covers: neither sample vanishes. Not measured."""

# Pictures like an example

PICTURE_RANGES = (1.0, 255.0)
"""Upper ends of the ranges, from zero on, that pictures commonly have where a model scales them
itself."""

PICTURE_MIDDLE, PICTURE_SPREAD = 0.5, 0.25
"""Mean and standard deviation of painted pictures in such a range: two deviations reach either
end."""

# Painting

COLOURS_MOST = 4
"""Most channels of a picture: red, green, blue and alpha."""

SIDE_LEAST = 8
"""Pixels of the shortest side in which shapes can be seen. The handwritten digits that this was
tried on have 8."""

SHAPES, SHAPES_LARGE = 60, 20
"""Shapes in a picture, and how many of them, painted first, have radii of all sizes alike; the
others are mostly small."""

RADII = (0.03, 0.5)
"""Least and greatest radius, as a share of the picture: details of a pixel or two, and halves."""

BEYOND = 0.1
"""Share of the picture around it in which centres may lie, so that shapes are cut off at its
edge. Tried: 0 lowers MobileNetV2 from 44.5 / 14.8 to 36.7 / 14.1."""

TINT = 0.5
"""Standard deviation of channels about the brightness that they share. In photographs, channels are
strongly correlated: 1 / (1 + 0.5²) = 0.8 here."""

GRAIN_MOST = 1.5
"""Greatest standard deviation of a shape's grain; shapes' own brightness has 1. Strong grain is
rare. Tried: neither grain nor stripes gives MobileNetV2 43.0 / 19.5 instead of 44.5 / 14.8."""

STRIPED = 0.3
"""Share of the shapes that have stripes."""

WAVES = (2.0, 60.0)
"""Least and greatest number of stripes across a picture."""
