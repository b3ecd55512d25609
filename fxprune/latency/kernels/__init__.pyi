from .graphs import labelled as labelled
from .labels import Label as Label
from .labels import Labels as Labels
from .labels import Unlabelled as Unlabelled
from .model import KernelModel as KernelModel
from .store import Store as Store
from .store import place as place
