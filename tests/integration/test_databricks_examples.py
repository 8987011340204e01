"""Examples as Databricks documents them, with the import changed: and, as there is no GPU, NCCL and CUDA's device."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from notebook_kernel import Cell, NotebookKernel, notebook_kernel, without_colours


@pytest.fixture(scope="module")
def notebook(own_folders: Path) -> Iterator[NotebookKernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x4,A10x2")
        patch.chdir(own_folders)
        with notebook_kernel(own_folders) as kernel:
            yield kernel  # and no %load_ext: they have none


def run(notebook: NotebookKernel, code: str) -> Cell:
    cell = notebook.run(textwrap.dedent(code).strip())
    assert not cell.errors, "\n".join(cell.errors[0]["traceback"])
    return cell


def test_a_function_that_returns_its_rank(notebook: NotebookKernel) -> None:
    cell = run(
        notebook,
        """
        from nbgpu.compat.databricks import distributed
        from nbgpu.compat.databricks import runtime as rt

        @distributed(gpus=2, gpu_type="A10", remote=True)
        def hello_world(s: str) -> int:
            print("hello_world", s, rt.get_local_rank(), rt.get_global_rank())
            return rt.get_global_rank()

        hello_world.distributed(s="abc")
        """,
    )
    assert cell.result == "[0, 1]"
    assert "hello_world abc 0 0\n" in cell.text()
    assert run(notebook, "%gpu logs --rank 1").text() == "hello_world abc 1 1\n"


def test_an_mlp_trained_with_ddp(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        import os
        import torch
        import torch.distributed as dist
        import torch.nn as nn
        from nbgpu.compat.databricks import distributed

        def setup():
            dist.init_process_group("gloo")

        def cleanup():
            dist.destroy_process_group()

        class SimpleMLP(nn.Module):
            def __init__(self, input_dim=10, hidden_dim=64, output_dim=1):
                super().__init__()
                self.net = nn.Sequential(
                    nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden_dim, output_dim)
                )

            def forward(self, x):
                return self.net(x)

        @distributed(gpus=4, gpu_type="H100", remote=True)
        def run_train(num_epochs: int, batch_size: int) -> dict:
            from torch.nn.parallel import DistributedDataParallel as DDP
            from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

            setup()
            rank = int(os.environ["LOCAL_RANK"])
            device = torch.device("cpu")
            model = DDP(SimpleMLP().to(device))
            torch.manual_seed(0)
            x = torch.randn(512, 10)
            y = x.sum(1, keepdim=True)
            dataset = TensorDataset(x, y)
            sampler = DistributedSampler(dataset)
            loader = DataLoader(dataset, sampler=sampler, batch_size=batch_size)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            losses = []
            for epoch in range(num_epochs):
                sampler.set_epoch(epoch)
                model.train()
                total = 0.0
                for xb, yb in loader:
                    optimizer.zero_grad()
                    loss = nn.functional.mse_loss(model(xb.to(device)), yb.to(device))
                    loss.backward()
                    optimizer.step()
                    total += loss.item() * xb.size(0)
                losses.append(total / len(loader.dataset))
                if rank == 0:
                    print(f"Epoch {epoch}: loss {losses[-1]:.4f}")
            cleanup()
            return {"rank": rank, "losses": losses, "model": model.module}

        results = run_train.distributed(num_epochs=3, batch_size=32)
        """,
    )
    text = run(
        notebook, "[each['rank'] for each in results], results[0]['losses'][-1] < results[0]['losses'][0]"
    ).result
    assert text == "([0, 1, 2, 3], True)"
    same = """
    weights = [each["model"].net[0].weight for each in results]
    all(type(each["model"]) is SimpleMLP for each in results) and all(torch.equal(weights[0], each) for each in weights)
    """
    assert run(notebook, same).result == "True"


@pytest.mark.timeout(400)
def test_a_driver_of_ray(notebook: NotebookKernel) -> None:
    token = Path.home() / ".ray" / "auth_token"
    had_token = token.exists()
    code = """
    from nbgpu.compat.databricks.ray import ray_launch

    @ray_launch(gpus=2, gpu_type="A10", remote=True)
    def foo():
        import os
        import ray
        print(ray.state.available_resources_per_node())
        return 1

    foo.distributed()
    """
    cell = notebook.run(textwrap.dedent(code).strip(), within_s=300)  # Ray is slow to start
    assert not cell.errors, "\n".join(cell.errors[0]["traceback"])
    assert "'GPU': 2.0" in cell.text()
    assert cell.result == "1"
    left = "import os, nbgpu; os.path.exists('/tmp/nbgpu-' + nbgpu.find_call().id.rpartition('/')[2])"
    assert run(notebook, left).result == "False"
    assert token.exists() == had_token


def test_ray_launch_without_ray_says_what_to_install(
    notebook: NotebookKernel,
) -> None:
    cell = notebook.run(
        textwrap.dedent(
            """
            import importlib.util
            find = importlib.util.find_spec
            importlib.util.find_spec = lambda name, *rest: None if name == "ray" else find(name, *rest)
            from nbgpu.compat.databricks.ray import ray_launch

            @ray_launch(gpus=2, gpu_type="A10", remote=True)
            def driver():
                import ray
                return ray.cluster_resources()

            driver.distributed()
            """
        ).strip()
    )
    text = without_colours("\n".join(cell.errors[0]["traceback"]))
    assert "LaunchError: ray_launch needs Ray, which is not installed in this notebook's environment" in text
    assert "hint: pip install ray" in text
    run(notebook, "importlib.util.find_spec = find")
