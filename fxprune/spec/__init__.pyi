from .spec import AllocationSpec as AllocationSpec
from .spec import ObjectiveSpec as ObjectiveSpec
from .spec import Spec as Spec
