"""Builds for CUDA are checked against the device of the machine."""

from __future__ import annotations

import pytest

from precast.artifacts import host
from precast.artifacts.build_info import BuildInfo, CudaInfo
from precast.artifacts.errors import ArtifactError, DeviceError, TorchVersionError
from precast.artifacts.reader import check_build

DEVICES = {0: (9, 0), 1: (8, 6)}


@pytest.fixture(autouse=True)
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "compute_capability", DEVICES.get)
    monkeypatch.setattr(host, "cuda_release", lambda: "13.0")


def build(capability: tuple[int, int], release: str = "13.0") -> BuildInfo:
    return BuildInfo(
        precast="0.1.0",
        torch=host.torch_release(),
        target="cuda",
        backend="inductor",
        device="cuda",
        dtype="fp16",
        quantization=None,
        architecture=host.architecture(),
        instruction_sets=(),
        cuda=CudaInfo(release=release, compute_capability=capability),
        options={},
    )


def test_same_architecture_is_accepted() -> None:
    check_build(build((9, 0)), 0)
    check_build(build((8, 6)), 1)


@pytest.mark.parametrize(
    ("info", "index", "error", "message"),
    [
        (build((9, 0)), 1, DeviceError, "sm_90, device 1 is sm_86.*--device cuda"),
        (build((8, 0)), 1, DeviceError, "sm_80, device 1 is sm_86"),
        (build((9, 0)), 2, DeviceError, "no CUDA device 2.*--device cpu"),
        (build((9, 0), "12.6"), 0, TorchVersionError, "CUDA 12.6, torch has 13.0"),
    ],
)
def test_other_builds_are_refused(
    info: BuildInfo, index: int, error: type[ArtifactError], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_build(info, index)
