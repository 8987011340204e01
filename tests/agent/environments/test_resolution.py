"""What uv says, understood: which requirements cannot be had and why, and how far an install is."""

from __future__ import annotations

import pytest

from nbgpu_agent.environments.estimate import ASSUMED_BYTES_PER_S, estimate
from nbgpu_agent.environments.plan import Action, PlannedDistribution
from nbgpu_agent.environments.progress import DownloadRate, InstallProgress
from nbgpu_agent.environments.resolution import find_culprits, find_remarks, refuse_unreachable
from nbgpu_agent.errors import UnreachableIndexError

REQUIREMENTS = {name: f"{name}==1.0" for name in ("numpy", "my-package", "package", "torch", "debugpy")}
NO_SOLUTION = "error: No solution found when resolving dependencies\n  cause: "
UNSATISFIABLE = ", we can conclude that your requirements are unsatisfiable."

# As uv 0.13.8 says them.
LOGS = [
    (f"Because there is no version of numpy==1.0 and you require numpy==1.0{UNSATISFIABLE}", "numpy", "that version"),
    (
        "Because my-package was not found in the provided package locations and you require"
        f" my-package==1.0{UNSATISFIABLE}",
        "my-package",
        "no index",
    ),
    (
        f"Because debugpy==1.0 needs to be downloaded from a registry and you require debugpy==1.0{UNSATISFIABLE}",
        "debugpy",
        "offline",
    ),
    (
        f"Because torch==1.0 has no wheels with a matching platform tag (e.g., `manylinux_2_36_x86_64`) and you require"
        f" torch==1.0{UNSATISFIABLE}",
        "torch",
        "no wheel",
    ),
    (f"Because numpy==1.0 requires Python >=3.12 and you require numpy==1.0{UNSATISFIABLE}", "numpy", "not made for"),
    (
        "Because the current Python version (3.11.7) does not satisfy Python>=3.12 and numpy==1.0 depends on"
        " Python>=3.12, we can conclude that numpy==1.0 cannot be used. And because you require"
        f" numpy==1.0{UNSATISFIABLE}",
        "numpy",
        "not made for this",
    ),
    (
        f"Because package==1.0 was yanked (reason: broken) and you require package==1.0{UNSATISFIABLE}",
        "package",
        "yanked",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("log", "name", "why"), LOGS)
def test_culprits_are_found(log: str, name: str, why: str) -> None:
    [(found, reason)] = find_culprits(NO_SOLUTION + log, REQUIREMENTS).items()
    assert found == name
    assert why in reason


def test_withdrawn_versions_are_told_with_the_reason() -> None:
    log = (
        'Resolved 3 packages in 5ms\nwarning: `my_package==1.0` is yanked (reason: "it "deletes" files")\n'
        "warning: `numpy==1.0` is yanked\nwarning: The package `torch==1.0` does not have an extra named `x`"
    )
    assert find_remarks(log) == {
        "my-package": 'withdrawn by its authors: it "deletes" files',
        "numpy": "withdrawn by its authors",
    }


def test_what_names_none_of_the_requirements_is_no_culprit() -> None:
    assert find_culprits(f"{NO_SOLUTION}Because there is no version of other==1.0", REQUIREMENTS) == {}
    assert find_culprits("error: something else about numpy", REQUIREMENTS) == {}


def test_an_unreachable_index_is_said_without_its_password() -> None:
    log = (
        "error: Request failed after 3 retries\n  cause: Failed to fetch: `https://me:pa55@pypi.example.org/simple/numpy/`"
        "\n  cause: error sending request for url\n  cause: client error (Connect)"
    )
    assert find_culprits(log, REQUIREMENTS) == {}
    with pytest.raises(UnreachableIndexError, match=r"pypi\.example\.org") as caught:
        refuse_unreachable(log)
    assert "pa55" not in str(caught.value)


def test_progress_follows_what_uv_says() -> None:
    progress = InstallProgress({"torch": "2.13.0", "numpy": "2.3.4", "odd": "1.0"}, cached=1)
    said = [
        "Resolved 3 packages in 5ms",
        "Downloading torch (180.0MiB)",
        "   Building odd @ git+https://x.org/odd@abc",
        " Downloaded torch",
        "      Built odd @ git+https://x.org/odd@abc",
        "Prepared 2 packages in 3s",
        "Installed 3 packages in 1ms",
    ]
    assert [update.in_words() for line in said if (update := progress.take(line))] == [
        "Installing 1 of 3: torch 2.13.0, 180.0 MB",
        "Installing 1 of 3: building odd 1.0",
        "Installing 2 of 3: building odd 1.0",
        "Installing 3 of 3: building odd 1.0",
        "Installing 3 of 3: linking files",
    ]


def test_how_quickly_downloads_came_is_measured_from_the_first_to_the_last() -> None:
    rate = DownloadRate()
    for line, now_s in (
        ("Resolved 3 packages in 5ms", 0.0),
        ("Downloading torch (100.0MiB)", 1.0),
        ("Downloading numpy (20.0MiB)", 2.0),
        (" Downloaded numpy", 3.0),
        ("   Building odd==1.0", 3.5),
        (" Downloaded torch", 5.0),
        ("Prepared 3 packages in 9s", 90.0),
    ):
        rate.take(line, now_s)
    assert rate.bytes_per_s == 120 * (1 << 20) / 4
    small = DownloadRate()
    for line, now_s in (("Downloading six (1.0MiB)", 0.0), (" Downloaded six", 0.1)):
        small.take(line, now_s)
    assert small.bytes_per_s is None  # too little to tell anything


def test_an_estimate_counts_what_travels_and_says_what_it_does_not_know() -> None:
    planned = [
        PlannedDistribution("torch", "2", Action.SWAP, size_bytes=500_000_000),
        PlannedDistribution("numpy", "2", Action.FETCH, size_bytes=None),
        PlannedDistribution("cached", "2", Action.CACHED),
        PlannedDistribution("stack", "2", Action.PROVIDED),
        PlannedDistribution("mac", "2", Action.LEAVE_OUT),
        PlannedDistribution("own", "2", Action.SEND, size_bytes=7),
    ]
    assumed, measured = estimate(planned, None), estimate(planned, 50e6)
    assert (assumed.download_bytes, assumed.unknown_sizes) == (500_000_000, 1)
    assert (assumed.bytes_per_s, assumed.rate_measured) == (ASSUMED_BYTES_PER_S, False)
    assert (measured.bytes_per_s, measured.rate_measured) == (50e6, True)
    assert round(assumed.seconds - measured.seconds, 1) == 15.0
    source = PlannedDistribution("odd", "1", Action.BUILD, size_bytes=1)
    assert estimate([*planned, source], None).seconds > assumed.seconds + 10
