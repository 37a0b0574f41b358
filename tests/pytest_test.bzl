"""The rule of a test file: pytest_main.py runs it by pytest."""

load("@rules_python//python:defs.bzl", "py_test")


def pytest_test(srcs, deps=[], **kwargs):
    """A py_test of the one file in srcs, which fails as pytest does.

    Args:
      srcs: the test file.
      deps: what it imports.
      **kwargs: as of py_test.
    """
    py_test(
        srcs=srcs + ["//tests:pytest_main.py"],
        main="//tests:pytest_main.py",
        args=[native.package_name() + "/" + srcs[0]],
        # The tests' folders are no packages outside of Bazel either.
        legacy_create_init=0,
        deps=deps + ["//tests:pytest_main"],
        **kwargs,
    )
