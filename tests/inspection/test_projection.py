"""The vocabulary's picture: scikit-learn's PCA, the same every time, with an honest share."""

import numpy as np
from sklearn.decomposition import PCA

from softprompt_core.inspection import vocabulary as vocabulary_module
from softprompt_core.inspection.projection import project, share_in_plane, vocabulary_basis


def test_basis_equals_scikit_learns_up_to_sign(vocabulary):
    rows = vocabulary.table[vocabulary.is_listed].astype(np.float64)
    reference = PCA(5, svd_solver="full").fit(rows)
    basis = vocabulary_basis(vocabulary, components=5)
    signs = np.sign((basis.components * reference.components_).sum(axis=1))[:, None]
    np.testing.assert_allclose(basis.mean, reference.mean_, atol=1e-9)
    np.testing.assert_allclose(basis.components * signs, reference.components_, atol=1e-7)
    np.testing.assert_allclose(basis.explained_variance_ratio, reference.explained_variance_ratio_, atol=1e-9)
    np.testing.assert_allclose(project(rows[:50], basis), reference.transform(rows[:50]) * signs.T, atol=1e-7)


def test_signs_are_fixed_and_chunks_change_nothing(make_vocabulary, monkeypatch):
    table = np.random.default_rng(0).standard_normal((900, 12)) * np.arange(1, 13)
    whole = vocabulary_basis(make_vocabulary(table))
    monkeypatch.setattr(vocabulary_module, "CHUNK_ROWS", 101)
    parts = vocabulary_basis(make_vocabulary(table))
    np.testing.assert_allclose(parts.components, whole.components, atol=1e-9)
    largest = np.abs(whole.components).argmax(axis=1)
    assert (whole.components[np.arange(3), largest] > 0).all()
    np.testing.assert_allclose(project(table, parts), project(table, whole), atol=1e-6)


def test_basis_is_computed_once_and_orthonormal(vocabulary):
    basis = vocabulary_basis(vocabulary)
    assert vocabulary_basis(vocabulary) is basis
    np.testing.assert_allclose(basis.components @ basis.components.T, np.eye(3), atol=1e-12)


def test_narrow_models_have_fewer_axes(make_vocabulary):
    basis = vocabulary_basis(make_vocabulary(np.random.default_rng(0).standard_normal((50, 2))))
    assert basis.components.shape == (2, 2)
    assert abs(basis.explained_variance_ratio.sum() - 1) < 1e-12


def test_share_in_plane_is_one_inside_and_zero_across(vocabulary):
    basis = vocabulary_basis(vocabulary)
    inside = basis.mean + 2 * basis.components[0] - 3 * basis.components[1]
    across = basis.mean + basis.components[2]
    half = basis.mean + basis.components[1] + basis.components[2]
    shares = share_in_plane(np.stack([inside, across, half, basis.mean]), basis)
    np.testing.assert_allclose(shares, [1, 0, 0.5, 1], atol=1e-9)
    np.testing.assert_allclose(share_in_plane(across[None], basis, dims=3), 1, atol=1e-9)


def test_share_is_never_more_in_the_plane_than_in_the_space(vocabulary):
    basis = vocabulary_basis(vocabulary)
    prompt = np.random.default_rng(0).standard_normal((20, vocabulary.table.shape[1]))
    plane, space = (share_in_plane(prompt, basis, dims=dims) for dims in (2, 3))
    assert (plane <= space).all()
    assert (plane >= 0).all()
    assert (space <= 1).all()
