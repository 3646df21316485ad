"""How tensors become one: a file a method, named after it, with one function of the file's name.

What the function names as positional arguments it is given (float64 tensors of one shape, some rows of the whole):
base, deltas, weights of the deltas; or tensors and their weights; seed of the tensor; rows (first, last) or None,
whole (shape), start (flat position of the first element); facts, what its module's function `facts` says of the
whole tensor. Its keyword arguments are options.

    def facts(chunks, [weights, seed, whole], *, <options that it needs>)
        chunks() -> iterator over consecutive rows of the whole tensor, each [base, *deltas] or the tensors; it may be
        run several times. Sums over it must not depend on where chunks end (see _sums).

Declarations of the module:
    ROWWISE       rows can be merged apart; without it the function gets whole tensors
    LINEAR        with one delta at weight x scale = 1 the result is that model, exactly
    COMMUTATIVE   the order of the tensors does not matter
    EVERY_DELTA   each model's delta is to be given, zeros where it has none: their number matters
    ONTO_WHOLE    `base` is the model given as --onto, with all of its own change
    BASE_OPTIONAL without a base, `base` is None and `deltas` are the tensors themselves
    same_as(weights, **options)        number of the model that the result equals exactly, or None
    weighted_sum(weights, **options)   factors of the deltas (or tensors), where the result is their sum (and the base)

A file that starts with an underscore is no method. A folder is a family of methods, FOLDER:NAME.
"""
