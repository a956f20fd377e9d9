from . import errors as errors
from . import interpret as interpret
from . import weights as weights
from .accel.api import accelerate as accelerate
from .accel.api import restore as restore
from .data.preprocess import Preprocess as Preprocess
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.predict import predict as predict
from .exporting.export import export as export
from .features import perceptual as perceptual
from .features import retrieval as retrieval
from .features import style_transfer
from .features.extractor import FeatureExtractor as FeatureExtractor
from .features.extractor import extract_features as extract_features
from .models.architecture import Architecture as Architecture
from .models.vgg import VGG as VGG
from .training.config import TrainConfig as TrainConfig
from .training.presets import preset as preset
from .training.run import Run as Run
from .training.train import resume as resume
from .training.train import train as train
from .weights import hub as hub
from .weights.checkpoint import Checkpoint as Checkpoint
from .weights.checkpoint import load as load
from .weights.checkpoint import save as save
from .weights.create import create_model as create_model

style = style_transfer
__version__: str
