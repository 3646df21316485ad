"""How much of a run each corpus gets where none has a weight: one method a file.

A sampling takes the sizes of the corpora of `--data` in tokens, and `budget`, the tokens that the run reads of all of
them, where it asks for it; it gives each its part, of which only the ratios count.
"""
