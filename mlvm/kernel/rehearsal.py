"""Use a machine as a person will, before that person comes: a kernel, its first cells, and its end.

Whatever the guest executes for the first time is translated by an emulating QEMU, and read from the image; after a
rehearsal it has been. Nothing of it stays: the kernel is one of its own, and is killed.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import zmq
from jupyter_client.blocking.client import BlockingKernelClient

from mlvm.errors import KernelError
from mlvm.kernel import launch
from mlvm.machine import folders
from mlvm.machine.provider import Provider
from mlvm.machine.record import Record

#: Seconds a cell may take under emulation on a busy host.
PATIENCE = 120.0

#: A small piece of work with a module, so that what its users do first has been done: make something, compute, show it.
WORK = {
    "jax": "import jax.numpy; x = jax.numpy.ones((4, 4)); print((x @ x).mean(), x)",
    "matplotlib.pyplot": "matplotlib.pyplot.plot([1, 2]); matplotlib.pyplot.show()",
    "numpy": "x = numpy.random.rand(4, 4); print((x @ x).mean(), x)",
    "pandas": "x = pandas.DataFrame({'x': [1.5, 2.5], 'y': ['a', 'b']}); print(x.describe(), x)",
    "tensorflow": "x = tensorflow.ones((4, 4)); print(tensorflow.reduce_mean(x @ x), x)",
    "torch": "x = torch.rand(4, 4); print((x @ x).mean(), x)",
}


def rehearse(record: Record, provider: Provider) -> None:
    """Start a kernel in a running machine, run the cells, kill it. Raises MlvmError."""
    connection = new_connection()
    shared = folders.of(record)
    cwd = Path(shared[0].folder) if shared else None
    guest = provider.guest(record)
    kernel = launch.start_in(record, connection, provider=provider, guest=guest, env={}, cwd=cwd)
    try:
        client = client_of(kernel, connection)
        try:
            play(client, cells(record.preload))
        finally:
            client.stop_channels()
    finally:
        kernel.discard()


def cells(preload: tuple[str, ...]) -> tuple[str, ...]:
    """Return what is run: imports, a small piece of work with each, a value, an error."""
    imports = "\n".join(f"import {name}" for name in preload)
    work = tuple(f"import {name}\n{WORK[name]}" for name in preload if name in WORK)
    return (f"{imports}\nprint('rehearsed')", *work, "1 + 1", "raise KeyError('rehearsed')", *work)


def new_connection() -> dict[str, object]:
    """Return keys nobody has had before, in the words of a connection file."""
    public, secret = zmq.curve_keypair()
    return {
        "key": secrets.token_hex(32),
        "signature_scheme": "hmac-sha256",
        "curve_publickey": public.decode(),
        "curve_secretkey": secret.decode(),
    }


def client_of(kernel: launch.LiveKernel, connection: dict[str, object]) -> BlockingKernelClient:
    """Return a client of a kernel, connected."""
    client = BlockingKernelClient(
        ip="127.0.0.1",
        curve_publickey=str(connection["curve_publickey"]).encode(),
        curve_secretkey=str(connection["curve_secretkey"]).encode(),
        **kernel.ports,
    )
    client.session.key = str(connection["key"]).encode()
    client.start_channels(hb=False)
    return client


def play(client: BlockingKernelClient, cells_to_run: tuple[str, ...]) -> None:
    """Run cells to their ends, whatever comes of them. Raises KernelError when one never ends.

    What they print is not waited for: nobody knows whether the client hears it from the beginning.
    """
    try:
        client.kernel_info(reply=True, timeout=PATIENCE)
        for cell in cells_to_run:
            client.execute(cell, reply=True, timeout=PATIENCE)
    except TimeoutError as silent:
        raise KernelError("a kernel does not answer", details=str(silent)) from None
