"""A notebook attached to a machine, as a frontend sees it: a real ipykernel, its guests on loopback."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager
from notebook_frontend import PATIENCE, Frontend, Message

pytestmark = pytest.mark.jupyter


def test_cells_run_in_the_guest_until_detached(notebook: Frontend) -> None:
    local = notebook.run("%%local\nimport os; print(os.getpid())").text
    inside = notebook.run("import os; print(os.getpid())").text

    assert notebook.run("%mlvm detach").reply["status"] == "ok"

    after = notebook.run("print(os.getpid())").text
    assert inside != local
    assert after == local


def test_a_mark_says_where_a_cell_ran(notebook: Frontend) -> None:
    assert notebook.run("1").marks == ["ran in box"]
    assert notebook.run("%%local\n1").marks == ["ran on the host"]


def test_outputs_keep_their_order(notebook: Frontend) -> None:
    ran = notebook.run(
        "import sys\nprint('a', flush=True)\nprint('b', file=sys.stderr, flush=True)\ndisplay('c')\nprint('d')\n'e'"
    )

    assert ran.kinds == [
        "status", "execute_input", "stream", "stream", "display_data", "stream", "execute_result",
        "display_data", "status",
    ]  # fmt: skip


def test_all_that_is_said_is_of_one_session(notebook: Frontend) -> None:
    """JupyterLab drops messages that wait to be looked at when one of another session comes."""
    notebook.run("import ipywidgets as w")
    request = notebook.client.execute("w.IntSlider()")
    ran = notebook.follow(request)
    local = notebook.run("%%local\n'here'")

    assert {"status", "comm_open", "execute_result", "display_data"} <= set(ran.kinds)
    said = {one["header"]["session"] for one in [*ran.heard, *local.heard]}
    assert said == {ran.answer["header"]["session"]}


def test_numbers_go_on_across_the_host(notebook: Frontend) -> None:
    first = notebook.run("'x'")
    local = notebook.run("%%local\n'y'")
    second = notebook.run("'z'")

    counts = [ran.contents("execute_result")[0]["execution_count"] for ran in (first, local, second)]
    inputs = [ran.contents("execute_input")[0]["execution_count"] for ran in (first, local, second)]
    assert counts == inputs == list(range(counts[0], counts[0] + 3))
    assert notebook.run(f"print(_{counts[0]}, _{counts[2]})").text == "x z\n"


def test_an_error_has_the_guests_traceback(notebook: Frontend) -> None:
    ran = notebook.run("def fail():\n    return 1 / 0\nfail()")

    assert ran.reply["ename"] == "ZeroDivisionError"
    assert "return" in "".join(ran.contents("error")[0]["traceback"])


def test_cells_behind_a_failed_one_are_aborted(notebook: Frontend) -> None:
    first = notebook.client.execute("import time; time.sleep(.5); 1 / 0")
    second = notebook.client.execute("print('no')")

    assert notebook.reply(first)["status"] == "error"
    assert notebook.reply(second)["status"] == "aborted"
    assert notebook.run("print('on')").text == "on\n"


def test_updates_and_clear_output(notebook: Frontend) -> None:
    ran = notebook.run(
        "from IPython.display import clear_output\nh = display('a', display_id='one')\n"
        "h.update('b')\nclear_output(wait=True)"
    )

    assert ran.kinds[2:5] == ["display_data", "update_display_data", "clear_output"]
    assert ran.contents("update_display_data")[0]["transient"]["display_id"] == "one"


@pytest.mark.parametrize(
    ("call", "password"), [("input('who? ')", False), ("__import__('getpass').getpass('who? ')", True)]
)
def test_input_is_asked_of_the_frontend(notebook: Frontend, call: str, password: bool) -> None:
    asked: list[Message] = []

    def answer(message: Message) -> str:
        asked.append(message["content"])
        return "Ada"

    ran = notebook.follow(notebook.client.execute(f"print({call})", allow_stdin=True), on_stdin=answer)

    assert ran.text == "Ada\n"
    assert asked == [{"prompt": "who? ", "password": password}]


def test_an_interrupt_reaches_the_guest(
    notebook: Frontend, started: tuple[KernelManager, Frontend, Path]
) -> None:
    request = notebook.client.execute("import time\nprint('go', flush=True)\ntime.sleep(60)")
    while notebook.client.get_iopub_msg(timeout=PATIENCE)["msg_type"] != "stream":
        pass

    started[0].interrupt_kernel()

    assert notebook.follow(request).reply["ename"] == "KeyboardInterrupt"
    assert notebook.run("print('on')").text == "on\n"


def test_an_interrupt_ends_a_question(
    notebook: Frontend, started: tuple[KernelManager, Frontend, Path]
) -> None:
    request = notebook.client.execute("input('who? ')", allow_stdin=True)
    notebook.client.get_stdin_msg(timeout=PATIENCE)

    started[0].interrupt_kernel()

    assert notebook.follow(request).reply["ename"] == "KeyboardInterrupt"


def test_completion_inspection_completeness_and_history_are_the_guests(notebook: Frontend) -> None:
    notebook.run("only_in_the_guest = 41")

    client = notebook.client
    assert "only_in_the_guest" in notebook.ask(client.complete("only_in_t"))["matches"]
    assert "int" in notebook.ask(client.inspect("only_in_the_guest"))["data"]["text/plain"]
    assert notebook.ask(client.is_complete("for i in range(3):"))["status"] == "incomplete"
    history = notebook.ask(client.history(hist_access_type="tail", n=3, output=False, raw=True))["history"]
    assert history[-1][2] == "only_in_the_guest = 41"


def test_help_magics_shell_and_time(notebook: Frontend) -> None:
    helped = notebook.run("len?")
    timed = notebook.run("%%time\n!echo from the shell")

    assert "number of items" in helped.reply["payload"][0]["data"]["text/plain"]
    assert "from the shell" in timed.text
    assert "Wall time" in timed.text


def test_silent_and_user_expressions(notebook: Frontend) -> None:
    silent = notebook.run("quiet = 1; print('x'); quiet", silent=True)
    asked = notebook.run("", store_history=False, user_expressions={"two": "1 + 1"})

    assert silent.marks == []
    assert "execute_result" not in silent.kinds
    assert asked.reply["user_expressions"]["two"]["data"]["text/plain"] == "2"


def test_a_cell_of_both_kinds_is_refused_and_not_run(notebook: Frontend) -> None:
    ran = notebook.run("ran_anyway = 1\n%mlvm status")

    assert ran.reply["ename"] == "KernelError"
    assert "not run" in ran.reply["evalue"]
    assert (
        notebook.run("'ran_anyway' in globals()").contents("execute_result")[0]["data"]["text/plain"]
        == "False"
    )
    assert (
        notebook.run("%%local\n'ran_anyway' in globals()").contents("execute_result")[0]["data"]["text/plain"]
        == "False"
    )


def test_large_output_arrives_whole(notebook: Frontend) -> None:
    ran = notebook.run("for _ in range(100): print('x' * 999_999)")

    assert len(ran.text) == 100_000_000


def test_many_small_outputs_arrive_whole(notebook: Frontend) -> None:
    ran = notebook.run("for i in range(3000): print(i, flush=True)")

    assert ran.text == "".join(f"{i}\n" for i in range(3000))


def test_widgets_both_ways_with_output_captured(notebook: Frontend) -> None:
    ran = notebook.run(
        "import ipywidgets as w\ns = w.IntSlider()\nseen = []\n"
        "s.observe(lambda c: (seen.append(c.new), print('moved', c.new)), 'value')\ns"
    )
    (slider,) = [
        one["comm_id"]
        for one in ran.contents("comm_open")
        if one["data"]["state"].get("_model_name") == "IntSliderModel"
    ]
    view = ran.contents("execute_result")[0]["data"]["application/vnd.jupyter.widget-view+json"]

    heard = notebook.comm(
        "comm_msg",
        {"comm_id": slider, "data": {"method": "update", "state": {"value": 7}, "buffer_paths": []}},
    )

    assert view["model_id"] == slider
    assert [one["content"]["text"] for one in heard if one["msg_type"] == "stream"] == ["moved 7\n"]
    assert [one["msg_type"] for one in heard][0 :: len(heard) - 1] == ["status", "status"]
    assert notebook.run("print(seen, s.value)").text == "[7] 7\n"


def test_every_comm_is_known_and_closed(notebook: Frontend) -> None:
    ran = notebook.run("import ipywidgets as w\nb = w.Button()\nb")
    opened = {one["comm_id"] for one in ran.contents("comm_open")}

    assert opened <= set(notebook.ask(notebook.client.comm_info())["comms"])
    closed = notebook.run("b.close()").contents("comm_close")
    assert {one["comm_id"] for one in closed} <= opened
    assert not {one["comm_id"] for one in closed} & set(notebook.ask(notebook.client.comm_info())["comms"])


def test_the_state_of_all_widgets_is_asked_of_the_guest(notebook: Frontend) -> None:
    notebook.run("import ipywidgets as w\nx = w.IntText(value=12)\nx")

    notebook.comm(
        "comm_open",
        {"comm_id": "all", "target_name": "jupyter.widget.control", "data": {}},
        metadata={"version": "1.0.0"},
    )
    heard = notebook.comm("comm_msg", {"comm_id": "all", "data": {"method": "request_states"}})

    (states,) = [one["content"]["data"]["states"] for one in heard if one["msg_type"] == "comm_msg"]
    assert any(state["state"].get("value") == 12 for state in states.values())


def test_with_widgets_on_both_sides_each_is_asked_where_it_lives(notebook: Frontend) -> None:
    """A frontend that is refused the state of all at once asks every comm it is told of."""
    notebook.run("import ipywidgets as w\nthere = w.IntText(value=31)")
    notebook.run("%%local\nimport ipywidgets\nhere = ipywidgets.IntText(value=32)")

    heard = notebook.comm(
        "comm_open",
        {"comm_id": "both", "target_name": "jupyter.widget.control", "data": {}},
        metadata={"version": "1.0.0"},
    )
    states = []
    for comm_id in notebook.ask(notebook.client.comm_info("jupyter.widget"))["comms"]:
        asked = {"comm_id": comm_id, "data": {"method": "request_state"}}
        states += [
            one["content"]["data"]["state"]
            for one in notebook.comm("comm_msg", asked)
            if one["msg_type"] == "comm_msg"
        ]
    notebook.run("%%local\nipywidgets.Widget.close_all()")

    assert [one["content"]["comm_id"] for one in heard if one["msg_type"] == "comm_close"] == ["both"]
    assert {31, 32} <= {state.get("value") for state in states if isinstance(state.get("value"), int)}


def test_binary_buffers_both_ways(notebook: Frontend) -> None:
    notebook.run(
        "def opened(comm, message):\n"
        "    @comm.on_msg\n"
        "    def _(m): comm.send({'n': len(m['buffers'])}, buffers=[bytes(m['buffers'][0])[::-1]])\n"
        "get_ipython().kernel.comm_manager.register_target('echo', opened)"
    )
    notebook.comm("comm_open", {"comm_id": "e", "target_name": "echo", "data": {}})

    heard = notebook.comm("comm_msg", {"comm_id": "e", "data": {}}, buffers=[b"abc\0\xff"])

    (answer,) = [one for one in heard if one["msg_type"] == "comm_msg"]
    assert answer["content"]["data"] == {"n": 1}
    assert [bytes(one) for one in answer["buffers"]] == [b"\xff\0cba"]


def test_a_file_is_uploaded_into_the_guest(notebook: Frontend) -> None:
    ran = notebook.run("import ipywidgets as w\nu = w.FileUpload()\nu")
    (upload,) = [
        one["comm_id"]
        for one in ran.contents("comm_open")
        if one["data"]["state"].get("_model_name") == "FileUploadModel"
    ]
    file = {"name": "a.bin", "type": "", "size": 3, "last_modified": 0}

    notebook.comm(
        "comm_msg",
        {
            "comm_id": upload,
            "data": {
                "method": "update",
                "state": {"value": [file]},
                "buffer_paths": [["value", 0, "content"]],
            },
        },
        buffers=[b"\0\1\2"],
    )

    assert (
        notebook.run("print(u.value[0].name, bytes(u.value[0].content))").text == "a.bin b'\\x00\\x01\\x02'\n"
    )


def test_much_output_takes_little_memory_here(notebook: Frontend) -> None:
    peak = "%%local\nprint([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')][0])"
    before = int(notebook.run(peak).text)
    ran = notebook.run("for _ in range(300): print('x' * 999_999)")

    assert sum(len(one["text"]) for one in ran.contents("stream")) == 300_000_000
    grown = int(notebook.run(peak).text) - before
    assert grown < 600_000, f"{grown} KiB for 300 MB"


def test_an_output_widget_takes_what_is_printed(notebook: Frontend) -> None:
    ran = notebook.run("import ipywidgets as w\nout = w.Output()\nwith out:\n    print('inside')")

    set_to = [
        one["data"]["state"]["msg_id"]
        for one in ran.contents("comm_msg")
        if "msg_id" in one["data"].get("state", {})
    ]
    assert set_to == [ran.heard[0]["parent_header"]["msg_id"], ""]


def test_a_subshell_has_its_counterpart_in_the_guest(notebook: Frontend) -> None:
    """What a frontend sends on a subshell runs while the main shell's cell does, in the guest as well."""
    client = notebook.client
    client.control_channel.send(client.session.msg("create_subshell_request", {}))
    subshell = client.get_control_msg(timeout=PATIENCE)["content"]["subshell_id"]
    notebook.run("flag = []")

    cell = client.execute("import time\nwhile not flag: time.sleep(.05)\nflag[0]")
    beside = client.session.msg("execute_request", {"code": "flag.append(5)", "silent": True})
    beside["header"]["subshell_id"] = subshell
    client.shell_channel.send(beside)

    assert notebook.reply(beside["header"]["msg_id"])["status"] == "ok"
    assert notebook.follow(cell).contents("execute_result")[0]["data"]["text/plain"] == "5"


def test_push_and_pull(notebook: Frontend) -> None:
    notebook.run("%%local\nimport numpy as np\na = np.arange(6.).reshape(2, 3); d = {'k': (1, {2})}")

    pushed = notebook.run("%mlvm push a d")
    notebook.run("a *= 2; d['k'] = [a]")
    pulled = notebook.run("%mlvm pull a d")
    local = notebook.run("%%local\nprint(a.tolist(), len(d['k']))")

    assert pushed.reply["status"] == pulled.reply["status"] == "ok"
    assert "ndarray 2 x 3" in pulled.contents("execute_result")[0]["data"]["text/plain"]
    assert local.text == "[[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]] 1\n"


def test_what_could_run_code_here_is_not_pulled_unless_trusted(notebook: Frontend) -> None:
    notebook.run(
        "class Evil:\n    def __reduce__(self): return (__import__('os').putenv, ('EVIL', '1'))\n"
        "evil = Evil()\nfrom fractions import Fraction\nf = Fraction(1, 3)"
    )

    refused = notebook.run("%mlvm pull evil")
    trusted = notebook.run("%mlvm pull f --trust")

    assert (
        refused.reply["evalue"]
        == "cannot pull: `evil`: a value of type `__main__.Evil` cannot cross as plain data"
    )
    assert trusted.reply["status"] == "ok"
    assert notebook.run("%%local\nprint(f)").text == "1/3\n"


def test_what_the_guest_does_not_know_is_an_error_and_nothing_is_pushed(notebook: Frontend) -> None:
    notebook.run("%%local\nclass Own: pass\nown, plain = Own(), 1")

    refused = notebook.run("%mlvm push plain own")

    assert refused.reply["evalue"].startswith("cannot push: what came cannot be opened: AttributeError: ")
    assert notebook.run("print('plain' in globals())").text == "False\n"
    assert notebook.run("%mlvm push nothing").reply["evalue"] == "there is no variable `nothing` on the host"
    assert notebook.run("%mlvm pull nothing").reply["evalue"] == "cannot pull: there is no `nothing`"


def test_no_more_than_the_limit_crosses(notebook: Frontend) -> None:
    notebook.run("big = b'x' * 2_000_000")

    assert "2000" in notebook.run('%mlvm pull big --limit "1 MB"').reply["evalue"]


def test_single_cells_elsewhere_while_attached(notebook: Frontend) -> None:
    ran = notebook.run("%%mlvm box\nimport os\nprint(os.getpid())\n'value'")

    assert ran.text == notebook.run("print(os.getpid())").text
    assert (
        ran.contents("execute_result")[0]["execution_count"]
        == ran.contents("execute_input")[0]["execution_count"]
    )


def test_a_dead_kernel_is_told_and_nothing_runs_on_the_host(notebook: Frontend) -> None:
    began = time.monotonic()
    died = notebook.run("import os; os._exit(3)")
    took = time.monotonic() - began
    refused = notebook.run("leaked = 1")
    completed = notebook.ask(notebook.client.complete("leak"))
    local = notebook.run("%%local\n'leaked' in globals()")

    assert died.reply["evalue"].startswith("the kernel in machine `box` died ")
    assert died.reply["evalue"].endswith(" (outcome unknown)")
    assert refused.reply["evalue"] == "the kernel in machine `box` died before this cell (never ran)"
    assert completed["status"] == "error"
    assert local.contents("execute_result")[0]["data"]["text/plain"] == "False"
    assert took < 20
    assert notebook.run("%mlvm attach box").reply["status"] == "ok"
    assert notebook.run("print('new')").text == "new\n"


def test_detaching_restores_everything(notebook: Frontend) -> None:
    state = (
        "%%local\nk = get_ipython().kernel\n"
        "print(sorted(n for n in k.__dict__ if n.startswith('do_')),\n"
        "      *(k.shell_handlers[n].__qualname__ for n in ('comm_msg', 'execute_request')))"
    )
    attached = notebook.run(state).text
    notebook.run("%mlvm detach")
    detached = notebook.run(state).text
    notebook.run("%mlvm stop box")
    ended = notebook.run(state).text

    assert "do_complete" in attached
    assert "Attachment._execute" in attached
    assert detached.startswith("[] ")
    assert ended == "[] CommManager.comm_msg IPythonKernel.execute_request\n"
