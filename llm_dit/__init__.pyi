"""Public names, for editors and type checkers; `llm_dit/__init__.py` loads from here what is asked for."""

__version__: str

from .core.limits import LIMITS as LIMITS
from .core.opening import UnsafeFileError as UnsafeFileError
from .core.values import ImageConversionWarning as ImageConversionWarning
from .core.versions import VersionWarning as VersionWarning
from .encoding.backends import TransformersBackend as TransformersBackend
from .encoding.embedding_cache import DamagedCacheWarning as DamagedCacheWarning, EmbeddingCache as EmbeddingCache
from .encoding.encoder import TextEncoder as TextEncoder
from .encoding.finite import NonFiniteError as NonFiniteError
from .encoding.output import (
    EncodingOutput as EncodingOutput,
    align_tokens as align_tokens,
    concatenate as concatenate,
)
from .encoding.protocols import (
    BackendConfig as BackendConfig,
    CachingBackend as CachingBackend,
    FamilyBackend as FamilyBackend,
    FingerprintedBackend as FingerprintedBackend,
    FreeableBackend as FreeableBackend,
    IncrementalBackend as IncrementalBackend,
    LayeredBackend as LayeredBackend,
    LocalBackend as LocalBackend,
    ReloadableBackend as ReloadableBackend,
    TextEncoderBackend as TextEncoderBackend,
    TokenizingBackend as TokenizingBackend,
)
from .encoding.running import SmallerBatchesWarning as SmallerBatchesWarning
from .encoding.tokenizing import (
    PromptTooLongError as PromptTooLongError,
    TruncationWarning as TruncationWarning,
)
from .encoding.weight_files import (
    IncompleteModelError as IncompleteModelError,
    IncompleteWeightsError as IncompleteWeightsError,
)
from .encoding.z_image_encoder import ZImageTextEncoder as ZImageTextEncoder
from .families.family import Family as Family, PipelineSpec as PipelineSpec, TextSpec as TextSpec
from .families.registry import register_family as register_family
from .generation.memory import MemoryPlan as MemoryPlan, MemoryWarning as MemoryWarning, memory_plans as memory_plans
from .generation.pipeline import ImagePipeline as ImagePipeline
from .generation.preview import LatentPreview as LatentPreview
from .generation.recipe import Recipe as Recipe, RecipeWarning as RecipeWarning
from .generation.result import Generation as Generation, GenerationInterrupted as GenerationInterrupted
from .generation.schedule import flow_match_sigmas as flow_match_sigmas
from .generation.z_image_pipeline import ZImagePipeline as ZImagePipeline
from .prompts.conversation import Conversation as Conversation, Message as Message, Role as Role
from .prompts.foreign_syntax import PromptSyntaxWarning as PromptSyntaxWarning
from .prompts.formatter import (
    FormattedPrompt as FormattedPrompt,
    Qwen3Formatter as Qwen3Formatter,
    Span as Span,
    SpecialTokenError as SpecialTokenError,
    SpecialTokenWarning as SpecialTokenWarning,
    format_prompt as format_prompt,
)
from .prompts.front_matter import TemplateError as TemplateError
from .prompts.template_files import Template as Template, load_template as load_template
from .prompts.templates import TemplateRegistry as TemplateRegistry, UnknownTemplateError as UnknownTemplateError
from .studies.results import Results as Results
from .studies.store import Store as Store, StoreFullError as StoreFullError, StoreWarning as StoreWarning
from .studies.sweep import Sweep as Sweep, SweepInterrupted as SweepInterrupted
from .views.playground import Playground as Playground
from .views.plots import (
    contact_sheet as contact_sheet,
    difference_heatmap as difference_heatmap,
    dimension_heatmap as dimension_heatmap,
    layer_heatmap as layer_heatmap,
    norm_profile as norm_profile,
    pca_scatter as pca_scatter,
    similarity_heatmap as similarity_heatmap,
    token_heatmap as token_heatmap,
    xy_grid as xy_grid,
)
from .views.widgets import (
    CompareSlider as CompareSlider,
    LayerExplorer as LayerExplorer,
    TemplateBrowser as TemplateBrowser,
    TokenStrip as TokenStrip,
)
