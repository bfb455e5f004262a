"""Figures of the galaxy: every cloud, fit and published value is drawn; the survey behind them holds what the functions return."""

import numpy as np
import pytest

from workbench.errors import InputError
from workbench.figures import galaxy as figures
from workbench.geometry.galaxy import clustering_entropy, eigenvalue_slope, principal_components
from workbench.geometry.galaxy_survey import GalaxySurvey, galaxy_survey
from workbench.published import published_numbers

RNG = np.random.default_rng(0)
CLOUDS = {f"layer {index}": RNG.standard_normal((90, 40)) * np.arange(1, 41) ** -(0.2 * index) for index in range(2)}


@pytest.fixture(scope="module")
def survey():
    return galaxy_survey(CLOUDS, ranks=(3, 30), n_components=8, n_null=3)


def test_the_survey_holds_what_the_functions_return(survey, tmp_path):
    row = survey.table.set_index("cloud").loc["layer 1"]
    slope = eigenvalue_slope(CLOUDS["layer 1"], ranks=(3, 30), n_null=3)
    entropy = clustering_entropy(CLOUDS["layer 1"], n_components=8, n_null=3)
    authors = clustering_entropy(CLOUDS["layer 1"], n_components=8, n_null=3, convention="authors")
    assert (row["alpha"], row["log_volume"]) == (slope.alpha, slope.log_volume)
    assert (row["negentropy"], row["negentropy_authors"]) == (entropy.negentropy, authors.negentropy)
    assert row["negentropy_gaussian_authors"] == pytest.approx(authors.gaussian_null.mean())
    survey.save(tmp_path / "survey")
    again = GalaxySurvey.load(tmp_path / "survey")
    np.testing.assert_array_equal(again.slopes["layer 1"].eigenvalues, slope.eigenvalues)
    with pytest.raises(InputError, match="no cloud"):
        galaxy_survey({})


def test_spectra_draw_points_and_fit_of_every_cloud(survey):
    figure = figures.spectra(survey.slopes)
    assert len(figure.data) == 5
    np.testing.assert_allclose(figure.data[0].y, survey.slopes["layer 0"].eigenvalues)
    assert f"{survey.slopes['layer 1'].alpha:.3f}" in figure.data[2].name


def test_clouds_draw_every_point():
    figure = figures.clouds({name: principal_components(points, 3) for name, points in CLOUDS.items()})
    assert [len(trace.x) for trace in figure.data] == [90, 90]
    assert {trace.type for trace in figure.data} == {"scatter"}


def test_ours_stand_beside_the_published(survey):
    table = survey.table.assign(layer=[0, 1], l0=[16, 32])
    figure = figures.confound(table, table, published_numbers("geometry"))
    published = [trace for trace in figure.data if len(trace.x) == 26]
    assert len(published) == 3
    assert published[0].y[13] == pytest.approx(0.48581)
    assert published[0].marker.color[11] == 70
    (note,) = (note for note in figure.layout.annotations if note.text == "not published")
    assert note.x > 0.7  # in the last panel of the last row
    assert note.y < 0.25
    assert not figure.layout.shapes
    seeded = figures.confound(table, table, published_numbers("geometry"), seeds=survey.table)
    bands = [shape for shape in seeded.layout.shapes if shape.y0 == pytest.approx(survey.table["alpha"].min())]
    assert [shape.y1 for shape in bands] == pytest.approx([survey.table["alpha"].max()] * 2)  # in both of our columns
    assert "range of 2 training seeds" in {trace.name for trace in seeded.data}
