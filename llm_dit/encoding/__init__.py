"""From a chat string to hidden states: token ids, backends, caches, and `EncodingOutput`."""
