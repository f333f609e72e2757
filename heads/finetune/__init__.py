"""Head and upper layers of the backbone trained together, from where the cached head ended."""

from heads.finetune.plan import KEEP, Plan, TuningStage
from heads.finetune.result import FineTuned
from heads.finetune.run import Sources, fine_tune

__all__ = ["KEEP", "FineTuned", "Plan", "Sources", "TuningStage", "fine_tune"]
