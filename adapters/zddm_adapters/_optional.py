"""What the wrapping adapters share: which methods are optional."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["attach_optional_methods"]

OPTIONAL_METHODS = ("delete", "read_many", "write_many", "delete_many", "scan", "partitions", "count")


def attach_optional_methods(wrapper: object, adapter: object, named: Callable[[str], object]) -> None:
    """Give `wrapper` those optional methods that `adapter` has, each as `named(name)`.

    They go on the instance, for a method of the class would be there for adapters that lack it. `describe`
    does no I/O and needs no wrapping, so it is `adapter`'s own.
    """
    for name in OPTIONAL_METHODS:
        if hasattr(adapter, name):
            setattr(wrapper, name, named(name))
    describe = getattr(adapter, "describe", None)
    if describe is not None:
        vars(wrapper)["describe"] = describe
