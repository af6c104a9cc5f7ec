"""What is asked of `measure` in every simulation."""

import io
import json

import numpy as np
import pytest
import xarray as xr


@pytest.fixture
def check_kept():
    """Refuse a dataset that a sweep cannot keep: labelled floats that NetCDF-3 gives back as they are."""

    def check(measured: xr.Dataset) -> None:
        for name, variable in measured.data_vars.items():
            assert variable.dtype == float and variable.attrs["long_name"] and variable.attrs["units"], name
        assert all(index.is_unique for index in measured.indexes.values())
        xr.testing.assert_identical(xr.load_dataset(io.BytesIO(measured.to_netcdf(engine="scipy"))), measured)

    return check


@pytest.fixture
def check_claims():
    """Refuse a dataset whose claims are not those of the folder of a run: names to their ends, numbers, verdicts."""

    def check(measured: xr.Dataset, folder) -> None:
        stored = json.loads((folder / "claims.json").read_text())
        assert measured.sizes["claim"] == len(stored)
        for name, claim in zip(measured["claim"].values, stored, strict=True):
            assert name.endswith(claim["name"].split(": ", 1)[-1])
        for name in ("measured", "predicted", "holds"):
            numbers = [np.nan if isinstance(claim[name], str | None) else float(claim[name]) for claim in stored]
            kept = measured[name].values
            np.testing.assert_array_equal(np.where(np.isfinite(kept), kept, np.nan), numbers, err_msg=name)

    return check
