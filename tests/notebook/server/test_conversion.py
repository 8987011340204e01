"""What a page receives: plain JSON in which unknown is null."""

import json

from fakes import pool as fake
from nbgpu.server.conversion import pool_view
from nbgpu_protocol.v1 import pool_pb2


def test_a_whole_state_is_plain_json():
    state = pool_pb2.PoolState(
        offers=[
            fake.offer("H100", 8, 6, memory_bytes=80 * fake.GB, queued=3, simulated=True),
            fake.offer("CPU", 1, 1, shared=True),
        ],
        accelerators=fake.accelerators("H100", 1),
        sessions=[
            fake.session(
                "s1",
                "kernel-1",
                "digits.ipynb",
                kernel_state=pool_pb2.KERNEL_EXECUTING,
                executing=pool_pb2.Execution(request_id="r", execution_count=7, started_unix_s=100.5),
                created_unix_s=50.0,
                last_active_unix_s=60.0,
            )
        ],
        node=pool_pb2.Node(id="n", hostname="lab-1", platform="linux", cpu_count=4, memory_bytes=fake.GB),
    )

    view = json.loads(json.dumps(pool_view(state)))

    h100, cpu = view["offers"]
    assert (h100["type"], h100["free"], h100["total"], h100["queued"]) == ("H100", 6, 8, 3)
    assert h100["memory_bytes"] == 80 * fake.GB
    assert h100["simulated"] is True
    assert (cpu["shared"], cpu["memory_bytes"]) == (True, None)
    assert view["node"]["hostname"] == "lab-1"
    assert view["node"]["driver_version"] is None
    [session] = view["sessions"]
    assert (session["phase"], session["kernel_state"]) == ("ready", "executing")
    assert session["executing"] == {"execution_count": 7, "started_unix_s": 100.5}
    assert [accelerator["type"] for accelerator in session["accelerators"]] == ["H100", "H100"]
    assert session["kernel_exit"] is None


def test_empty_fields_are_unknown_and_not_empty():
    view = pool_view(pool_pb2.PoolState(sessions=[pool_pb2.SessionInfo(id="s1")]))

    assert view["node"] is None
    [session] = view["sessions"]
    for field in ("notebook_id", "notebook_name", "phase", "kernel_state", "node_hostname", "executing"):
        assert session[field] is None, field  # type: ignore[literal-required]


def test_exit_code_zero_is_not_unknown():
    state = pool_pb2.PoolState(
        sessions=[
            pool_pb2.SessionInfo(id="exited", kernel_exit=pool_pb2.KernelExit(exit_code=0)),
            pool_pb2.SessionInfo(id="killed", kernel_exit=pool_pb2.KernelExit(signal=9, asked_for=True)),
        ]
    )

    exited, killed = (session["kernel_exit"] for session in pool_view(state)["sessions"])

    assert exited == {"exit_code": 0, "signal": None, "asked_for": False}
    assert killed == {"exit_code": None, "signal": 9, "asked_for": True}


def test_a_phase_of_a_newer_protocol_is_unknown():
    session = pool_pb2.SessionInfo.FromString(pool_pb2.SessionInfo(id="s1").SerializeToString() + b"\x28\x63")

    assert session.phase == 99
    assert pool_view(pool_pb2.PoolState(sessions=[session]))["sessions"][0]["phase"] is None
