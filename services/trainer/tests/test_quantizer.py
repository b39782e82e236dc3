"""Codes as libs/vector-math makes them."""

import numpy as np
import pytest
from shared_vectors import QUANTIZER_FILE, as_text, plain_values, quantizer_vectors, vectors_and_sizes

from finemesh_trainer.quantizer import code_passage, code_query, normalize, quantize


def test_halves_go_to_the_even_code() -> None:
    codes, scale = quantize(np.array([127, 0.5, 1.5, -0.5, -2.5], dtype=np.float32))
    assert (codes.tolist(), scale) == ([127, 0, 2, 0, -2], 1.0)


def test_zeros_and_tiny_values_have_scale_zero() -> None:
    for values in ([0.0, -0.0], [1e-45, 0.0]):
        codes, scale = quantize(np.array(values, dtype=np.float32))
        assert (codes.tolist(), scale) == ([0, 0], 0.0)


@pytest.mark.parametrize("values", plain_values(), ids=lambda value: str(np.size(value)))
def test_a_code_is_within_half_a_step(values: np.ndarray) -> None:
    codes, scale = quantize(values)
    assert np.abs(values - codes * np.float64(scale)).max() <= max(scale * 0.5001, 1e-36)


@pytest.mark.parametrize(
    ("values", "message"), [([1, np.nan], "component 1"), ([np.inf], "component 0"), ([0, 0], "zero")]
)
def test_what_has_no_direction_is_refused(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalize(np.array(values, dtype=np.float32))


@pytest.mark.parametrize(
    ("vector", "dimensions", "prefix"), vectors_and_sizes()[1:], ids=lambda value: str(np.size(value))
)
def test_decoded_vectors_have_norm_one_and_their_direction(vector: np.ndarray, dimensions: int, prefix: int) -> None:
    expected = vector[:dimensions].astype(np.float64) / np.linalg.norm(vector[:dimensions].astype(np.float64))
    passage = code_passage(vector, dimensions, prefix)
    scales = np.repeat([passage.prefix_scale, passage.rest_scale], [prefix, dimensions - prefix]).astype(np.float64)
    decoded = passage.codes * scales
    assert np.linalg.norm(decoded) == pytest.approx(1, abs=1e-6)
    assert decoded @ expected > 0.9999
    blocks = code_query(vector, dimensions, prefix)
    fine = np.concatenate([(b.codes * 254.0 + b.residuals) * b.scale for b in blocks])
    assert fine @ expected == pytest.approx(1, abs=1e-7)


def test_a_vector_outside_of_what_is_stored_has_zero_codes() -> None:
    passage = code_passage(*vectors_and_sizes()[0])
    assert not passage.codes.any()
    assert passage.prefix_scale == passage.prefix_inverse_norm == 0


def test_the_shared_vectors_are_what_this_code_gives() -> None:
    assert QUANTIZER_FILE.read_text("utf-8") == as_text(quantizer_vectors())
