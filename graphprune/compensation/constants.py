"""The numbers of the method by which what was removed is made up for.

Each line says what the number is, what it trades, and what chose it. *Not measured* means that it
was chosen by hand: nothing on record compares it with other values. *Tried* gives what other values
did with `effort="fast"`: the mean top-1 of small networks on scikit-learn's digits (the VGG, ResNet
and ViT of `tools/bench_accuracy.py`, and a wide perceptron and a wide CNN), one training each; and
the agreement of MobileNetV2 at 10 and 20 % of its MACs on 128 images. Networks and images are few:
differences of a point or two say nothing.
"""

from __future__ import annotations

# Least squares

DAMPING = 1e-3
"""Least ridge, as a share of the mean variance of the inputs. It keeps inverses stable where
channels are nearly dependent. From the method's first figures. Tried: 1e-6 changes nothing on
digits."""

RIDGE_FLOOR = 1e-12
"""Added to every ridge, so that inputs that are all zero have an inverse."""

UNEXPLAINED = 0.1
"""Share of the removed channels' variance left unexplained from which on the ridge has its full
size. Tried: nearly zero (always the full size) changes nothing on digits and MobileNetV2; 1 (in
proportion) raises the wide networks from 66.4 to 68.5 and was not tried on large ones."""

WIDEST = 4096
"""Most channels of one least-squares problem: the time grows with their cube, memory with their
square. Not measured."""

ROWS_EACH = 2
"""Rows for each channel below which the positions of a flattened picture share one solution. With
fewer, a separate solution for each position is overfitted. Not measured."""

TOGETHER_LEAST = 256
"""Channels that are one problem however few the rows: the ridge copes. Not measured."""

DOUBLE_BELOW = 512
"""Channels from which on a refit is solved, and inputs are eliminated, in float32: wide problems
take most of the time, and `DAMPING` bounds their condition number. Tried for the elimination, on
covariances of rank 8 to 768 with gains over several orders of magnitude: the same order as in
float64, the same losses to eight digits."""

# Optimal Brain Surgeon

BLOCK_STEPS = 32
"""Removals between two updates of whole matrices. Only time depends on it: 2 to 8 times as fast
from 512 channels on as one update each (`tools/bench_importance.py`)."""

BLOCK_ROWS = 128
"""Rows of a triangle that are updated at a time. Smaller blocks waste less above the diagonal;
larger ones use matrix products better. Only time depends on it; not measured."""

LIVE_LEAST = 0.75
"""Share of the indices of several inputs each that must be live; with fewer, matrices are copied
without the others. Only time depends on it; not measured."""

SYSTEMS, SYSTEMS_WORK = 8, 1 << 31
"""Most layers of a group with covariances of their own, and most cubed widths of these together.
Further layers share covariances, which are averaged: the elimination takes time for each. Not
measured."""

CUBE_SECONDS = 1e-10
"""Seconds that the elimination of a layer takes for each cubed channel, on one core; a refit takes
a quarter (`REFIT_PART`). For estimates of time only. On one core of a server 1e-10 at 256 channels,
5e-11 at 511, 3e-11 at 1,024 and 2e-11 at 3,072; slower machines take several times that."""

REFIT_PART = 1 / 4

# Loss curves

CURVE_POWER = 3.0
"""Power with which losses grow where the covariance says nothing: the first half of a group then
causes an eighth of its loss. Tried: 1 lowers the wide networks from 66.4 to 64.3, 6 gives 67.1."""

DOUBTFUL_SCARCITY = 30.0
"""Scarcity of rows at which that shape counts as much as the covariance. Tried without: MobileNetV2
without data falls from 44.5 / 14.8 to 38.3 / 10.9; the wide networks rise from 66.4 to 67.0."""

PASSED_LEAST = 1e-3
"""Least share of a group's signal that a curve tells apart from nothing: it keeps the logarithm
finite, at 6.9. Tried: 1e-2 and 1e-12 change nothing on digits."""

REMOVED_MOST = 0.9
"""Share of a group's indices beyond which the others stay as long as anything else can go.
Published with the method's first figures."""

SENSITIVITY_FLOOR = 1e-12
"""Least sensitivity of an output: groups that only such outputs read still have an order."""

LOSS_FLOOR = 1e-300
"""Least sum of losses that a curve is divided by."""

RANK_STEP = 1e-12
"""Added to a curve per index: keeps the order of removal where losses are equal."""

# Sensitivities

SENSED_MOST, SENSED_LEAST = 64, 8
"""Most and fewest samples that gradients are taken of. More give steadier sensitivities and take
time in proportion. Not measured."""

SENSED_MACS = 5e10
"""Multiply-accumulates that these samples may take, between the two bounds: about two seconds on
one core."""

GRADIENT_BYTES = 1 << 30
"""Bytes that the values of a run may take, all of which are kept for gradients. Beyond,
sensitivities are not measured. Not measured itself."""

PERTURBATION = 0.1
"""Share of its variation by which an output is perturbed: small enough to be linear, large enough
for float32. Tried: 0.01 changes nothing."""

PERTURBED_POWER = 0.5
"""Power of the sensitivities that perturbations give, between 0 (all equal) and 1 (as measured).
Tried on two networks in ONNX with 256 inputs: 95.3; with 0, 94.5; with 1, 93.8."""

PERTURBED_MACS, PERTURBED_CALLS = 5e11, 50_000
"""Multiply-accumulates, and operations, that all runs of perturbed graphs may take together: some
ten seconds on one core. Not measured."""

# Closed-form correlations

COLOUR_CORRELATION = 0.9
"""Correlation of the channels of pictures. Photographs have about that much. Not measured; it has
no effect on pictures of one channel."""

OLDEST = 2
"""Linear operations after the last norm up to which correlations are followed: those of a
squeeze-and-excitation gate."""

SCARCITY_LEAST = 0.01
"""Scarcity of rows below which the closed form is not computed: it would count for less than 1
%."""

FOLLOWED_MOST = 4096
"""Most channels of a value whose correlations are followed: memory and time grow with their square.
Wider values are as if unknown."""

CORRELATIONS_MOST = 1 << 27
"""Numbers that all correlations together may have: 512 MB."""

CONSTANT_MOST = 1 << 20
"""Numbers in a value that is computed from weights alone, such as 1 + gain; larger ones are not
computed. Keeps embeddings out."""

NUMBER_ROUNDING = 1e-3
"""How far the number of a channel may be from a whole number after an operation that moves
channels: means of equal numbers are rounded."""

# Descent

POLISH_STEPS = 300
"""Steps of the descent. More come nearer to the original and take time."""

POLISH_STEPS_FEWER, POLISH_STEPS_FEWEST = 100, 50
"""Steps with `effort="auto"`, but where `POLISH_STEPS` are a matter of a moment, and where time
does not allow so many. Tried on the nine networks of digits, 70 % of the channels gone, no data:
the squared error of the outputs on real images is 0.24 before, 0.14 after 300 steps of Adam, 0.11
after 100 of these and 0.08 after 300 (means)."""

POLISH_STEPS_BEST = 1200
"""Steps with `effort="best"`."""

STEP_SAMPLES = 64
"""Most samples of a step. The time of a descent grows in proportion. Found on digits with steps of
Adam, half and 70 % of the channels gone, no data: 128 changes the accuracy of six networks by 0.3
on average, either way; 32 loses 0.5 at 70 %."""

TRIAL_STEPS = 0.25
"""Steps of the trial as a share of the descent's. The trial only has to show whether a descent does
harm."""

REUSED, ROUNDS_LEAST = 4, 3
"""How often a descent meets samples that are augmented in the same way, and the fewest passes
between two such times: one for each kind of augmentation. The original runs once for each way.
Tried on 27 networks of digits, 70 % of the channels gone, no data: 4 times, twice and once give
95.8, 95.8 and 96.0, which the trainings do not tell apart."""

TARGET_BYTES = 1 << 29
"""Bytes that what the original computes may take for all ways. Where fewer than `ROUNDS_LEAST` fit,
it is computed anew in each step. Not measured."""

TRIAL_WORSE = 2.5
"""How many times the error before a trial the one after it may be for the descent to be done: a
trial is noisy and brief. On eight networks of digits, 70 % of the channels gone, no data or 32 real
inputs, it comes to between 0.5 and 2.1 times, and every descent lowers the error on other images.
MobileNetV2 with 24 made or 64 real pictures: 8 and 5.6 times, and a descent would leave nothing of
it. Steps a quarter as long, of 16 of 64 real pictures each, gain nothing there: 1.14 times in the
trial, 1.13 times after the descent."""

POLISHED_LEAST = 32
"""Samples that a descent takes at least. With 16 real inputs, half of the channels gone, it raised
the error on other images for four networks of digits out of four, and trials told no difference:
1.4 to 2.5 times; with 32 it lowered it for eight out of eight."""

POLISH_RATE = 0.025
"""The share of its norm by which the first step changes a weight, times the relative error of the
outputs before the descent, of 1 at most: the less is lost, the shorter the way back. Tried on seven
networks of digits: 0.02 and 0.03 come out alike, 0.04 loses up to 5 points. Without the error as a
factor, ViT, which begins at 0.2, wants 0.006, and ShuffleNet, which begins at 0.7, 0.015."""

PARTS = 4
"""One part in so many of the samples is held out to see whether the descent helps. More leave more
samples to the descent and make the test noisier. Not measured."""

ERROR_NEGLIGIBLE = 1e-6
"""Relative squared error of the outputs after the refit at which no descent is begun: nothing is
left to gain."""

ERROR_SETTLED = 0.01
"""The same with `effort="auto"` where, besides, all inputs that were held out get the same answer
as from the original. Larger values save more descents, which take most of the time of a small
network: on digits, half of the parameters or channels gone and 256 inputs given, VGG took 35 s
in place of 120, with the same accuracy (`tools/bench_constants.py`)."""

OUTPUT_VARIANCE_FLOOR = 1e-8
"""Added to the variance that errors are divided by, for values that are constant."""

# Time and samples, by effort

SAMPLES_BY_EFFORT = {"fast": 64, "balanced": 256, "best": 1024}
"""Samples that are read or made. On small networks, 256 gave all of the accuracy, and 32 lost
several points; the others are a fourth of it and four times as many."""

SAMPLES_LEAST = 8
"""Samples that are used at least where time is short. Not measured."""

POLISH_SECONDS, POLISH_EASY = 25.0, 0.12
"""Estimated seconds of trial and descent up to which `effort="auto"` begins them, and the share of
these up to which it takes `POLISH_STEPS`. A matter of patience."""

AUTO_SECONDS = 60.0
"""Seconds by the clock after which `effort="auto"` ends descents that still run, on inputs or
weights. Estimates keep it from being reached on an idle machine of two cores, so that results
depend on the clock only where time is short."""

AUTO_MAKING = 0.75
"""Share of these seconds that making inputs may take: descents on inputs are worth more than those
on weights where time is short. Not measured."""

MAKING_TIME = 0.4
"""Share of the time left that inputs may take where a number of seconds is granted. Not
measured."""

PASSES_SECONDS = 40.0
"""Estimated seconds on one core that passes over the caller's data may take with `effort="auto"`:
of 256 pictures of 224 x 224, ResNet-50 reads about 150, and MobileNetV2 all. A matter of
patience: SmolLM2-135M, a fifth of its parameters gone, came to a perplexity of 123.6 with 22 rows
of 64 tokens in 88 s, of 89.1 with 224 in 324 s (one loaded core; 55.9 dense)."""

PASSES_TIME, PASSES_AUTO = 0.3, 0.75
"""Share of the seconds granted, and of `AUTO_SECONDS`, that passes over the samples may take, at
the speed of a run that was timed. Not measured."""

PASSES_TIMED = 0.1
"""Share of that time, as estimated, from which on a run is timed to tell how fast the machine is at
present."""

SENSING_TIME = 0.2
"""Share of the time left after which no further gradients are taken for sensitivities. Not
measured."""

POLISH_TIME = 0.1
"""Share of the seconds granted that must be left for a descent to be begun. Not measured."""

TRIAL_TIME, FINAL_TIME = 0.45, 0.9
"""Shares of the time left that the trial descent and the final one may take: halves, with a
margin."""
