"""The sections of an evaluation, one file each; see `worldmodel.evaluation.section`."""
