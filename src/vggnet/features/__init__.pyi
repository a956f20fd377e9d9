from .estimators import VGGClassifier as VGGClassifier
from .estimators import VGGFeatures as VGGFeatures
