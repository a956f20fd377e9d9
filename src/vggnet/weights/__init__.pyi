from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import load as load
from .checkpoint import open_model as open_model
from .checkpoint import save as save
from .conversion import convert as convert
from .create import create_model as create_model
from .fetching import fetch as fetch
from .fetching import verify as verify
