"""Mixture laws, one a file: the function named after the file takes its options and gives a surgeon.laws.law.Law."""
