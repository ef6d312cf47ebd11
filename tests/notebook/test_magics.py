"""`%mlvm` and `%%mlvm` in a real IPython shell; the cells run in real kernels."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest_notebook import make_machine
from fakes import LoopbackProvider
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from mlvm.errors import KernelError, MlvmError, SpecError
from mlvm.events import Observer
from mlvm.machine import table
from mlvm.machine.record import Record
from mlvm.notebook.cells import CellKernel
from mlvm.paths import Home
from mlvm.project import Project

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
