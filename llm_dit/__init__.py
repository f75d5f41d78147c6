"""Study how a language model, used as the text encoder, steers a diffusion transformer."""

__version__ = "0.1.0"

import lazy_loader

# Public names are listed in `__init__.pyi`, where editors and type checkers see them too. Modules load on first use,
# so that `from llm_dit import format_prompt` imports neither torch nor diffusers.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
