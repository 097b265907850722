from .catalog import Checkpoint as Checkpoint
from .catalog import info as info
from .catalog import list_models as list_models
from .errors import IBotError as IBotError
from .extraction import extract as extract
from .features import open_features as open_features
from .loading import load as load
from .model import Model as Model
from .options import ExtractOptions as ExtractOptions
from .tokens import Tokens as Tokens

__version__: str
