"""What a GPU's kernels are compiled for, from its compute capability and what NVRTC knows."""

import pytest

from bindings.architecture import target
from bindings.errors import DeviceError

# nvrtcGetSupportedArchs of NVRTC 12.9 and 13.5.
NVRTC_12_9 = [50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 101, 103, 120, 121]
NVRTC_13_5 = [75, 80, 86, 87, 88, 89, 90, 100, 103, 107, 110, 120, 121]


@pytest.mark.parametrize("known", [NVRTC_12_9, NVRTC_13_5], ids=["12.9", "13.5"])
@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        *((75, "sm_75"), (80, "sm_80"), (86, "sm_86"), (87, "sm_87"), (89, "sm_89")),
        *((90, "sm_90a"), (100, "sm_100a"), (103, "sm_103a"), (120, "sm_120a"), (121, "sm_121a")),
        # Newer than the compiler: the newest of the same major version, without what only that one has.
        *((125, "sm_121"), (95, "sm_90")),
    ],
)
def test_the_target_of_each_compute_capability(capability: int, expected: str, known: list[int]) -> None:
    assert target("a GPU", capability, known, "NVRTC") == expected


def test_a_gpu_is_never_given_code_for_a_newer_one() -> None:
    assert target("a GPU", 87, [75, 80, 86, 89], "NVRTC") == "sm_86"


@pytest.mark.parametrize("capability", [35, 61, 70, 72])
def test_a_gpu_before_turing_is_named_and_refused(capability: int) -> None:
    expected = (
        f"Tesla P4 has compute capability {capability // 10}.{capability % 10}, and the kernels need 7.5 or newer"
    )
    with pytest.raises(DeviceError, match=expected):
        target("Tesla P4", capability, NVRTC_12_9, "NVRTC 12.9")


def test_a_gpu_of_a_later_major_version_needs_a_newer_compiler() -> None:
    expected = r"X100 has compute capability 14\.0, which NVRTC 13\.5 does not know: install a newer one"
    with pytest.raises(DeviceError, match=expected):
        target("X100", 140, NVRTC_13_5, "NVRTC 13.5")
