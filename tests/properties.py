"""How Hypothesis looks for examples here: few, and the same ones every time."""

import hypothesis

# Derandomised: a test fails for what was changed, not by chance. No limit of
# time, which a busy machine would break, and no store of examples on disk.
few = hypothesis.settings(
    max_examples=60, derandomize=True, deadline=None, database=None
)
fewest = hypothesis.settings(few, max_examples=5)
