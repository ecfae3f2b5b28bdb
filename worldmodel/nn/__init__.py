"""Building blocks of models and policies: layers, codecs, heads, distributions and the learner."""
