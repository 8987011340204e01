"""The plan: what becomes of a snapshot's distributions on a node, from recorded values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from nbgpu_agent.environments.plan import Action, NodeFacts, Pins, Plan, Python, Resolution
from nbgpu_agent.environments.planning import choose_python, make_pins, make_plan, split_known
from nbgpu_agent.environments.platforms import Target, cuda_of_driver, only_elsewhere
from nbgpu_protocol.snapshot import Distribution, Origin, Snapshot

PYTHON = Python("3.12.7", Path("/usr/bin/python3.12"))
LINUX_CUDA = NodeFacts("linux", "x86_64", (PYTHON,), driver_version="580.65.06", cached=frozenset({("numpy", "2.3.4")}))
DARWIN = ("darwin",)


def pyobjc(name: str, *requires: str) -> Distribution:
    return Distribution(name, "11.1", requires=requires, operating_systems=DARWIN, pure=False)


NATIVE = 'pyobjc-framework-Cocoa; sys_platform == "darwin" and extra == "nativelib"'
TRITON = 'triton; platform_system == "Linux"'
MACOS = Snapshot(
    python_version="3.12.4",
    implementation="cpython",
    platform="darwin",
    machine="arm64",
    distributions=(
        Distribution("appnope", "0.1.4", operating_systems=DARWIN),
        Distribution("cloudpickle", "3.1.1"),
        Distribution("ipykernel", "7.4.0", requires=("appnope>=0.1.2; sys_platform == 'darwin'", "ipython>=8")),
        Distribution("ipython", "9.1.0", requires=('pexpect>4.3; sys_platform != "win32"',)),
        Distribution("my-tool", "0.1", Origin.EDITABLE),
        Distribution("native", "1.0", Origin.WHEEL, "sha256:" + "0" * 64, pure=False, wheel_name="native.whl"),
        Distribution("numpy", "2.3.4", pure=False),
        Distribution("pexpect", "4.9.0", operating_systems=("darwin", "linux")),
        Distribution("pip", "25.0", requested=True),
        pyobjc("pyobjc-core"),
        pyobjc("pyobjc-framework-cocoa", "pyobjc-core>=11.1"),
        Distribution("send2trash", "1.8.3", requires=(NATIVE,)),
        Distribution("torch", "2.13.0", requires=("numpy; extra == 'opt'", TRITON), pure=False),
        Distribution("torchvision", "0.28.0", requires=("torch==2.13.0",), pure=False),
    ),
)  # fmt: skip


def plan_of(snapshot: Snapshot, facts: NodeFacts = LINUX_CUDA, **added: str) -> tuple[Pins, Plan]:
    pins = make_pins(snapshot, facts, PYTHON, {})
    resolution = Resolution({**pins.requirements, **added})
    return pins, make_plan(snapshot, facts, pins, resolution)


def test_macos_with_cpu_torch_against_linux_with_cuda() -> None:
    pins, plan = plan_of(MACOS, triton="triton==3.5.0", torch="torch==2.13.0+cu130")
    actions = {each.name: (each.action, each.version, each.why) for each in plan.distributions}
    elsewhere = "for macOS only"
    assert actions == {
        "appnope": (Action.LEAVE_OUT, "0.1.4", f"{elsewhere}, needed by ipykernel there"),
        "cloudpickle": (Action.FETCH, "3.1.1", ""),
        "ipykernel": (Action.FETCH, "7.4.0", ""),
        "ipython": (Action.FETCH, "9.1.0", ""),
        "my-tool": (Action.SEND, "0.1", "editable: its files are sent"),
        "native": (
            Action.IMPOSSIBLE,
            "1.0",
            "built on macOS arm64 from local files; install it from an index or a repository",
        ),
        "numpy": (Action.CACHED, "2.3.4", ""),
        "pexpect": (Action.FETCH, "4.9.0", ""),
        "pip": (Action.LEAVE_OUT, "25.0", "install in the notebook instead"),
        "pyobjc-core": (Action.LEAVE_OUT, "11.1", f"{elsewhere}, needed by pyobjc-framework-cocoa there"),
        "pyobjc-framework-cocoa": (Action.LEAVE_OUT, "11.1", f"{elsewhere}, needed by send2trash there"),
        "send2trash": (Action.FETCH, "1.8.3", ""),
        "torch": (Action.SWAP, "2.13.0+cu130", "the CUDA 13 build, for driver 580.65.06"),
        "torchvision": (Action.SWAP, "0.28.0", "the CUDA 13 build, for driver 580.65.06"),
        "triton": (Action.FETCH, "3.5.0", "needed on this platform"),
    }
    assert pins.torch
    assert "triton==3.5.0" in plan.requirements
    assert not any(line.startswith(("appnope", "pip", "my-tool", "native")) for line in plan.requirements)


def test_the_same_snapshot_gives_the_same_environment_and_another_gives_another() -> None:
    ids = {plan_of(MACOS)[1].environment_id for _ in range(2)}
    files = replace(MACOS, variables=("HF_HOME",))
    assert ids == {plan_of(files)[1].environment_id}
    numpy = Distribution("numpy", "2.3.5", pure=False)
    changed = tuple(numpy if each.name == "numpy" else each for each in MACOS.distributions)
    assert plan_of(replace(MACOS, distributions=changed))[1].environment_id not in ids


@pytest.mark.parametrize(
    ("version", "driver", "why"),
    [
        ("2.13.0+cpu", None, ""),
        ("2.13.0+cu128", None, "no NVIDIA driver here: the CPU build"),
        ("2.13.0+cpu", "550.54.15", "the CUDA 12 build, for driver 550.54.15"),
        ("2.13.0+cu128", "550.54.15", ""),
        ("2.13.0+cu130", "550.54.15", "the CUDA 12 build, for driver 550.54.15"),
        ("2.13.0+cpu", "390.12", ""),
    ],
)
def test_torch_is_swapped_for_what_the_driver_runs(version: str, driver: str | None, why: str) -> None:
    snapshot = replace(MACOS, platform="linux", distributions=(Distribution("torch", version, pure=False),))
    pins = make_pins(snapshot, replace(LINUX_CUDA, driver_version=driver), PYTHON, {})
    assert pins.requirements["torch"] == "torch==2.13.0"
    assert pins.swapped.get("torch", "") == why


def test_a_local_version_of_something_else_is_the_indexs() -> None:
    snapshot = replace(MACOS, distributions=(Distribution("thing", "1.0+mine"),))
    pins = make_pins(snapshot, LINUX_CUDA, PYTHON, {})
    assert pins.requirements["thing"] == "thing==1.0"
    assert "+mine" in pins.swapped["thing"]


def test_urls_and_commits_are_kept_where_they_fit() -> None:
    wheel = "https://x.org/thing-1.0-cp312-cp312-macosx_11_0_arm64.whl"
    distributions = (
        Distribution("commit", "1.0", Origin.VCS, "git+https://x.org/a.git@abc"),
        Distribution("mac", "1.0", Origin.URL, wheel),
        Distribution("pure", "1.0", Origin.URL, "https://x.org/pure-1.0-py3-none-any.whl"),
    )
    pins = make_pins(replace(MACOS, distributions=distributions), LINUX_CUDA, PYTHON, {})
    assert pins.requirements["commit"] == "commit @ git+https://x.org/a.git@abc"
    assert pins.requirements["mac"] == "mac==1.0"
    assert "another platform" in pins.swapped["mac"]
    assert pins.requirements["pure"].endswith("py3-none-any.whl")


def test_nothing_is_asked_where_all_is_known() -> None:
    distributions = (
        Distribution("cloudpickle", "3.1"),
        Distribution("ipykernel", "7.4"),
        Distribution("numpy", "2.3.4"),
    )
    snapshot = replace(MACOS, platform="linux", machine="x86_64", distributions=distributions)
    facts = replace(LINUX_CUDA, cached=frozenset((each.name, each.version) for each in distributions))

    def known(snapshot: Snapshot, facts: NodeFacts) -> tuple[Mapping[str, str], Mapping[str, str]] | None:
        return split_known(snapshot, facts, make_pins(snapshot, facts, PYTHON, {}))

    pins = {each.name: f"{each.name}=={each.version}" for each in distributions}
    assert known(snapshot, facts) == (pins, {})
    assert known(replace(snapshot, platform="darwin"), facts) is None
    assert known(replace(snapshot, machine="arm64"), facts) is None
    assert known(snapshot, replace(facts, cached=LINUX_CUDA.cached)) is None

    def with_added(*added: Distribution) -> Snapshot:
        return replace(snapshot, distributions=(*distributions, *added))

    assert known(with_added(Distribution("new", "1.0")), facts) == (pins, {"new": "new==1.0"})
    assert known(with_added(Distribution("new", "1.0"), Distribution("torch", "2.9")), facts) is None
    assert known(with_added(Distribution("new", "1.0+local")), facts) is None
    assert known(with_added(Distribution("new", "1.0", Origin.VCS, "git+https://x.org/a.git@abc")), facts) is None
    assert known(with_added(*(Distribution(f"new-{number}", "1.0") for number in range(4))), facts) is None
    assert (
        known(replace(snapshot, distributions=distributions[1:]), facts) is None
    )  # which cloudpickle is for uv to say
    torch = Distribution("torch", "2.13.0+cpu", pure=False)
    with_torch = replace(snapshot, distributions=(*distributions, torch))
    all_cached = replace(facts, cached=facts.cached | {("torch", "2.13.0+cpu")})
    assert known(with_torch, all_cached) is None  # swapped for the CUDA build
    found = known(with_torch, replace(all_cached, driver_version=None))
    assert found is not None
    assert found[0]["torch"] == "torch==2.13.0+cpu"


def test_what_the_kernel_needs_is_added() -> None:
    _, plan = plan_of(replace(MACOS, distributions=()), ipykernel="ipykernel==7.4.0", cloudpickle="cloudpickle==3.1.1")
    assert {each.name: each.why for each in plan.distributions} == dict.fromkeys(
        ("cloudpickle", "ipykernel"), "needed by the kernel"
    )


def test_what_a_person_asked_for_stays_though_nothing_needs_it_here() -> None:
    needing = Distribution("needing", "1.0", requires=('thing; sys_platform == "darwin"',))
    client, node = Target("darwin", "arm64", "3.12.4"), Target("linux", "x86_64", "3.12.7")
    for requested, left_out in ((True, set()), (False, {"thing"})):
        thing = Distribution("thing", "1.0", requested=requested)
        assert only_elsewhere((needing, thing), client, node).keys() == left_out


def test_nothing_is_left_out_on_the_same_platform() -> None:
    linux = Target("linux", "x86_64", "3.12.4")
    assert only_elsewhere(MACOS.distributions, linux, linux) == {}


@pytest.mark.parametrize(
    ("wanted", "versions", "chosen"),
    [
        ("3.12.4", ["3.11.9", "3.12.2", "3.12.10"], "3.12.10"),
        ("3.12.4", ["3.12.10", "3.12.4"], "3.12.4"),
        ("3.12.4", ["3.11.9", "3.13.0"], None),
        ("3.1.0", ["3.12.10"], None),
    ],
)
def test_the_interpreter_is_of_the_same_minor_version(wanted: str, versions: list[str], chosen: str | None) -> None:
    pythons = tuple(Python(version, Path(f"/py/{version}")) for version in versions)
    found = choose_python(replace(MACOS, python_version=wanted), pythons)
    assert (found.version if found else None) == chosen


@pytest.mark.parametrize(
    ("versions", "running", "chosen"),
    [
        (["3.11.9", "3.12.2"], "", "3.12.2"),
        (["3.9.9", "3.11.9", "3.10.3"], "", "3.11.9"),
        (["3.14.0", "3.10.3"], "", "3.14.0"),
        (["2.7.18"], "", None),
        (["3.12.2", "3.14.0"], "3.14.0", "3.14.0"),  # the kernel of a session stays what it is
        (["3.12.2"], "3.14.0", None),
    ],
)
def test_any_python_is_the_nearest(versions: list[str], running: str, chosen: str | None) -> None:
    pythons = tuple(Python(version, Path(f"/py/{version}")) for version in versions)
    found = choose_python(replace(MACOS, any_python=True), pythons, running)
    assert (found.version if found else None) == chosen


def test_another_python_has_other_needs() -> None:
    distributions = (Distribution("cloudpickle", "3.1"), Distribution("ipykernel", "7.4"))
    snapshot = replace(MACOS, platform="linux", machine="x86_64", distributions=distributions, any_python=True)
    facts = replace(LINUX_CUDA, cached=frozenset((each.name, each.version) for each in distributions))
    other = Python("3.13.1", Path("/usr/bin/python3.13"))
    assert split_known(snapshot, facts, make_pins(snapshot, facts, PYTHON, {})) is not None
    assert split_known(snapshot, facts, make_pins(snapshot, facts, other, {})) is None


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("580.65.06", "CUDA 13"),
        ("525.60.13", "CUDA 12"),
        ("470.1", "CUDA 11.8"),
        ("390.1", None),
        (None, None),
        ("?", None),
    ],
)
def test_cuda_of_driver(driver: str | None, cuda: str | None) -> None:
    assert cuda_of_driver(driver) == cuda
