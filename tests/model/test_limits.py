"""The bounds of limits.py that only hold together."""

from model import limits


def test_no_partial_sum_of_the_aggregate_leaves_int64():
    largest = limits.QUANTUM_MAX << (limits.EXPONENT_MAX + limits.FRACTION_BITS)
    assert largest * limits.NORM_WEIGHT_MAX * limits.WEIGHT_SUM_MAX < 2**63


def test_every_exponent_is_a_whole_number_of_units():
    assert limits.EXPONENT_MIN + limits.FRACTION_BITS >= 0


def test_a_step_is_exact_in_float32_and_a_leaf_holds_whole_chunks():
    assert limits.STEP_MAX < 2**24
    assert limits.LEAF_BYTES % (4 * limits.CHUNK_VALUES) == 0
