"""Training on transformers' Trainer."""

from .callbacks import model_folder as model_folder
from .callbacks import progress_bar as progress_bar
from .fit import Task as Task
from .fit import fit as fit
from .language import TrainConfig as TrainConfig
from .language import language_config as language_config
from .language import language_task as language_task
from .language import train as train
from .run_folder import RunFolder as RunFolder
from .settings import FitSettings as FitSettings
