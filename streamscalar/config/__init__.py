"""Config: sections and keys, and the only code that reads config files and the environment."""

from streamscalar.config.loading import load_config, preset_names
from streamscalar.config.models import Config
from streamscalar.config.plan import Cost, RunPlan, cost, plan_packs, plan_runs
from streamscalar.config.setting import RunSetting

__all__ = ["Config", "Cost", "RunPlan", "RunSetting", "cost", "load_config", "plan_packs", "plan_runs", "preset_names"]
