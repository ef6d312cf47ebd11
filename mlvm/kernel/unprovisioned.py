"""What a kernelspec of ours runs where Jupyter's provisioners are ignored: words instead of a kernel.

Some frontends start `argv` of a kernelspec themselves and never look at `metadata.kernel_provisioner` (VS Code, see
microsoft/vscode-jupyter#14172). Starting anything here would be a kernel on the host under the name of one in a VM.
"""

from __future__ import annotations

EXPLANATION = """\
mlvm: this kernel lives in a virtual machine, and the program that started it ignores `kernel_provisioner`,
mlvm: which is how Jupyter reaches it.
hint: JupyterLab, Notebook, nbclient, papermill and `jupyter console` can; so can, in a notebook on any
hint: Python kernel: `%load_ext mlvm`, then `%mlvm up BOX` and `%%mlvm` cells
hint: in JupyterLab this text means that mlvm is not installed in the environment that runs the server"""

if __name__ == "__main__":
    raise SystemExit(EXPLANATION)
