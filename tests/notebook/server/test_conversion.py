"""What a page receives: plain JSON in which unknown is null."""

import json

from fakes import pool as fake
from nbgpu.server.conversion import samples_text, state_view
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
                executing=pool_pb2.Execution(
                    request_id="r",
                    message_id="m",
                    execution_count=7,
                    started_unix_s=100.5,
                    accelerator_types=["H100", "H100", "A10"],
                    simulated=True,
                ),
                last_executions=[
                    pool_pb2.Execution(
                        message_id="before",
                        started_unix_s=1.5,
                        ended_unix_s=2.5,
                        succeeded=False,
                        mean_utilisation_percent=0.0,
                        peak_memory_bytes=0,
                        cost=0.25,
                        currency="EUR",
                    )
                ],
                environment=pool_pb2.EnvironmentFacts(own=True, done=0, total=80, current="torch"),
                queue_position=2,
                queue_length=5,
                lease=pool_pb2.Lease(expires_unix_s=99.0),
                accelerator_seconds=12.5,
                attached_unix_s=51.0,
                created_unix_s=50.0,
                last_active_unix_s=60.0,
            )
        ],
        node=pool_pb2.Node(id="n", hostname="lab-1", platform="linux", cpu_count=4, memory_bytes=fake.GB),
    )

    view = json.loads(json.dumps(state_view(state)))

    h100, cpu = view["offers"]
    assert (h100["type"], h100["free"], h100["total"], h100["queued"]) == ("H100", 6, 8, 3)
    assert h100["memory_bytes"] == 80 * fake.GB
    assert h100["simulated"] is True
    assert (cpu["shared"], cpu["memory_bytes"]) == (True, None)
    assert view["node"]["hostname"] == "lab-1"
    assert view["node"]["driver_version"] is None
    [session] = view["sessions"]
    assert (session["phase"], session["kernel_state"]) == ("ready", "executing")
    assert session["executing"] == {
        "execution_count": 7,
        "request_id": "m",
        "started_unix_s": 100.5,
        "ended_unix_s": None,
        "succeeded": None,
        "accelerators": "H100 ×2, A10",
        "simulated": True,
        "mean_utilisation_percent": None,
        "peak_memory_bytes": None,
        "cost": None,
        "currency": None,
    }
    [before] = session["last_executions"]
    assert (before["succeeded"], before["mean_utilisation_percent"], before["peak_memory_bytes"]) == (False, 0.0, 0)
    assert (before["cost"], before["currency"]) == (0.25, "EUR")
    assert session["environment"] == {"own": True, "package_count": None, "done": 0, "total": 80, "current": "torch"}
    assert (session["queue_position"], session["queue_length"]) == (2, 5)
    assert (session["expires_unix_s"], session["attached_unix_s"]) == (99.0, 51.0)
    assert (session["accelerator_seconds"], session["cost"]) == (12.5, None)
    assert [accelerator["type"] for accelerator in session["accelerators"]] == ["H100", "H100"]
    assert session["kernel_exit"] is None


def test_empty_fields_are_unknown_and_not_empty():
    view = state_view(pool_pb2.PoolState(sessions=[pool_pb2.SessionInfo(id="s1")]))

    assert view["node"] is None
    [session] = view["sessions"]
    for field in ("notebook_id", "notebook_name", "phase", "kernel_state", "node_hostname", "executing", "environment"):
        assert session[field] is None, field  # type: ignore[literal-required]


def test_exit_code_zero_is_not_unknown():
    state = pool_pb2.PoolState(
        sessions=[
            pool_pb2.SessionInfo(id="exited", kernel_exit=pool_pb2.KernelExit(exit_code=0)),
            pool_pb2.SessionInfo(id="killed", kernel_exit=pool_pb2.KernelExit(signal=9, asked_for=True)),
        ]
    )

    exited, killed = (session["kernel_exit"] for session in state_view(state)["sessions"])

    assert exited == {"exit_code": 0, "signal": None, "asked_for": False, "ended_because": None}
    assert killed == {"exit_code": None, "signal": 9, "asked_for": True, "ended_because": None}


def test_a_phase_of_a_newer_protocol_is_unknown():
    session = pool_pb2.SessionInfo.FromString(pool_pb2.SessionInfo(id="s1").SerializeToString() + b"\x28\x63")

    assert session.phase == 99
    assert state_view(pool_pb2.PoolState(sessions=[session]))["sessions"][0]["phase"] is None


def test_of_a_sample_zero_is_not_unknown():
    sample = pool_pb2.Sample(
        accelerator_id="a",
        time_unix_s=1.5,
        utilisation_percent=0.0,
        ecc_errors_corrected=0,
        throttle_reasons=["thermal limit"],
        xid=pool_pb2.Xid(code=79, time_unix_s=1.0, meaning="the GPU has fallen off the bus"),
        processes=[pool_pb2.AcceleratorProcess(pid=7, session_id="s", memory_bytes=0)],
    )

    one, other = json.loads(f"[{samples_text([sample, pool_pb2.Sample()])}]")

    assert (one["utilisation_percent"], one["ecc_errors_corrected"], one["ecc_errors_uncorrected"]) == (0.0, 0, None)
    assert one["throttle_reasons"] == ["thermal limit"]
    assert one["xid"] == {"code": 79, "time_unix_s": 1.0, "meaning": "the GPU has fallen off the bus"}
    assert one["processes"] == [{"pid": 7, "session_id": "s", "memory_bytes": 0, "name": None, "other_user": False}]
    assert (other["power_watts"], other["xid"], other["session_id"], other["processes"]) == (None, None, None, [])
