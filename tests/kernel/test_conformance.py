"""Jupyter's own conformance suite, on a kernel of ours."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import jupyter_kernel_test
import pytest
from fakes import LoopbackProvider, loopback, loopback_record

from mlvm.events import Observer
from mlvm.kernel import kernelspec, launch
from mlvm.paths import Home
from mlvm.spec.document import Spec

pytestmark = pytest.mark.jupyter


class Conformance(jupyter_kernel_test.KernelTests):
    """What the suite needs to know of a Python kernel; `kernel_name` comes from who uses it."""

    __test__ = False

    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = [{"text": "zi", "matches": {"zip"}}]  # noqa: RUF012  (the suite's own form)
    complete_code_samples = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n"]  # noqa: RUF012
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2"]  # noqa: RUF012
    invalid_code_samples = ["import = 7q"]  # noqa: RUF012
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result = [{"code": "1+2+3", "result": "6"}]  # noqa: RUF012
    code_display_data = [  # noqa: RUF012
        {"code": "from IPython.display import HTML, display; display(HTML('<b>t</b>'))", "mime": "text/html"}
    ]
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "search")
    code_history = [{"code": "1+1", "result": "2"}]  # noqa: RUF012
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"


class TestLoopback(Conformance):
    """The whole suite on a kernel that is a process of this host."""

    __test__ = True
    undo: ExitStack
    kernel_name = "mlvm-conformance"

    @classmethod
    def setUpClass(cls) -> None:
        """Install the kernelspec and open the door to a loopback machine, then start the kernel."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            provider = stack.enter_context(loopback(folder / "machines"))
            for variable in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MLVM_HOME"):
                patch.setenv(variable, str(folder / variable.lower()))
            patch.setattr(launch, "open_machine", opener(provider))
            kernelspec.install(Spec(name="conformance"), folder / "project")
            super().setUpClass()
            cls.undo = stack.pop_all()

    @classmethod
    def tearDownClass(cls) -> None:
        """End the kernel and everything below it."""
        with cls.undo:
            super().tearDownClass()


def opener(provider: LoopbackProvider) -> object:
    """Return what stands in for `open_machine`."""

    def open_machine(place: launch.Place, *, observer: Observer) -> tuple[object, object, object]:
        record = loopback_record(Home.find(), place.machine)
        return record, provider, provider.start(record, None, observer=observer)

    return open_machine


def test_the_suite_was_run_whole(request: pytest.FixtureRequest) -> None:
    """Every test of the suite is collected: a sample that is missing would skip its test silently."""
    needed = [
        name for name in vars(jupyter_kernel_test.KernelTests) if name.startswith(("code_", "completion_"))
    ]

    unset = [name for name in needed if not getattr(Conformance, name)]

    assert unset == []
