"""Parts that know nothing of models: layers, codecs for observations, heads and distributions."""
