"""Study how a language model, used as the text encoder, steers a diffusion transformer."""

__version__ = "0.1.0"

from importlib import import_module

# Public names and the module each one lives in. Modules load on first use (PEP 562), so that
# `from llm_dit import format_prompt` imports neither torch nor diffusers.
_MODULE_OF = {
    name: module
    for module, names in {
        "conversation": ("Role", "Message", "Conversation"),
        "values": ("ImageConversionWarning",),
        "foreign_syntax": ("PromptSyntaxWarning",),
        "formatter": ("Qwen3Formatter", "FormattedPrompt", "Span", "SpecialTokenError", "SpecialTokenWarning", "format_prompt"),
        "templates": ("Template", "TemplateError", "TemplateRegistry", "UnknownTemplateError", "load_template"),
        "encoding": ("EncodingOutput", "TruncationWarning", "align_tokens", "concatenate"),
        "versions": ("VersionWarning",),
        "embedding_cache": ("DamagedCacheWarning", "EmbeddingCache"),
        "backends": ("BackendConfig", "FreeableBackend", "IncrementalBackend", "NonFiniteError", "PromptTooLongError", "SmallerBatchesWarning", "TextEncoderBackend", "TransformersBackend"),
        "encoder": ("ZImageTextEncoder",),
        "weight_files": ("IncompleteModelError", "IncompleteWeightsError"),
        "memory": ("MemoryPlan", "MemoryWarning", "memory_plans"),
        "pipeline": ("GenerationInterrupted", "ZImagePipeline"),
        "schedule": ("flow_match_sigmas",),
        "preview": ("LatentPreview",),
        "recipe": ("Generation", "Recipe", "RecipeWarning"),
        "plots": ("contact_sheet", "difference_heatmap", "dimension_heatmap", "layer_heatmap", "norm_profile", "pca_scatter", "similarity_heatmap", "token_heatmap", "xy_grid"),
        "store": ("Store", "StoreFullError", "StoreWarning"),
        "experiments": ("Results", "Sweep", "SweepInterrupted"),
        "widgets": ("CompareSlider", "LayerExplorer", "TemplateBrowser", "TokenStrip"),
        "playground": ("Playground",),
    }.items()
    for name in names
}
__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(import_module(f"llm_dit.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'llm_dit' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_MODULE_OF])
