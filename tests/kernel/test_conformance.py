"""Jupyter's own conformance suite, on a kernel of ours."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import agent_world
import jupyter_kernel_test
import pytest

from mlvm.kernel import kernelspec, launch
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


class Whole(Conformance):
    """The whole suite on a kernel in a machine whose agent is real."""

    undo: ExitStack

    @classmethod
    def setUpClass(cls) -> None:
        """Run an agent, install the kernelspec, start the kernel."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlvm-t-")))
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for variable in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MLVM_HOME"):
                patch.setenv(variable, str(folder / variable.lower()))
            patch.setattr(launch, "open_machine", launch.open_machine)  # put back at the end
            patch.setattr(agent_world.table, "PROVIDERS", agent_world.table.PROVIDERS)
            stack.enter_context(agent_world.agent(folder))
            agent_world.enter(folder)
            installed = kernelspec.install(Spec(name="box"), folder / "project", name=cls.kernel_name)
            cls.adapt(installed.folder / "kernel.json", folder)
            super().setUpClass()
            cls.undo = stack.pop_all()

    @classmethod
    def adapt(cls, kernel_json: Path, folder: Path) -> None:
        """Change the kernelspec to the way that is tested."""

    @classmethod
    def tearDownClass(cls) -> None:
        """End the kernel and everything below it."""
        with cls.undo:
            super().tearDownClass()


class TestProvisioner(Whole):
    """As JupyterLab, nbclient, papermill and the console do it."""

    __test__ = True
    kernel_name = "mlvm-conformance"


class TestLauncher(Whole):
    """As VS Code, Spyder and PyCharm do it: they start `argv`, and their connections are plain."""

    __test__ = True
    kernel_name = "mlvm-launched"

    @classmethod
    def adapt(cls, kernel_json: Path, folder: Path) -> None:
        """Make Jupyter ignore our provisioner, and the launcher find the machine."""
        document = json.loads(kernel_json.read_text())
        del document["metadata"]["kernel_provisioner"]
        launcher = str(Path(__file__).parent / "launcher.py")
        document["argv"] = [sys.executable, launcher, str(folder), "{connection_file}"]
        kernel_json.write_text(json.dumps(document))


def test_the_suite_was_run_whole(request: pytest.FixtureRequest) -> None:
    """Every test of the suite is collected: a sample that is missing would skip its test silently."""
    needed = [
        name for name in vars(jupyter_kernel_test.KernelTests) if name.startswith(("code_", "completion_"))
    ]

    unset = [name for name in needed if not getattr(Conformance, name)]

    assert unset == []
