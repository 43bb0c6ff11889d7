"""Contract: the base of the suites that plugins must pass. It refuses promises that are dropped silently."""

from __future__ import annotations


class Contract:
    """A suite of tests, one for each promise; a direct subclass is a contract, its subclasses are plugins' tests."""

    def __init_subclass__(cls) -> None:
        """Raise TypeError if a test is overridden without `@pytest.mark.xfail(reason=...)`."""
        super().__init_subclass__()
        contract = next(ancestor for ancestor in cls.__mro__ if Contract in ancestor.__bases__)
        for name, promised in vars(contract).items():
            kept = getattr(cls, name)
            if name.startswith("test_") and kept is not promised:
                marks = getattr(kept, "pytestmark", [])
                if not any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks):
                    raise TypeError(
                        f"{cls.__name__}.{name} replaces a promise of {contract.__name__}:"
                        " mark it with @pytest.mark.xfail(reason=...)"
                    )
