"""The rules of test files: pytest_main.py runs each by pytest."""

load("@rules_python//python:defs.bzl", "py_test")

def pytest_tests(deps = [], data = [], small = [], large = [], manual = []):
    """Makes a py_test of each test_*.py of the folder, to be run by pytest.

    Each has all of what is declared here. A plain py_test imports its file and
    passes, whatever is in it.

    Args:
      deps: what the tests import beside the product and //tests.
      data: the files that they read.
      small: those that take less than a minute, without "test_"; what is in
        no list is medium.
      large: those that take more than five minutes.
      manual: those of the checkout, which no target holds: no wildcard runs
        them.
    """
    names = [file[len("test_"):-len(".py")] for file in native.glob(["test_*.py"])]
    for name in small + large + manual:
        if name not in names:
            fail("{} has no test_{}.py".format(native.package_name(), name))
    for name in names:
        file = "test_" + name + ".py"
        py_test(
            name = "test_" + name,
            size = "small" if name in small else "large" if name in large else "medium",
            srcs = [file, "//tests:pytest_main.py"],
            main = "//tests:pytest_main.py",
            args = [native.package_name() + "/" + file],
            data = data,
            # The tests' folders are no packages outside of Bazel either.
            legacy_create_init = 0,
            tags = ["manual"] if name in manual else [],
            deps = deps + ["//moco_tf", "//tests"],
        )
