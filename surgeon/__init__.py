"""surgeon: operate on a pre-trained language model and bring it home alive."""

from surgeon.errors import SurgeonError

__version__ = "0.1.0"
__all__ = ["SurgeonError", "__version__"]
