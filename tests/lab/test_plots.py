"""What pictures show must be true: places, lengths, and names that can be read."""
import numpy as np

from tinygen.lab import plots

WINDOW = ((-1.0, 1.0), (0.0, 4.0))


def test_pixels_have_the_grid_at_their_centers():
    n = 5
    left, right, bottom, top = plots.pixels(WINDOW, n)
    centers = plots.grid(WINDOW, n).reshape(n, n, 2)
    middle = (np.arange(n) + 0.5) / n
    np.testing.assert_allclose(left + middle * (right - left), centers[0, :, 0])
    np.testing.assert_allclose(bottom + middle * (top - bottom), centers[:, 0, 1])


def test_arrows_next_to_exact_ones_have_their_scale():
    """Else a field of half the length would look perfect."""
    points = plots.grid(WINDOW, 4)
    _, (ax,) = plots.figure(1, 1)
    plots.arrows(ax, points, 0.5 * points, exact=points)
    below, above = ax.collections
    assert above.scale is not None
    assert below.scale == above.scale
    assert np.hypot(below.U, below.V).max() == 2 * np.hypot(above.U, above.V).max()


def test_arrows_of_nothing_and_along_a_line():
    _, (ax,) = plots.figure(1, 1)
    plots.arrows(ax, plots.grid(WINDOW, 3), np.zeros((9, 2)))
    plots.arrows(ax, np.array([[0.0, 0.0], [1.0, 0.0]]), np.ones((2, 2)))
    assert all(np.isfinite(arrows.scale) and arrows.scale > 0 for arrows in ax.collections)


def test_names_of_classes_do_not_hide_each_other():
    rng = np.random.default_rng(0)
    places = plots._apart(rng.standard_normal((10, 2)) * 0.01, 0.5)
    distance = np.linalg.norm(places[:, None] - places, axis=2)
    assert distance[~np.eye(10, dtype=bool)].min() > 0.4
    from_one_place = plots._apart(np.zeros((3, 2)), 0.5)
    assert len(np.unique(from_one_place.round(2), axis=0)) == 3
    far = np.array([[0.0, 0.0], [3.0, 0.0]])
    np.testing.assert_allclose(plots._apart(far, 0.5), far, atol=1e-6)


def test_a_running_mean_lies_on_its_curve():
    _, (ax,) = plots.figure(1, 1)
    plots.curve(ax, np.arange(500.0), "a line", "black")
    steps, values = ax.lines[1].get_data()
    np.testing.assert_allclose(steps, values)
