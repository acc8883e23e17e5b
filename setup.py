"""Packages alone: `services/` is installed under another name, which pyproject.toml cannot say of a found package."""

from setuptools import find_packages, setup

SERVICES = "streamscalar_services"

setup(
    packages=[
        *find_packages(include=["streamscalar", "streamscalar.*"]),
        SERVICES,
        *(f"{SERVICES}.{name}" for name in find_packages("services")),
    ],
    package_dir={SERVICES: "services"},
)
