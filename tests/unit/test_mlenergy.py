"""Step models against measurements that they have not seen; skipped where the table is absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scripts import fit_mlenergy as study

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = study.data_folder()
pytestmark = pytest.mark.skipif(
    not (FOLDER / study.TABLE).is_file(),
    reason=f"no {study.TABLE}; set JOULESERVE_DATA to the folder of measured tables",
)


@pytest.fixture(scope="module")
def rows() -> Sequence[study.Row]:
    return study.dense_rows("H100", FOLDER)


def test_first_principles_hold_for_models_left_out_of_the_fit(rows: Sequence[study.Row]) -> None:
    mean = study.over_rows(study.leave_one_model_out("H100", rows).values())
    assert mean.rows == len(rows) == 67
    assert mean.token_j < 0.12
    assert mean.step_s < 0.12


def test_the_catalogue_holds_those_constants(rows: Sequence[study.Row]) -> None:
    found = study.with_catalogue("H100", rows)
    assert found.token_j < 0.12
    assert found.step_s < 0.12


def test_a_fitted_profile_holds_at_batches_left_out_of_the_fit(rows: Sequence[study.Row]) -> None:
    mean = study.over_rows(study.fitted_halves(rows).values())
    assert mean.token_j < 0.03
    assert mean.step_s < 0.03


def test_a_table_serves_where_no_line_holds() -> None:
    mean = study.over_rows(study.fitted_halves(study.dense_rows("B200", FOLDER)).values())
    assert mean.token_j < 0.06
    assert mean.step_s < 0.08
