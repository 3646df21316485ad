"""extend-context: positions that reach further, by the rotary base and the scalings that transformers has."""
