"""Builds the native module with CMake and maps the role folders into the `embery` package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
ROLES = ("ps", "worker", "coordinator", "serving")


class CMakeBuild(build_ext):
    """Configures and builds `embery._native`; everything it needs comes from PyPI."""

    def build_extension(self, ext: Extension) -> None:
        """Run CMake in `$EMBERY_BUILD_DIR`, else in setuptools' own build folder."""
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(os.environ.get("EMBERY_BUILD_DIR", Path(self.build_temp).resolve()))
        subprocess.run(
            [
                "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
                "-DCMAKE_BUILD_TYPE=Release",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DEMBERY_MODULE_DIR={target.parent}",
            ],
            check=True,
        )  # fmt: skip
        subprocess.run(["cmake", "--build", str(build), "--target", "_native"], check=True)


packages = find_packages(include=["embery", "embery.*"], exclude=[f"embery.{r}*" for r in ROLES])
package_dir = {}
for role in ROLES:
    package_dir[f"embery.{role}"] = role
    packages += [f"embery.{role}", *(f"embery.{role}.{p}" for p in find_packages(role))]

setup(
    packages=packages,
    package_dir=package_dir,
    package_data={"embery": ["py.typed", "*.pyi"], "embery.rpc.v1": ["*.pyi"]},
    ext_modules=[Extension("embery._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
