"""The suites that plugins must pass: a plugin can't drop a promise silently, nor pass with a store that breaks one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from opentalking_core.testing.detectors import MouthDetectorContract
from opentalking_core.testing.model_types import ModelTypeContract
from opentalking_core.testing.stores import BundleStoreContract

if TYPE_CHECKING:
    from opentalking_core.testing.contract import Contract

PROMISES = {
    BundleStoreContract: "test_paths_survive",
    MouthDetectorContract: "test_no_face_is_none",
    ModelTypeContract: "test_the_name_is_what_a_manifest_can_say",
}


@pytest.mark.parametrize("contract", PROMISES, ids=lambda contract: contract.__name__)
@pytest.mark.parametrize("override", [None, lambda self: None, pytest.mark.xfail(lambda self: None)])
def test_contract_rejects_dropped_promise(contract: type[Contract], override: object) -> None:
    name = PROMISES[contract]
    with pytest.raises(TypeError, match=rf"TestMine.{name} replaces a promise of {contract.__name__}: mark it"):
        type("TestMine", (contract,), {name: override})


@pytest.mark.parametrize("contract", PROMISES, ids=lambda contract: contract.__name__)
def test_contract_accepts_dropped_promise_with_a_reason(contract: type[Contract]) -> None:
    @pytest.mark.xfail(reason="the backend can't")
    def override(self: object) -> None: ...

    excused = type("TestMine", (contract,), {PROMISES[contract]: override, "test_of_my_own": lambda self: None})
    type("TestMore", (excused,), {})
