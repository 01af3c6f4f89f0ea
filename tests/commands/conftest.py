"""A bundle on disk, for all tests of commands."""

from serving.conftest import bundle_folder  # noqa: F401 - a fixture
