"""The commands of `llm-dit`."""
