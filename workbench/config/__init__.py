"""What a run is: the fields of its configuration (`sections`), and the whole with its identity (`run`)."""

from workbench.config.base import (
    Section,
)
from workbench.config.data import (
    AugmentationConfig,
    DataConfig,
    MemberConfig,
    RefshapesRecipe,
)
from workbench.config.run import ASSETS, REFERRING_MINI, SHIPPED_BERTS, RunConfig, difference, run_id
from workbench.config.sections import (
    BUILTIN,
    BackboneConfig,
    CrossAttentionConfig,
    EmaConfig,
    EvaluationConfig,
    FreezeConfig,
    FusionConfig,
    LossConfig,
    MachineConfig,
    OptimizerConfig,
    ProjectorConfig,
    ScheduleConfig,
    StartConfig,
    TextEncoderConfig,
    TrainingConfig,
    ValidationConfig,
)

__all__ = [
    "ASSETS",
    "BUILTIN",
    "REFERRING_MINI",
    "SHIPPED_BERTS",
    "AugmentationConfig",
    "BackboneConfig",
    "CrossAttentionConfig",
    "DataConfig",
    "EmaConfig",
    "EvaluationConfig",
    "FreezeConfig",
    "FusionConfig",
    "LossConfig",
    "MachineConfig",
    "MemberConfig",
    "OptimizerConfig",
    "ProjectorConfig",
    "RefshapesRecipe",
    "RunConfig",
    "ScheduleConfig",
    "Section",
    "StartConfig",
    "TextEncoderConfig",
    "TrainingConfig",
    "ValidationConfig",
    "difference",
    "run_id",
]
