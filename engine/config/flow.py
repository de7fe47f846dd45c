"""`[flow]`: the training of families that learn a flow (meanings: sd-scripts)."""

from __future__ import annotations

from engine.config.fields import Table, setting
from engine.config.values import FlowPrediction, TimestepSampling, WeightingScheme


class FlowTable(Table):
    """`[flow]`: the noise levels, and what is compared."""

    timestep_sampling: TimestepSampling = setting(
        "shift",
        "Timesteps",
        "FLUX: distribution of the noise levels. shift: sigmoid of a normal distribution, shifted by "
        "discrete_flow_shift; flux_shift: shifted by the image's size, as in FLUX itself.",
    )
    sigmoid_scale: float = setting(
        1.0,
        "Sigmoid scale",
        "FLUX: width of the normal distribution of sigmoid, shift, flux_shift.",
        gt=0,
        advanced=True,
    )
    discrete_flow_shift: float = setting(
        3.1582,
        "Flow shift",
        "FLUX: of shift and sigma; more trains on noisier images. 3.1582 is FLUX's own at 1024 px.",
        gt=0,
        advanced=True,
    )
    model_prediction_type: FlowPrediction = setting(
        "raw",
        "Flow prediction",
        "FLUX: what is compared with the velocity. raw: the output itself. Kohya's default sigma_scaled converts it to "
        "an estimate of the image first, which is another quantity.",
        advanced=True,
    )
    weighting_scheme: WeightingScheme = setting(
        "uniform",
        "Sigma density",
        "FLUX: which noise levels timestep_sampling = sigma prefers; sigma_sqrt and cosmap weight the loss of "
        "sigma_scaled instead.",
        advanced=True,
    )
    logit_mean: float = setting(0.0, "Logit mean", "FLUX: centre of the density logit_normal.", advanced=True)
    logit_std: float = setting(1.0, "Logit width", "FLUX: width of the density logit_normal.", gt=0, advanced=True)
    mode_scale: float = setting(
        1.29, "Mode scale", "FLUX: deviation of the density mode from the uniform one.", advanced=True
    )
