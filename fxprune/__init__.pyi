from .api import analyze as analyze
from .api import apply as apply
from .api import export_onnx as export_onnx
from .api import load as load
from .api import prune as prune
from .api import run as run
from .api import save as save
from .errors import FxpruneError as FxpruneError
from .loop import FineTune as FineTune
from .loop import forecast as forecast
from .loop import load_pretrained as load_pretrained
from .loop import prune_family as prune_family
from .loop import repair as repair
from .loop import save_pretrained as save_pretrained
from .loop import speedup as speedup
from .plan import Plan as Plan
from .report import Report as Report
from .spec import Spec as Spec
from .streaming import prune_checkpoint as prune_checkpoint
from .surgery import SlimModule as SlimModule

__version__: str
